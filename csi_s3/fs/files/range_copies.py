"""copy_file_range(2): bytes of a stored object follow in another file without crossing the network.

The copy is made inside S3 at the time of the call, as parts of the new file's upload: it is what
the source was then, and nothing that becomes of the source changes or loses it. Anything else is
left to the kernel (`NotCopiedError`), which reads and writes: what is not in S3 as it is, less than
a part, a place that is not the end of the file.

Rejected: to remember where the bytes are and copy them when the file is stored. What was accepted
would be lost if another client replaced the source in between.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from csi_s3.errors import (
    InvalidRangeError,
    NotCopiedError,
    NotImplementedByStoreError,
    NotWritableError,
    VolumeError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.names.inode import FileHandle, Inode
from csi_s3.fs.write.dirty_file import DirtyFile
from csi_s3.fs.write.pending_write import PendingWrite
from csi_s3.s3.store import Buffer, ObjectInfo

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 30  # of one call: 16 parts at once; the program asks again for the rest


class RangeCopies:
    """Concurrency and cancellation: as `FileSystem`, whose part it is."""

    def __init__(
        self,
        context: MountContext,
        write: Callable[[Inode, DirtyFile, PendingWrite], Awaitable[int]],
    ) -> None:
        """write: has bytes accepted; returns how many were."""
        self._context, self._store, self._write = context, context.store, write
        self.most_bytes = MOST_BYTES
        self._is_refused = False  # the store does not know such requests

    async def copy(
        self, source: FileHandle, start: int, target: FileHandle, at: int, length: int
    ) -> int:
        """Copy a range of one open file to the end of another. Returns how many bytes; 0: the end.

        Raises:
            NotWritableError, InvalidRangeError: as on a local disk.
            NotCopiedError: it is to be read and written; nothing has changed.
            VolumeError: as `write`, of the few bytes before the first whole part.

        """
        name = target.inode.name
        if not target.is_writable:
            raise NotWritableError(f"{name}: not open for writing")
        is_valid, length = min(start, at, length) >= 0, min(length, source.inode.size - start)
        overlaps = source.inode is target.inode and abs(start - at) < length
        if not is_valid or overlaps:
            raise InvalidRangeError(f"{name}: {length} bytes from {start} to {at}")
        if length <= 0:
            return 0
        writer = target.inode.writer
        stored = None if self._is_refused else _stored_range(source.inode, start, length)
        missing = None if writer is None else writer.missing_for_copy(at)
        if writer is None or stored is None or missing is None:
            raise NotCopiedError(f"{name}: {length} bytes to {at}")
        info, length = stored
        least = self._store.limits.min_part_bytes
        if length - missing < least:
            raise NotCopiedError(f"{name}: {length} bytes are less than a part")
        if missing:  # with these, what is before the copy is a part
            data = await self._read(info, start, missing)
            return await self._write(target.inode, writer, PendingWrite(at, data))
        most = length if length < self.most_bytes + least else self.most_bytes
        return await self._copy(writer, at, info, start, most)

    async def _copy(
        self, writer: DirtyFile, at: int, source: ObjectInfo, start: int, length: int
    ) -> int:
        write = PendingWrite(at, b"")
        try:
            copied = await self._context.progress_timeout.wait(
                partial(writer.copy, write, source, start, length),
                f"copy of {source.key}",
                progress=lambda: writer.progress,
                leave=write.stop,
            )
        except VolumeError as exc:
            if isinstance(exc, NotImplementedByStoreError):
                log.info("files are copied by reading and writing from now on: %s", exc)
                self._is_refused = True
            raise NotCopiedError(f"{source.key}: not copied inside S3: {exc}") from exc
        if not copied:
            raise NotCopiedError(f"{source.key}: not copied inside S3: it changed, or is renamed")
        return copied

    async def _read(self, source: ObjectInfo, start: int, length: int) -> Buffer:
        budget = self._context.memory.buffers
        budget.take(length)
        try:
            return (await self._store.read_range(source.key, start, length, etag=source.etag)).data
        except VolumeError as exc:
            raise NotCopiedError(f"{source.key}: not copied inside S3: {exc}") from exc
        finally:
            budget.release(length)


def _stored_range(inode: Inode, start: int, length: int) -> tuple[ObjectInfo, int] | None:
    """The stored version that has the byte at start, and how many bytes from there.

    None: it is not in S3 as it is, or cannot be read there.
    """
    if inode.writer is not None:
        return inode.writer.stored_range(start, length)
    info = inode.info
    if info is None or not inode.has_version or info.archived:
        return None
    return info, length
