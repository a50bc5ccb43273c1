"""What becomes of a file that is changed: it is stored, truncated, moved, or loses its name.

The rules are docs/semantics.md (Writing, Directories, renames and attributes); `DirtyFile` has the
bytes. Each step runs to its end in a task of the mount, even if its caller no longer waits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial

from csi_s3.errors import IsDirectoryError, StaleError, VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.base.progress_timeout import FileProgress
from csi_s3.fs.files.kept_files import KeptFiles
from csi_s3.fs.files.late_changes import LateChanges
from csi_s3.fs.listings.entries import Special
from csi_s3.fs.names.inode import FileHandle, Inode
from csi_s3.fs.names.inodes import Inodes
from csi_s3.fs.names.tree import Tree
from csi_s3.fs.write.dirty_file import RECORD_BYTES, DirtyFile
from csi_s3.fs.write.remote_object import Basis, RemoteObject
from csi_s3.fs.write.spool import Spool
from csi_s3.s3.store import ObjectInfo

PARALLEL_STORED = 64  # files, as many as connections to the store
CLOSED_AT_ONCE = 32  # files at the mount's end: some 4 ms if all are to be kept (measured)

_NO_BASIS = Basis()  # of all files that are new


class _KeyOf:
    """The key of an inode's file at the time of the call; smaller than a function."""

    __slots__ = ("_inode", "_inodes")

    def __init__(self, inodes: Inodes, inode: Inode) -> None:
        self._inodes, self._inode = inodes, inode

    def __call__(self) -> str:
        return self._inodes.key(self._inode)


class WriteBack:
    """Concurrency and cancellation: as `FileSystem`, whose part it is.

    A turn of `KeyRangeLock` is taken before a version's lock.

    writers: the files that have one, by inode number.
    """

    def __init__(self, context: MountContext, *, tree: Tree, spool: Spool) -> None:
        self._context, self._tree, self._spool = context, tree, spool
        self._store, self._config, self._clock = context.store, context.config, context.clock
        self._key_lock, self._progress_timeout = context.key_lock, context.progress_timeout
        self._inodes = tree.inodes
        self.late_changes = LateChanges(context, tree.versions)
        self._records = context.memory.account(MemoryKind.DIRTY_FILES)
        self._writers: dict[int, Inode] = {}
        self._kept = KeptFiles()

    @property
    def dirty_bytes(self) -> int:
        """Of the files that are not in the store as they are."""
        return self._context.dirty.total

    # whether a file may be changed, and is

    def check(self, inode: Inode, doing: str) -> None:
        """Whether a file may be changed.

        Raises:
            NotPermittedError: an existing object, without allow-overwrite.
            StaleError: it has no name any more.

        """
        key = self._inodes.key(inode)
        if not self.is_exempt(inode):
            what = f"{key}: exists, and {doing} would change it"
            self._context.check_allowed("allow-overwrite", what)
        if inode.writer is None and not inode.is_linked:
            raise StaleError(f"{key}: replaced or removed")

    def is_exempt(self, inode: Inode) -> bool:
        """A file created through this mount while the handle that created it is open."""
        return inode.runtime.creators > 0

    def begin(
        self, inode: Inode, *, base: ObjectInfo | None = None, exclusive: bool = False
    ) -> DirtyFile:
        """The file is being changed from now on; base: the version that the change is made to.

        Raises:
            TooManyOpenFilesError: as `admit`; nothing has changed.

        """
        self.admit(inode.name)
        basis = _NO_BASIS
        if base is not None or inode.info is not None or exclusive:
            basis = Basis(base=base, rewrites=inode.info, is_exclusive=exclusive)
        self._set_writer(inode, writer := self._dirty_file(inode, basis))
        if base is None:
            inode.set_times(mtime_ns=self._clock.realtime_ns())
        if inode.is_linked:
            above = self._inodes.get(inode.parent)
            self._tree.local_names.add(above, inode)
            self._tree.directory(above).note(inode.name, Special.LOCAL)
        return writer

    def admit(self, name: str) -> None:
        """Whether there is memory for one more file that is being changed.

        Raises:
            TooManyOpenFilesError: there is none.

        """
        self._records.check(RECORD_BYTES, _opening(name))

    def admitted(self, name: str) -> AbstractContextManager[None]:
        """As `admit`; `begin` is not refused if it follows the end of this at once."""
        return self._records.reserved(RECORD_BYTES, _opening(name))

    def _set_writer(self, inode: Inode, writer: DirtyFile | None) -> None:
        inode.set_writer(writer)
        if writer is None:
            self._writers.pop(inode.ino, None)
        else:
            self._writers[inode.ino] = inode

    def _dirty_file(self, inode: Inode, basis: Basis) -> DirtyFile:
        remote = RemoteObject(self._context, _KeyOf(self._inodes, inode), basis)
        return DirtyFile(self._context, remote, self._spool)

    def is_needed(self, inode: Inode, *, besides: FileHandle | None) -> bool:
        """Whether another handle writes, or reads what only the writer of an unlinked file has."""
        mine = besides is not None and besides.is_open
        if not inode.is_linked:
            return inode.handles > mine
        return inode.runtime.writable > (mine and besides is not None and besides.is_writable)

    # into the store

    async def sync(self, inode: Inode, *, joins: bool = False) -> None:
        """Have all of it in S3; waits as long as there is progress. joins: see `DirtyFile.save`."""
        writer = inode.writer
        if writer is None or not writer.state.is_dirty:
            return

        async def sync() -> None:
            async with self._key_lock.change(lambda: self._inodes.key(inode)):
                await self._save(inode, writer, joins=joins)

        what = f"upload of {inode.name}"
        await self._progress_timeout.wait(sync, what, progress=lambda: writer.progress)

    async def _save(self, inode: Inode, writer: DirtyFile, *, joins: bool = False) -> None:
        """Save, and show the new version, in one task: the name follows if a handler gives up."""
        info = await writer.save(joins=joins)
        if info is None or inode.is_version(info):
            return
        info = info._replace(last_modified=self._clock.realtime_ns() // 10**9)
        inode.set_version(info)
        if inode.is_linked:
            self._tree.directory(self._inodes.get(inode.parent)).note(inode.name, info)

    async def end(self, inode: Inode, handle: FileHandle | None) -> None:
        """Store what is not stored, and forget the writer, if no other handle needs it."""
        ending = partial(self._end, inode, handle)
        what, progress = f"upload of {inode.name}", partial(_progress, inode)
        await self._progress_timeout.wait(ending, what, progress=progress)

    async def _end(self, inode: Inode, handle: FileHandle | None) -> None:
        async with (
            self._key_lock.change(lambda: self._inodes.key(inode)),
            self._tree.versions.hold(inode.ino),
        ):
            writer = inode.writer
            if writer is None or self.is_needed(inode, besides=handle):
                return  # opened for writing since
            try:
                await self._save(inode, writer)
            except VolumeError as exc:
                error = self._kept.for_later(inode, writer, exc)
                await writer.give_up()
                raise error from exc.__cause__
            except asyncio.CancelledError:  # the mount's end
                self._kept.at_end(inode, writer)
                raise
            finally:
                self._ended(inode, writer)

    def _ended(self, inode: Inode, writer: DirtyFile) -> None:
        self._set_writer(inode, None)
        writer.close()
        self._settle(inode, writer)
        self._inodes.drop_unused(inode)

    def _settle(self, inode: Inode, writer: DirtyFile) -> None:
        """The last writer has ended: the name stands for what the store holds, or for nothing."""
        if not inode.is_linked:
            return
        above = self._inodes.get(inode.parent)
        directory = self._tree.directory(above)
        self._tree.local_names.drop(above, inode.name)
        if inode.info is None:
            directory.note(inode.name, Special.ABSENT)
            self._tree.forget_name(inode)
            self._inodes.unlink(inode)
            return
        directory.note(inode.name, inode.info)
        if writer.state.is_dirty:  # the kernel has pages of no version: the next look drops them
            inode.lose_version()
            self._tree.forget_name(inode)

    async def drain(self) -> list[VolumeError]:
        """Upload every open file (at SIGTERM and unmount). Returns what could not be uploaded."""
        return await self._each(self._drain)

    async def sync_all(self) -> None:
        """As `sync` of every file. A failure of one stops no other; raises the first."""
        failures = await self._each(self._sync_one)
        if failures:
            raise failures[0]

    async def _sync_one(self, inode: Inode) -> VolumeError | None:
        try:
            await self.sync(inode)
        except VolumeError as exc:
            return exc.again()
        return None

    async def _each(
        self, one: Callable[[Inode], Awaitable[VolumeError | None]]
    ) -> list[VolumeError]:
        """Have this done with every file that is being changed. Returns the failures."""
        todo, failures = iter(list(self._writers.values())), list[VolumeError]()

        async def some() -> None:
            for inode in todo:
                error = await one(inode)
                if error is not None:
                    failures.append(error)
                await asyncio.sleep(0)  # what is stored has not waited

        async with asyncio.TaskGroup() as group:
            for _ in range(min(PARALLEL_STORED, len(self._writers))):
                group.create_task(some())
        return failures

    async def _drain(self, inode: Inode) -> VolumeError | None:
        try:
            await self.sync(inode)
        except VolumeError as exc:
            writer = inode.writer
            if writer is None:
                return exc.again()
            error = self._kept.for_later(inode, writer, exc, at_end=True)
            if error is not exc:
                await writer.give_up()
            return error.again()
        return None

    async def keep(self) -> None:
        """Have the spool keep what is not stored, a file at a time: `close` has less to do then.

        All can be used as before. What a task is storing is left to `close`.
        """
        for inode in list(self._writers.values()):
            writer = inode.writer
            if writer is None or writer.is_locked or not inode.is_linked:
                continue
            if writer.state.is_dirty:
                self._kept.at_end(inode, writer)
                await asyncio.sleep(0)

    async def close(self) -> None:
        """End all at the mount's end, a few files at a time; what is not stored stays in the spool.

        No file is being stored: work of the mount is cancelled before. When this returns, all that
        was opened during it has ended as well.
        """
        while todo := [i for i in self._writers.values() if _is_open(i.writer)]:
            for at, inode in enumerate(todo):
                if at % CLOSED_AT_ONCE == 0:
                    await asyncio.sleep(0)
                if (writer := inode.writer) is not None:
                    self._kept.at_end(inode, writer)
                    writer.close()
        self._kept.end()

    # truncation, moves, removal

    async def truncate(self, inode: Inode, size: int) -> None:
        """Make a file that long; it is in S3 when this returns, unless it is open for writing.

        Raises:
            NotPermittedError: an existing object, without allow-overwrite.

        """
        if inode.is_dir:
            raise IsDirectoryError(f"{inode.name}: is a directory")
        cutting = partial(self._truncate, inode, size)
        what, progress = f"truncation of {inode.name}", partial(_progress, inode)
        await self.late_changes.run(inode, cutting, what, progress=progress)

    async def empty(self, inode: Inode, writer: DirtyFile) -> None:
        """Drop all bytes of a file that is open for writing, even if the caller gives up."""
        cutting, what = partial(writer.truncate, 0), f"truncation of {inode.name}"
        await self.late_changes.run(inode, cutting, what, progress=lambda: writer.progress)

    async def _truncate(self, inode: Inode, size: int) -> None:
        async with self._tree.versions.hold(inode.ino):
            writer = inode.writer
            if size == inode.size and (writer is None or writer.state.error is None):
                return
            self.check(inode, "truncating it")
            if writer is None:
                writer = self.begin(inode, base=inode.info if size else None)
            inode.set_times(mtime_ns=self._clock.realtime_ns())
            try:
                await writer.truncate(size)
            except VolumeError:
                if not writer.state.is_dirty and not self.is_needed(inode, besides=None):
                    self._ended(inode, writer)  # nothing has changed, and no other handle writes
                raise
        await self._end(inode, None)

    async def set_aside(self, inode: Inode, remove: Callable[[], Awaitable[None]]) -> None:
        """Take a file's name away, with its keys locked; handles that are open on it go on.

        What only S3 has of it is fetched before, up to unlinked-open-limit. A failure of `remove`
        changes nothing.
        """
        async with self._tree.versions.hold(inode.ino):
            writer = inode.writer
            if writer is None and inode.handles and inode.has_version:
                writer = self._dirty_file(inode, Basis(base=inode.info))
            if writer is None:
                await remove()
                return
            try:
                await writer.discard(remove, limit_bytes=self._config.unlinked_open_bytes)
            except BaseException:
                if inode.writer is None:
                    writer.close()
                raise
            if inode.handles:
                self._set_writer(inode, writer)
            elif inode.writer is None:
                writer.close()

    async def prepare_move(self, inode: Inode, *, over: bool) -> ObjectInfo | None:
        """Stop uploads to a file's key before it changes, with its keys locked.

        over: another file is replaced, so everything written must be in the store: after a crash
        one of the two is there, whole.
        Returns the stored version; None: there is none, so only the name moves.
        """
        writer = inode.writer
        if writer is None:
            if inode.info is not None and not inode.has_version:
                now = await self._store.head(self._inodes.key(inode))
                if not await self._tree.versions.renew_held(inode, now):
                    raise StaleError(f"{now.key}: what was written could not be stored")
            return inode.info
        is_truncated = writer.base is None and inode.info is not None
        if writer.must_be_stored_to_move or (writer.state.is_dirty and (over or is_truncated)):
            await self._save(inode, writer)
        await writer.detach()
        return writer.base

    def moved(self, inode: Inode, info: ObjectInfo) -> None:
        """Take over the version that the store has at a file's new key.

        Readers of handles see at their next read that they have the old key.
        """
        if inode.mtime_ns is None:
            inode.set_times(mtime_ns=self._tree.attributes(inode).mtime_ns)
        inode.set_version(info)
        if inode.writer is not None:
            inode.writer.rebase(info)


def _opening(name: str) -> str:
    return f"{name}: opening it for writing"


def _is_open(writer: DirtyFile | None) -> bool:
    return writer is not None and not writer.is_closed


def _progress(inode: Inode) -> FileProgress | None:
    """Of its bytes, while it is being changed."""
    return None if inode.writer is None else inode.writer.progress
