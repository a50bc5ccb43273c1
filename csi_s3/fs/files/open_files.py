"""Open files: open, read, write, close and fsync.

docs/semantics.md (Reading, Writing) has the rules. `write_back` stores what was written, `reader`
and `dirty_file` move the bytes.
"""

import asyncio
import os
from collections.abc import Sequence
from functools import partial

from csi_s3.errors import (
    ExistsError,
    FileTooLargeError,
    InvalidRangeError,
    IsDirectoryError,
    NoDataError,
    NotFoundError,
    NotWritableError,
    ObjectChangedError,
    StaleError,
    StoreTimeoutError,
    UnsupportedError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import child_key, decode_name
from csi_s3.fs.files.handles import Handles, Opening
from csi_s3.fs.files.range_copies import RangeCopies
from csi_s3.fs.files.stored_versions import StoredVersion, StoredVersions
from csi_s3.fs.files.waiting_writes import WaitingWrites
from csi_s3.fs.files.write_back import WriteBack
from csi_s3.fs.names.attributes import Attributes
from csi_s3.fs.names.exclusive_create import ExclusiveCreate
from csi_s3.fs.names.inode import FileHandle, Inode, Kind
from csi_s3.fs.names.tree import Tree
from csi_s3.fs.read.reader import Reader
from csi_s3.fs.write.dirty_file import DirtyFile
from csi_s3.fs.write.pending_write import PendingWrite
from csi_s3.fs.write.waiting_bytes import WaitingBytes
from csi_s3.s3.store import Buffer, ObjectInfo

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 0x1, 0x2, 0x10
FALLOCATE_MODES = (
    0,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_ZERO_RANGE,
    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
)
MAX_FILE_BYTES = (1 << 63) - 1  # what an offset of the kernel can say


class OpenFiles:
    """Concurrency and cancellation: as `FileSystem`, whose part it is."""

    def __init__(
        self,
        context: MountContext,
        *,
        tree: Tree,
        handles: Handles,
        write_back: WriteBack,
        waiting_writes: WaitingWrites,
    ) -> None:
        self._context, self._tree, self._handles = context, tree, handles
        self._store, self._clock, self._key_lock = context.store, context.clock, context.key_lock
        self._progress_timeout = context.progress_timeout
        self._write_back = write_back
        self._versions = StoredVersions(context, tree)
        self._range_copies = RangeCopies(context, self._write)
        self._waiting_writes = waiting_writes
        self._exclusive_create = ExclusiveCreate(context.store)
        self._inodes = tree.inodes

    async def open(self, ino: int, flags: int) -> int:
        """Open a file; asks S3 for its version, and the answer brings the first bytes along.

        The kernel may keep the pages it has: pages of another version are gone when this returns,
        and the size it knows is that of the version that is opened.

        Raises:
            StaleError: another version is there than the kernel knows; look the name up again.
            NotPermittedError: an existing object is to be changed, without allow-overwrite.
            TooManyOpenFilesError: there is no memory for another handle.

        """
        inode = self._inodes.get(ino)
        if inode.is_dir:
            raise IsDirectoryError(f"{inode.name}: is a directory")
        with self._handles.opening(inode.name) as opening:
            return await self._open(inode, flags, opening)

    async def _open(self, inode: Inode, flags: int, opening: Opening) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            return await self._open_to_write(inode, flags, opening)
        replaced_at = inode.replaced_at
        self._tree.sizes.check(inode, replaced_at)
        if inode.writer is not None:
            return opening.add(FileHandle(inode))
        is_fresh = self._tree.versions.is_fresh(inode)
        current = None if is_fresh else await self._versions.current(inode, with_bytes=True)
        self._tree.sizes.check(inode, replaced_at)
        reader = None
        if isinstance(current, StoredVersion) and current.first:
            reader = Reader(self._context, current.info, first=current.first)
        inode.note_pages()
        return opening.add(FileHandle(inode, reader=reader))

    async def _open_to_write(self, inode: Inode, flags: int, opening: Opening) -> int:
        write_back, replaced_at = self._write_back, inode.replaced_at
        keeps_bytes = not flags & os.O_TRUNC
        if keeps_bytes:
            self._tree.sizes.check(inode, replaced_at)
            await self._versions.ask_to_change(inode)
        async with self._tree.versions.hold(inode.ino):
            write_back.check(inode, "opening it for writing")
            if keeps_bytes:
                self._tree.sizes.check(inode, replaced_at)
            if inode.writer is None:
                write_back.begin(inode, base=inode.info if keeps_bytes else None)
                inode.note_pages()  # the kernel keeps the pages that it writes
            elif not keeps_bytes:
                await self._write_back.empty(inode, inode.writer)
            inode.note_size()  # O_TRUNC: the kernel makes the size 0 itself
            return opening.add(FileHandle(inode, is_writable=True))

    async def _claim(self, above: Inode, name: str) -> ObjectInfo | None:
        async with self._key_lock.change(lambda: self._key(above, name)) as (key,):
            info = await self._exclusive_create.claim(key)
        if info is not None:
            self._tree.directory(above).note(name, info)
        return info

    async def create(self, parent: int, name: bytes, flags: int) -> tuple[int, Attributes]:
        """Make a file that is in S3 at its first fsync, close after a write, or last release.

        With O_EXCL an empty one is there when this returns, if the store can tell one winner.

        Raises:
            ExistsError: O_EXCL, and the name is there.
            TooManyOpenFilesError: as of `open`.

        """
        await self._tree.name_changes.settled((parent, decode_name(name)))
        above, text, _ = self._tree.new_name(parent, name, is_dir=False)
        with self._handles.opening(text) as opening, await self._tree.room(parent, text):
            return await self._create(above, text, flags, opening)

    async def _create(
        self, above: Inode, text: str, flags: int, opening: Opening
    ) -> tuple[int, Attributes]:
        exclusive = bool(flags & os.O_EXCL)
        if exclusive and text in self._tree.directory(above).local:
            raise ExistsError(f"{text}: exists")
        claimed = None
        with self._write_back.admitted(text):
            if exclusive:  # in a task of the mount, so that a silent store does not block its end
                claim, what = partial(self._claim, above, text), f"exclusive creation of {text}"
                claimed = await self._tree.name_changes.run(claim, what, (above.ino, text))
        local = self._tree.directory(above).local.get(text)
        if local is not None:
            if local.is_dir:
                raise IsDirectoryError(f"{text}: is a directory")
            fh = await self._open(local, flags, opening)
            self._tree.remember(local)
            return fh, self._tree.attributes(local)
        inode = self._inodes.add(above.ino, text, Kind.FILE, info=claimed)
        self._write_back.begin(inode, base=claimed, exclusive=exclusive)
        self._tree.entries_changed(above)
        inode.set_times(mtime_ns=self._clock.realtime_ns())
        inode.note_pages()
        inode.note_size()
        self._tree.remember(inode)
        fh = opening.add(FileHandle(inode, is_writable=True, is_creator=True))
        return fh, self._tree.attributes(inode)

    def _key(self, above: Inode, name: str) -> str:
        return child_key(self._inodes.key(above), name, is_dir=False)

    async def read(self, fh: int, offset: int, length: int) -> Sequence[Buffer]:
        """Bytes of the version that was opened, or those written so far to a file being written.

        They are in one or more pieces, which do not change any more.

        Raises:
            StaleError, ObjectChangedError: that version is gone.

        """
        handle = self._handles.file(fh)
        inode = handle.inode
        if inode.writer is not None:
            return [await inode.writer.read(offset, length)]
        if inode.info is None or not inode.has_version:
            raise StaleError(f"{inode.name}: what was written could not be stored")
        reader = handle.reader
        if reader is None or not _is_current(reader, inode):
            reader = Reader(self._context, inode.info)
            self._handles.set_reader(handle, reader)
        try:
            return await reader.read(offset, length)
        except (StaleError, NotFoundError, ObjectChangedError):
            if handle.reader is reader and _is_current(reader, inode):
                raise
        return await self.read(fh, offset, length)  # renamed or written by this mount

    def _writer(self, handle: FileHandle) -> DirtyFile:
        writer = handle.inode.writer
        if writer is None:
            raise StaleError(f"{handle.inode.name}: no longer open for writing")
        return writer

    def try_write(self, fh: int, offset: int, data: Buffer) -> bool:
        """As `write`, if that needs no waiting; else False, and nothing has changed."""
        handle = self._handles.file(fh)
        writer = handle.inode.writer
        if writer is None or not writer.try_write(offset, data):
            return False
        handle.inode.set_times(mtime_ns=self._clock.realtime_ns())
        return True

    def hold(self, data: Buffer, *, besides_bytes: int) -> WaitingBytes | None:
        """As `WaitingWrites.hold`."""
        return self._waiting_writes.hold(data, besides_bytes=besides_bytes)

    async def write(self, fh: int, offset: int, data: Buffer | WaitingBytes) -> int:
        """Accept bytes anywhere. data: does not change, and may be referred to when this has ended.

        Returns how many: all, unless the caller has given up while it waited.

        Raises as `DirtyFile.write`, and StoreTimeoutError if nothing moves.
        """
        if not isinstance(data, WaitingBytes) and self.try_write(fh, offset, data):
            return len(data)
        handle = self._handles.file(fh)
        writer = self._writer(handle)
        write = PendingWrite(offset, data)
        accepted = await self._write(handle.inode, writer, write)
        handle.inode.set_times(mtime_ns=self._clock.realtime_ns())
        return accepted

    async def _write(self, inode: Inode, writer: DirtyFile, write: PendingWrite) -> int:
        try:
            await self._progress_timeout.wait(
                partial(writer.write, write),
                f"write to {inode.name}",
                progress=lambda: writer.progress,
                held_bytes=write.memory_bytes,
                leave=write.stop,
            )
        except (asyncio.CancelledError, StoreTimeoutError):
            if not write.accepted:
                raise
        return write.accepted

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """Grow the file, or let a range be zeros, by the mode; nothing is reserved.

        Raises:
            UnsupportedError: ranges cannot be inserted, removed or unshared.
            NotWritableError, InvalidRangeError, FileTooLargeError: as on a local disk.
            VolumeError: as `write`.

        """
        handle = self._handles.file(fh)
        if not handle.is_writable:
            raise NotWritableError(f"{handle.inode.name}: not open for writing")
        if mode not in FALLOCATE_MODES:
            raise UnsupportedError(f"{handle.inode.name}: fallocate with mode {mode:#x}")
        end = offset + length
        if offset < 0 or length <= 0:
            raise InvalidRangeError(f"{handle.inode.name}: {length} bytes from {offset}")
        if end > MAX_FILE_BYTES:
            raise FileTooLargeError(f"{handle.inode.name}: {end} bytes")
        writer = self._writer(handle)
        if mode == FALLOC_FL_KEEP_SIZE:
            return
        change = partial(writer.extend, end)
        if mode:
            grows = not mode & FALLOC_FL_KEEP_SIZE
            change = partial(writer.zero, offset, end, grows=grows)
        what, progress = f"fallocate of {handle.inode.name}", lambda: writer.progress
        await self._write_back.late_changes.run(handle.inode, change, what, progress=progress)
        handle.inode.set_times(mtime_ns=self._clock.realtime_ns())

    async def copy_file_range(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, length: int
    ) -> int:
        """As `RangeCopies.copy`, by handles."""
        source, target = self._handles.file(fh_in), self._handles.file(fh_out)
        copied = await self._range_copies.copy(source, offset_in, target, offset_out, length)
        if copied:
            target.inode.set_times(mtime_ns=self._clock.realtime_ns())
        return copied

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        """Find data or a hole from there on. What is in S3 is data, also where it is zeros.

        Raises:
            NoDataError: the offset is not within the file, or only a hole follows.
            InvalidRangeError: another whence.

        """
        inode = self._handles.file(fh).inode
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise InvalidRangeError(f"{inode.name}: lseek with whence {whence}")
        found: int | None = None
        if 0 <= offset < inode.size:
            if inode.writer is None:
                found = offset if whence == os.SEEK_DATA else inode.size
            elif whence == os.SEEK_DATA:
                found = inode.writer.next_data(offset)
            else:
                found = inode.writer.next_hole(offset)
        if found is None:
            raise NoDataError(f"{inode.name}: nothing from {offset} on")
        return found

    async def flush(self, fh: int) -> None:
        """close() of any descriptor: waits for the upload of what was written, if anything was.

        The kernel does not say which process closes: a child that exits closes inherited
        descriptors, and gets the same answer. A read-only handle has nothing to store.
        """
        handle = self._handles.file(fh)
        writer = handle.inode.writer
        if handle.is_writable and writer is not None and writer.state.was_written:
            await self._write_back.sync(handle.inode, joins=True)

    async def fsync(self, fh: int) -> None:
        await self._write_back.sync(self._handles.file(fh).inode)

    async def release(self, fh: int) -> None:
        """The last descriptor of a handle is closed. No program waits: errors go to the log."""
        handle = self._handles.file(fh)
        inode = handle.inode
        try:
            self._handles.set_reader(handle, None)
            if inode.writer is not None and not self._write_back.is_needed(inode, besides=handle):
                await self._write_back.end(inode, handle)
        finally:
            self._handles.remove(fh)
            self._inodes.drop_unused(inode)

    async def truncate(self, inode: Inode, size: int) -> None:
        """As `WriteBack.truncate`, of the version that is in S3 now."""
        if not inode.is_dir:
            await self._versions.ask_to_change(inode)
        await self._write_back.truncate(inode, size)


def _is_current(reader: Reader, inode: Inode) -> bool:
    """Whether it reads the version that the file has, at the key that it has."""
    info = inode.info
    return info is not None and reader.info.key == info.key and inode.is_version(reader.info)
