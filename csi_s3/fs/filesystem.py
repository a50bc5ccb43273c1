"""The file system in plain Python: every operation of the kernel, without kernel and network.

`fuse.bridge` translates requests to these methods; tests call them directly. docs/semantics.md has
the promises. `tree` finds what a name stands for, `removals` and `rename` take names away,
`open_files` has the operations on bytes.
"""

from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from csi_s3.config.volume import SpoolRules
from csi_s3.errors import (
    InvalidNameError,
    NotFoundError,
    StaleError,
    VolumeError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import decode_name
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.base.outcome import outcome
from csi_s3.fs.files.handles import Handles
from csi_s3.fs.files.open_files import OpenFiles
from csi_s3.fs.files.removals import Removals
from csi_s3.fs.files.waiting_writes import WaitingWrites
from csi_s3.fs.files.write_back import WriteBack
from csi_s3.fs.listings.entries import Special
from csi_s3.fs.names.attributes import Attributes
from csi_s3.fs.names.inode import (
    DIRECTORY_BYTES,
    FIRST_NUMBERS,
    ROOT,
    DirHandle,
    Inode,
    InodeNumbers,
)
from csi_s3.fs.names.kernel_cache import KernelCache
from csi_s3.fs.names.new_directories import NewDirectories
from csi_s3.fs.names.symbolic_links import SymbolicLinks
from csi_s3.fs.names.tree import Tree
from csi_s3.fs.rename.copies import Copies
from csi_s3.fs.rename.directory_rename import DirectoryRenames
from csi_s3.fs.rename.file_rename import Renames
from csi_s3.fs.rename.journal import RenameJournal
from csi_s3.fs.rename.recovery import recover_renames
from csi_s3.fs.write.spool import Spool
from csi_s3.fs.write.spool_recovery import upload_leftovers

T = TypeVar("T")


class DirEntry(NamedTuple):
    """position: where the next `readdir` continues after this entry.

    has_inode: False where the kernel has enough of them: then it is given name and type only.
    """

    name: bytes
    attributes: Attributes
    position: int
    has_inode: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystemUsage:
    """What a mount holds at this moment.

    inodes_limit: about so many make the kernel be asked to drop some.
    inodes_asked: of inodes, those that the kernel was asked to forget and has not yet.
    memory_bytes, memory_limit_bytes: by kind of memory.
    """

    open_files: int
    inodes: int
    inodes_limit: int
    inodes_asked: int
    dirty_bytes: int
    memory_bytes: Mapping[str, int]
    memory_limit_bytes: Mapping[str, int]


class FileSystem:
    """One mount's file system over one store: its names here, open files in `files`, and `links`.

    Lifetime: as the task group of its context; `drain` uploads what is still open, `close` ends it.
    Concurrency: methods may run in any number at once; state changes between awaits.
    Cancellation: uploads run in tasks of the group, so a handler that gives up stops none.
    """

    def __init__(
        self,
        context: MountContext,
        *,
        prefix: str,
        kernel: KernelCache,
        state_dir: Path | None = None,
        spool_rules: SpoolRules = SpoolRules(),  # noqa: B008 - frozen
        numbers: InodeNumbers = FIRST_NUMBERS,
    ) -> None:
        """Build all parts of the mount, each from those before it. Nothing else builds one.

        state_dir: None where there is none; then only what fits memory can be changed.
        spool_rules: the node's.
        """
        self._context = context
        self._progress_timeout = context.progress_timeout
        self._tree = tree = Tree(context, prefix=prefix, kernel=kernel, numbers=numbers)
        self._inodes = tree.inodes
        self._handles = Handles(context.memory)
        self.spool = spool = Spool(
            state_dir,
            limit_bytes=context.config.spool_bytes,
            memory=context.memory,
            rules=spool_rules,
        )
        self._write_back = write_back = WriteBack(context, tree=tree, spool=spool)
        self.files = OpenFiles(
            context,
            tree=tree,
            handles=self._handles,
            write_back=write_back,
            waiting_writes=WaitingWrites(context.memory, spool),
        )
        self.links = SymbolicLinks(context, tree)
        self._new_directories = NewDirectories(context, tree)
        self._removals = Removals(context, tree=tree, write_back=write_back)
        copies = Copies(context)
        journal = RenameJournal(state_dir, context.memory, limit_bytes=context.config.spool_bytes)
        directories = DirectoryRenames(
            context, tree=tree, write_back=write_back, copies=copies, journal=journal
        )
        self._renames = Renames(
            context, tree=tree, write_back=write_back, copies=copies, directories=directories
        )
        self._recover_renames = partial(recover_renames, context.key_lock, copies, journal)

    def usage(self) -> FileSystemUsage:
        """What it holds, once listings that can answer nothing any more are dropped."""
        self._tree.listings.drop_old_pages()
        return FileSystemUsage(
            open_files=len(self._handles),
            inodes=len(self._inodes),
            inodes_limit=self._tree.eviction.soft_limit,
            inodes_asked=self._inodes.evictions_pending,
            dirty_bytes=self._write_back.dirty_bytes,
            memory_bytes=self._context.memory.used_bytes(),
            memory_limit_bytes={
                **self._context.memory.limit_bytes(),
                MemoryKind.INODES.value: self._tree.eviction.most_bytes,
            },
        )

    async def give_back(self, *, unused_s: float) -> None:
        """Give memory back that is for a use which may not come; returns when that is done.

        unused_s: for so long there were few requests.
        """
        await self._tree.give_back(unused_s=unused_s)

    async def syncfs(self) -> None:
        """As `WriteBack.sync_all`."""
        await self._write_back.sync_all()

    async def drain(self) -> list[VolumeError]:
        """As `WriteBack.drain`; also waits for changes whose callers have given up."""
        failures = await self._write_back.drain()
        await self._progress_timeout.settled()
        return failures

    async def keep(self) -> None:
        """As `WriteBack.keep`."""
        await self._write_back.keep()

    async def close(self) -> None:
        """End what is under way, uploads included. It waits for nothing, but takes turns.

        Calls that come during it are answered, and store nothing.
        """
        self._progress_timeout.close()
        self._tree.eviction.close()
        await self._handles.close()
        await self._write_back.close()

    # names

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """Find a name, and count a reference of the kernel to its inode.

        Raises:
            NotFoundError: no such name.
            KeyTooLongError: no name can be that long.

        """
        try:
            text = decode_name(name)
        except InvalidNameError as exc:
            raise NotFoundError(str(exc)) from exc
        if self._tree.name_changes.is_left((parent, text)):
            await self._tree.name_changes.settled((parent, text))
        above, start = self._inodes.get(parent), self._tree.sizes.now
        inode = await self._tree.lookup(above, text)
        self._tree.remember(inode)
        self._tree.sizes.note_answer(inode, start=start)
        return self._tree.attributes(inode)

    def forget(self, ino: int, n: int) -> None:
        """The kernel gives back n of its references."""
        self._inodes.forget(ino, n)
        self._tree.eviction.freed()

    def key_of(self, ino: int) -> str:
        """The key that an inode stands for, for the log; "": it is gone, or has no name."""
        try:
            inode = self._inodes.get(ino)
            return self._inodes.key(inode) if inode.is_linked else ""
        except StaleError:
            return ""

    async def getattr(self, ino: int) -> Attributes:
        inode, start = self._inodes.get(ino), self._tree.sizes.now
        ttl_s = await self._tree.refresh(inode)
        self._tree.sizes.note_answer(inode, start=start)
        attributes = self._tree.attributes(inode)
        return attributes if attributes.ttl_s == ttl_s else attributes._replace(ttl_s=ttl_s)

    async def setattr(
        self,
        ino: int,
        *,
        size: int | None = None,
        mtime_ns: int | None = None,
        atime_ns: int | None = None,
    ) -> Attributes:
        """Truncate, or set the times; mode and owner come from mount options and never change.

        Raises:
            NotPermittedError: an existing object, without allow-overwrite.

        """
        inode = self._inodes.get(ino)
        if size is not None:
            await self.files.truncate(inode, size)
        inode.set_times(mtime_ns=mtime_ns, atime_ns=atime_ns)
        inode.note_size()  # the kernel takes these attributes in any case
        return self._tree.attributes(inode)

    async def opendir(self, ino: int) -> int:
        """Open a directory, and begin to list it.

        Raises:
            TooManyOpenFilesError: there is no memory for another handle.

        """
        inode = self._inodes.get(ino)
        with self._handles.opening(inode.name) as opening:
            if not inode.has_runtime and not self._tree.eviction.has_plenty:
                _ = await self._tree.eviction.room(DIRECTORY_BYTES, is_look_up=True)
            return opening.add(DirHandle(inode, self._tree.listings.open(inode)))

    def dots(self, fh: int) -> tuple[Attributes, Attributes]:
        """The attributes of `.` and `..` of an open directory."""
        here = self._handles.directory(fh).inode
        above = here if here.ino == ROOT else self._inodes.get(here.parent)
        return self._tree.attributes(here), self._tree.attributes(above)

    async def readdir(self, fh: int, start: int) -> AsyncGenerator[DirEntry, None]:
        """Entries from a position on (0: the beginning), without `.` and `..`: see `dots`.

        The caller calls `remember` for each inode that the kernel took, then `note_answers` once.
        """
        handle = self._handles.directory(fh)
        eviction, adopt = self._tree.eviction, self._tree.adopt
        names = self._tree.directory(handle.inode).local
        if start == 0:
            handle.reader = self._tree.listings.read_from_start(handle.inode, handle.reader)
        reading = handle.reader.read(start)
        try:
            while not reading.is_over:
                listed = reading.next()
                if listed is None:
                    if not (reading.is_over or reading.load_now()):
                        await self._while_locked(handle.inode, reading.load())
                    continue
                name, entry, question = listed
                local = names.get(name)
                if local is None and entry is Special.LOCAL:  # it was; S3 has it now
                    found = self._tree.find(handle.inode, name)
                    entry, question = await self._while_locked(handle.inode, found)
                present = local or self._inodes.child(handle.inode.ino, name)
                if present is None and entry is Special.ABSENT:
                    continue
                has_room = eviction.may_list or eviction.check()
                if present is None and not has_room:
                    yield DirEntry(
                        name=name.encode(),
                        attributes=self._tree.entry_attributes(handle.inode, name, entry),
                        position=reading.give(),
                        has_inode=False,
                    )
                    continue
                try:
                    inode = local or await adopt(handle.inode, name, entry, question=question)
                except NotFoundError:
                    continue
                attributes, position = self._tree.attributes(inode), reading.give()
                try:
                    yield DirEntry(name=name.encode(), attributes=attributes, position=position)
                finally:
                    if not inode.lookups:  # the kernel did not take it
                        self._inodes.drop_unused(inode)
        finally:
            reading.end()

    async def _while_locked(self, directory: Inode, answer: Coroutine[Any, Any, T]) -> T:
        """Wait for the store in a READDIR: the kernel has the directory locked."""
        self._tree.eviction.begin_reading(directory)
        try:
            return await answer
        finally:
            self._tree.eviction.end_reading(directory)

    def remember(self, ino: int) -> bool:
        """Count a reference of the kernel, which took a listed entry.

        False: it has so many inodes that this answer should end here.
        """
        return self._tree.remember(self._inodes.get(ino))

    @property
    def now(self) -> int:
        """The start of a request, for `note_answers`."""
        return self._tree.sizes.now

    def note_answers(self, inos: Iterable[int], *, start: int) -> None:
        """The kernel has got the attributes of these inodes, as `Sizes.note_answer`."""
        for ino in inos:
            self._tree.sizes.note_answer(self._inodes.get(ino), start=start)

    def releasedir(self, fh: int) -> None:
        handle = self._handles.remove(fh)
        if isinstance(handle, DirHandle):
            self._tree.listings.close(handle.inode, handle.reader)
            self._inodes.drop_unused(handle.inode)

    async def mkdir(self, parent: int, name: bytes) -> Attributes:
        """As `NewDirectories.make`."""
        return await self._new_directories.make(parent, name)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """As `Removals.rmdir`."""
        await self._removals.rmdir(parent, name)

    async def unlink(self, parent: int, name: bytes) -> None:
        """As `Removals.unlink`."""
        await self._removals.unlink(parent, name)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, may_replace: bool
    ) -> None:
        """As `Renames.rename`, even if the caller gives up."""
        places = (parent, decode_name(name)), (new_parent, decode_name(new_name))
        await self._tree.name_changes.settled(*places)
        work = partial(
            self._renames.rename, parent, name, new_parent, new_name, may_replace=may_replace
        )
        progress = self._progress_timeout.rename
        what = f"rename of {name!r}"
        await self._tree.name_changes.run(work, what, *places, progress=progress)

    async def recover(self) -> None:
        """Finish what earlier workers of this mount began: renames first, then uploads.

        It never fails; the log says what is left. Requests that conflict with it wait.
        """
        await outcome(self._recover_renames)
        await outcome(partial(upload_leftovers, self._context, self.spool))
