"""Open files: reading, writing, and what close, fsync and truncation owe.

The rules are docs/semantics.md (Reading, Writing); `reader` and `writer` move the bytes.
"""

import asyncio
import os
from dataclasses import replace
from functools import partial

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import (
    ExistsError,
    IsDirectoryError,
    NotPermittedError,
    StaleError,
    UnsupportedError,
    VolumeError,
)
from csi_s3.fs.budget import MemoryBudget
from csi_s3.fs.directory import Special
from csi_s3.fs.handles import DirHandle, FileHandle, Handles
from csi_s3.fs.inodes import Inode
from csi_s3.fs.patience import Patience
from csi_s3.fs.reader import Reader
from csi_s3.fs.tree import Attributes, Clock, Tree
from csi_s3.fs.writer import FileWriter
from csi_s3.s3.store import Buffer, ObjectInfo, ObjectStore

WHOLE_FILE_BYTES = 1 << 20  # open brings files up to this size along whole
FIRST_BYTES = 128 << 10  # and the kernel's first read-ahead of larger ones


class Files:
    """Concurrency and cancellation: as `FileSystem`, whose part it is."""

    def __init__(
        self,
        store: ObjectStore,
        config: TreeConfig,
        *,
        tree: Tree,
        handles: Handles,
        clock: Clock,
        group: asyncio.TaskGroup,
    ) -> None:
        self._store, self._config, self._tree, self._handles = store, config, tree, handles
        self._clock, self._group = clock, group
        self._inodes = tree.inodes
        self.budget = MemoryBudget(config.budget_bytes)
        self._patience = Patience(group, clock)

    async def open(self, ino: int, flags: int) -> int:
        """Open a file; asks S3 for its version, and the answer brings the first bytes along.

        The kernel may keep the pages it has: pages of another version are gone when this returns.

        Raises:
            StaleError: another version is there and handles are open; look the name up again.
            NotPermittedError: an existing object is to be changed, without allow-overwrite.
            UnsupportedError: a change that is not a rewrite from the start.

        """
        inode = self._inodes.get(ino)
        if inode.is_dir:
            raise IsDirectoryError(f"{inode.name}: is a directory")
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            return await self._open_to_write(inode, flags)
        if inode.writer is not None:
            return self._handles.add(FileHandle(inode))
        reader = None if self._tree.is_fresh(inode) else await self._ask_to_open(inode)
        inode.maybe_cached = True
        return self._handles.add(FileHandle(inode, reader=reader))

    async def _ask_to_open(self, inode: Inode) -> Reader | None:
        """Ask for version and first bytes; only for the version of what may be cached."""
        key = self._inodes.key(inode)
        if not inode.is_linked:
            raise StaleError(f"{key}: replaced or removed")
        directory = self._tree.directory(self._inodes.get(inode.parent))
        with directory.observe() as began:
            info, first = await self._ask_version(key, inode)
            changed = directory.changed_since(began, inode.name)
        if changed is None:
            directory.learn(inode.name, info)
        elif isinstance(changed, ObjectInfo):
            info, first = changed, b""  # written through this mount meanwhile
        elif inode.writer is not None:
            return None
        else:
            raise StaleError(f"{key}: removed meanwhile")
        if not await self._tree.renew(inode, info):
            if inode.writer is not None:
                return None  # opened for writing meanwhile: its bytes are the file
            raise StaleError(f"{key}: another version is in S3 while this one is open")
        return self._reader(info, first)

    async def _ask_version(self, key: str, inode: Inode) -> tuple[ObjectInfo, Buffer]:
        known = inode.info
        if known is None or known.size == 0 or inode.maybe_cached:
            return await self._store.head(key), b""
        wanted = known.size if known.size <= WHOLE_FILE_BYTES else FIRST_BYTES
        chunk = await self._store.read_range(key, 0, wanted)
        return chunk.info, chunk.data

    def _reader(self, info: ObjectInfo, first: Buffer = b"") -> Reader:
        return Reader(
            self._store,
            info,
            first=first,
            part_bytes=self._config.read_part_bytes,
            budget=self.budget,
            group=self._group,
        )

    async def _open_to_write(self, inode: Inode, flags: int) -> int:
        if inode.writer is None and not flags & os.O_TRUNC:
            await self._tree.refresh(inode)
        async with self._tree.versions.hold(inode.ino):
            self._check_rewrite(inode, flags)
            if inode.writer is None:
                self._start_writer(inode).is_dirty = bool(flags & os.O_TRUNC)
                inode.maybe_cached = True  # the kernel keeps the pages that it writes
            elif flags & os.O_TRUNC:
                await inode.writer.reset()
            return self._handles.add(FileHandle(inode, is_writable=True))

    def _check_rewrite(self, inode: Inode, flags: int) -> None:
        key = self._inodes.key(inode)
        if not self._config.allow_overwrite and not self.is_exempt(inode):
            raise NotPermittedError(
                f"{key}: exists, and opening it for writing would change it",
                "needs the mount option allow-overwrite",
                option="allow-overwrite",
            )
        if inode.writer is not None:
            return
        if not inode.is_linked:
            raise StaleError(f"{key}: replaced or removed")
        if not flags & os.O_TRUNC and inode.info is not None and inode.info.size > 0:
            raise UnsupportedError(
                f"{key}: append and writing in the middle",
                "only new files and files opened with O_TRUNC can be written, for now",
            )

    def is_exempt(self, inode: Inode) -> bool:
        """A file created through this mount while the handle that created it is open."""
        return any(h.is_creator for h in self._handles.of(inode))

    def _start_writer(self, inode: Inode, *, exclusive: bool = False) -> FileWriter:
        inode.writer = FileWriter(
            self._store,
            lambda: self._inodes.key(inode),
            part_bytes=self._config.write_part_bytes,
            budget=self.budget,
            group=self._group,
            progress=self._patience.made_progress,
            exclusive=exclusive,
        )
        inode.mtime_ns = self._clock.realtime_ns()
        if inode.is_linked:
            above = self._inodes.get(inode.parent)
            self._tree.add_local(above, inode)
            self._tree.directory(above).note(inode.name, Special.LOCAL)
        return inode.writer

    async def create(self, parent: int, name: bytes, flags: int) -> tuple[int, Attributes]:
        """Make a file that is in S3 at its first fsync, close after a write, or last release.

        Raises:
            ExistsError: O_EXCL, and the name is there.

        """
        above, text, _key = self._tree.new_name(parent, name, is_dir=False)
        local = self._tree.directory(above).local.get(text)
        if local is not None:
            if flags & os.O_EXCL:
                raise ExistsError(f"{text}: exists")
            fh = await self.open(local.ino, flags)
            self._inodes.remember(local)
            return fh, self._tree.attributes(local)
        inode = self._inodes.add(above.ino, text, is_dir=False)
        self._start_writer(inode, exclusive=bool(flags & os.O_EXCL))
        inode.maybe_cached = True
        self._inodes.remember(inode)
        fh = self._handles.add(FileHandle(inode, is_writable=True, is_creator=True))
        return fh, self._tree.attributes(inode)

    async def read(self, fh: int, offset: int, length: int) -> Buffer:
        """Bytes of the version that was opened, or those written so far to a file being written.

        Raises:
            StaleError, ObjectChangedError: that version is gone.

        """
        handle = self._handles.file(fh)
        inode = handle.inode
        if inode.writer is not None:
            return await inode.writer.read(offset, length)
        if inode.info is None or not inode.info.etag:
            raise StaleError(f"{inode.name}: what was written could not be stored")
        reader = handle.reader
        if reader is None or reader.info.etag != inode.info.etag:
            if reader is not None:
                reader.close()  # the inode was written through this mount: pages are its new bytes
            reader = handle.reader = self._reader(inode.info)
        return await reader.read(offset, length)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        handle = self._handles.file(fh)
        writer = handle.inode.writer
        if writer is None:
            raise StaleError(f"{handle.inode.name}: not being written any more")
        if not writer.try_write(offset, data):
            accepting = partial(writer.write, offset, data)
            await self._patience.wait(accepting, f"write to {handle.inode.name}")
        handle.inode.mtime_ns = self._clock.realtime_ns()
        return len(data)

    async def flush(self, fh: int) -> None:
        """close() of any descriptor: waits for the upload of what was written, if anything was."""
        inode = self._handles.file(fh).inode
        if inode.writer is not None and inode.writer.was_written:
            await self._stored(inode)

    async def fsync(self, fh: int) -> None:
        await self._stored(self._handles.file(fh).inode)

    async def release(self, fh: int) -> None:
        """The last descriptor of a handle is closed; nobody waits, errors reach only logs."""
        handle = self._handles.file(fh)
        inode = handle.inode
        try:
            if handle.reader is not None:
                handle.reader.close()
            if inode.writer is not None and not self._is_needed(inode, besides=handle):
                ending = partial(self._end_writing, inode, handle)
                await self._patience.wait(ending, f"upload of {inode.name}")
        finally:
            self._handles.remove(fh)
            self._inodes.drop_unused(inode)

    def _is_needed(self, inode: Inode, *, besides: FileHandle | None) -> bool:
        """Whether another handle writes, or reads what only the writer of an unlinked file has."""
        others = (h for h in self._handles.of(inode) if h is not besides)
        return any(h.is_writable or not inode.is_linked for h in others)

    async def _end_writing(self, inode: Inode, handle: FileHandle | None) -> None:
        """Store what is not stored and forget the writer; to the end, even if nobody waits."""
        async with self._tree.versions.hold(inode.ino):
            writer = inode.writer
            if writer is None or self._is_needed(inode, besides=handle):
                return  # opened for writing meanwhile
            try:
                await self._store_now(inode, writer)
            finally:
                inode.writer = None
                writer.close()
                self._settle(inode, writer)
                self._inodes.drop_unused(inode)

    def _settle(self, inode: Inode, writer: FileWriter) -> None:
        """Nobody writes any more: the name stands for what the store holds, or for nothing."""
        if not inode.is_linked:
            return
        above = self._inodes.get(inode.parent)
        directory = self._tree.directory(above)
        self._tree.drop_local(above, inode.name)
        if inode.info is None:
            directory.note(inode.name, Special.ABSENT)
            self._tree.forget_name(inode)
            self._inodes.unlink(inode)
            return
        directory.note(inode.name, inode.info)
        if writer.is_dirty:  # the kernel has pages of no version: the next look drops them
            inode.info, inode.fresh_until = replace(inode.info, etag=""), 0.0
            self._tree.forget_name(inode)

    async def _stored(self, inode: Inode) -> None:
        writer = inode.writer
        if writer is None or not writer.is_dirty:
            return
        storing = partial(self._store_now, inode, writer)
        await self._patience.wait(storing, f"upload of {inode.name}")

    async def _store_now(self, inode: Inode, writer: FileWriter) -> None:
        """Store, and show it: in one task, lest a handler that gives up leave the name behind."""
        info = await writer.store()
        if info is None or inode.is_version(info):
            return
        inode.info = info = replace(info, last_modified=self._clock.realtime_ns() // 10**9)
        if inode.is_linked:
            self._tree.directory(self._inodes.get(inode.parent)).note(inode.name, info)

    async def truncate(self, inode: Inode, size: int) -> None:
        if inode.is_dir:
            raise IsDirectoryError(f"{inode.name}: is a directory")
        writer = inode.writer
        if writer is None:
            await self._tree.refresh(inode)
        now = writer.size if writer is not None else inode.info.size if inode.info else 0
        if size == now:
            return
        key = self._inodes.key(inode)
        if not self._config.allow_overwrite and not self.is_exempt(inode):
            raise NotPermittedError(
                f"{key}: truncating it would change it",
                "needs the mount option allow-overwrite",
                option="allow-overwrite",
            )
        if size != 0:
            raise UnsupportedError(
                f"{key}: truncate to {size} of {now} bytes", "only to 0, for now"
            )
        async with self._tree.versions.hold(inode.ino):
            if inode.writer is not None:
                await inode.writer.reset()
            elif inode.is_linked:
                self._start_writer(inode)
            else:
                raise StaleError(f"{key}: replaced or removed")
        ending = partial(self._end_writing, inode, None)
        await self._patience.wait(ending, f"truncation of {key}")

    async def drain(self) -> list[VolumeError]:
        """Upload every open file (at SIGTERM and unmount). Returns what could not be uploaded."""

        async def one(inode: Inode) -> VolumeError | None:
            try:
                await self._stored(inode)
            except VolumeError as exc:
                return exc
            return None

        async with asyncio.TaskGroup() as all_files:
            tasks = [all_files.create_task(one(i)) for i in self._inodes if i.writer is not None]
        return [e for e in (t.result() for t in tasks) if e is not None]

    def close(self) -> None:
        """End what is under way, uploads too: nobody waits for it any more; plain code."""
        for handle in self._handles.all():
            if isinstance(handle, DirHandle):
                handle.listing.close()
            elif handle.reader is not None:
                handle.reader.close()
        self._patience.close()
        for inode in self._inodes:
            if inode.writer is not None:
                inode.writer.cancel()
