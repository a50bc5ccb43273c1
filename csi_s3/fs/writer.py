"""A file being changed through this mount: its bytes so far, and its way into the store.

The file owns them, not a handle: page write-back, fsync through another descriptor and the last
release come with any handle or none. Written from its start to its end only, until staging comes;
up to one part it stays in memory and is one PUT, above that parts leave while it is written.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from csi_s3.aio import finish
from csi_s3.errors import (
    ExistsError,
    NotFoundError,
    NotImplementedByStoreError,
    PreconditionFailedError,
    SpoolFullError,
    StaleError,
    UnsupportedError,
    VolumeError,
)
from csi_s3.fs.budget import MemoryBudget
from csi_s3.fs.upload import PartUpload
from csi_s3.s3.store import MIN_PART_BYTES, Buffer, ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

ABORT_WITHIN_S = 100.0
GRANULE_BYTES = 256 << 10  # memory is reserved in such pieces as a file grows


class FileWriter:
    """Lifetime: from create or truncation to the last release, or longer while it is stored.

    Concurrency: one lock orders writes and stores. Cancellation: a store runs in a task of its
    owner (the file system), so a handler that gives up does not stop it.

    size: bytes accepted. base: what the store holds of this file, if anything.
    is_dirty: the store does not hold all of it. was_written: since it was stored last.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: Callable[[], str],
        *,
        part_bytes: int,
        budget: MemoryBudget,
        group: asyncio.TaskGroup,
        progress: Callable[[], None],
        exclusive: bool = False,
    ) -> None:
        self.size = 0
        self.base: ObjectInfo | None = None
        self.is_dirty = True
        self.was_written = False
        self.is_discarded = False
        self._store, self._key, self._part_bytes = store, key, part_bytes
        self._budget, self._group, self._progress = budget, group, progress
        self._exclusive = exclusive
        self._tail = bytearray()  # the bytes from _tail_start to size
        self._tail_start = 0
        self._reserved = 0
        self._upload: PartUpload | None = None
        self._copied = 0  # so many first bytes of the upload are those of `base`
        self._failure: VolumeError | None = None
        self._lock = asyncio.Lock()

    def try_write(self, offset: int, data: bytes) -> bool:
        """Accept bytes if that needs no waiting; else False, and `write` is to be called."""
        fits = len(self._tail) + len(data) <= min(self._reserved, self._part_bytes)
        if not data or self._failure or offset != self.size or self._lock.locked() or not fits:
            return False
        self._append(data)
        self.size += len(data)
        self.is_dirty = self.was_written = True
        return True

    async def write(self, offset: int, data: bytes) -> None:
        """Accept bytes at the end of the file; waits for memory.

        Raises:
            UnsupportedError: somewhere else than at its end.
            VolumeError: an earlier part could not be stored; final for this file.

        """
        async with self._lock:
            if self._failure is not None:
                raise self._failure
            if offset != self.size:
                raise UnsupportedError(
                    f"write at {offset} of a file of {self.size} bytes",
                    "files are written from start to end, for now",
                )
            if data:
                self.is_dirty = self.was_written = True
            view = memoryview(data)
            while view:
                view = view[await self._accept(view) :]

    async def _accept(self, data: memoryview) -> int:
        """Take what fits into the part that is being filled, once there is room."""
        limit = self._part_bytes if self._upload is None else self._upload.part_bytes
        if len(self._tail) >= limit:
            await self._send_tail()
        n = min(len(data), limit - len(self._tail))
        missing = len(self._tail) + n - self._reserved
        if missing > 0:
            missing = -(-missing // GRANULE_BYTES) * GRANULE_BYTES
            if not self._budget.has_room(missing) and len(self._tail) >= MIN_PART_BYTES:
                await self._send_tail()  # its memory comes back, whoever else waits
                return 0
            await self._budget.reserve(missing)
            self._reserved += missing
            self._progress()
        self._append(data[:n])
        self.size += n
        return n

    def _append(self, data: Buffer) -> None:
        try:
            self._tail += data
        except BufferError:  # an ended request's view of it is not collected yet
            self._tail = self._tail + data

    async def _send_tail(self) -> None:
        if self.is_discarded:
            raise SpoolFullError(
                f"an unlinked file of more than {self._part_bytes} bytes",
                "keep temporary files on a local disk",
            )
        upload = await self._uploading()
        data, self._tail = self._tail, bytearray()
        self._tail_start = self.size
        spare, self._reserved = self._reserved - len(data), 0
        self._budget.release(spare)
        try:
            await upload.part(data)
        except VolumeError as exc:
            self._budget.release(len(data))
            await self._fail(exc)
            raise

    async def _uploading(self) -> PartUpload:
        if self._upload is None:
            self._upload = PartUpload(
                self._store,
                self._key(),
                part_bytes=self._part_bytes,
                budget=self._budget,
                group=self._group,
                progress=self._progress,
            )
            if self._tail_start > 0:  # writing on after a flush: the store has the beginning
                assert self.base is not None  # noqa: S101 - only a store moves _tail_start then
                self._copied = self.base.size
                await self._upload.copy(self.base)
        return self._upload

    async def store(self) -> ObjectInfo | None:
        """Bring all bytes into the store, if they are not there. Returns what it then holds.

        Raises:
            ExistsError: created exclusively, and somebody else made the object meanwhile.
            StaleError: writing on in an object that somebody replaced meanwhile.
            VolumeError: what the store answered. A single PUT may be tried again; parts are final.

        """
        async with self._lock:
            if self._failure is not None:
                raise self._failure
            if not self.is_dirty or self.is_discarded:
                return self.base
            self.base = await (self._put() if self._is_small() else self._complete())
            self.is_dirty = self.was_written = False
            self._progress()
            return self.base

    def _is_small(self) -> bool:
        return self._upload is None and self._tail_start == 0

    async def _put(self) -> ObjectInfo:
        return await self._exclusively(partial(self._store.put, self._key(), self._tail))

    async def _exclusively(self, request: Callable[..., Awaitable[ObjectInfo]]) -> ObjectInfo:
        """Make the object; if it was created exclusively here, only where there is none."""
        if not self._exclusive or self.base is not None:
            return await request()
        try:
            return await request(if_none_match=True)
        except PreconditionFailedError as exc:
            raise ExistsError(
                f"{self._key()}: created exclusively here, but somebody else made it meanwhile"
            ) from exc
        except NotImplementedByStoreError as exc:
            log.info("%s: exclusive on this mount only: %s", self._key(), exc)
            return await request()

    async def _complete(self) -> ObjectInfo:
        try:
            if self._tail:
                await self._send_tail()
            upload = await self._uploading()
            info = await self._exclusively(upload.complete)
        except VolumeError as exc:
            await self._fail(exc)
            raise
        self._upload, self._copied = None, 0
        return info

    async def _fail(self, exc: VolumeError) -> None:
        """A part is lost: the file can never be whole, so nothing of it is kept."""
        self._failure = exc
        self._free_tail()
        upload, self._upload = self._upload, None
        if upload is not None:
            await upload.abort()

    async def reset(self) -> None:
        """Truncate to nothing: what was written is dropped, the store is told at the next store."""
        async with self._lock:
            upload, self._upload = self._upload, None
            self._copied = 0
            self._free_tail()
            self._tail_start = self.size = 0
            self._failure = None
            self.is_dirty, self.was_written = True, False
            if upload is not None:
                await finish(upload.abort, within_s=ABORT_WITHIN_S)

    async def discard(self, remove: Callable[[], Awaitable[None]]) -> None:
        """Remove the name, then never store it: no store can be under way meanwhile.

        What is in memory stays readable and writable. A failure of `remove` changes nothing.
        """
        async with self._lock:
            await remove()
            self.is_discarded = True
            upload, self._upload = self._upload, None
            if upload is not None:
                await finish(upload.abort, within_s=ABORT_WITHIN_S)

    def cancel(self) -> None:
        """Stop sending; plain code, at the end of the mount."""
        if self._upload is not None:
            self._upload.cancel()

    def close(self) -> None:
        """Give the memory back; nothing may be under way."""
        self._free_tail()

    def _free_tail(self) -> None:
        self._tail = bytearray()
        self._budget.release(self._reserved)
        self._reserved = 0

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes written so far, wherever they are.

        Raises:
            UnsupportedError: they left in parts of an upload that is not complete.
            StaleError: the store's beginning of the file was replaced by somebody else.

        """
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        if offset >= self._tail_start:
            return bytes(self._tail[offset - self._tail_start : end - self._tail_start])
        stop = min(end, self._tail_start)
        readable = self._copied if self._upload is not None else self._tail_start
        if self.base is None or stop > min(readable, self.base.size):
            raise UnsupportedError(
                f"{self._key()}: read of bytes that are in an upload not yet complete",
                "close the file first",
            )
        tail = bytes(self._tail[: end - stop])
        try:
            chunk = await self._store.read_range(
                self.base.key, offset, stop - offset, etag=self.base.etag
            )
        except NotFoundError as exc:
            raise StaleError(f"{self.base.key}: deleted while it was written") from exc
        if len(chunk.data) != stop - offset:
            raise StaleError(f"{self.base.key}: shorter than what was written")
        return bytes(chunk.data) + tail
