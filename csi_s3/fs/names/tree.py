"""The tree that a bucket shows: which inode a name stands for, in which version, and how it looks.

Asks S3 (or a listing that is fresh enough) and turns answers into inodes; changes nothing in S3.
"""

from sys import getsizeof

from csi_s3.errors import (
    InvalidNameError,
    KeyTooLongError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    StaleError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import (
    LINK_SUFFIX,
    MAX_NAME_BYTES,
    child_key,
    decode_name,
    is_visible,
    link_name,
)
from csi_s3.fs.base.memory import MemoryKind, Room
from csi_s3.fs.listings.directory import Directory
from csi_s3.fs.listings.entries import Entry, Special, SymbolicLink
from csi_s3.fs.listings.pages import first_below
from csi_s3.fs.names.attributes import Attributes, attributes, entry_attributes
from csi_s3.fs.names.directory_listings import DirectoryListings
from csi_s3.fs.names.directory_moves import DirectoryMoves
from csi_s3.fs.names.eviction import Eviction
from csi_s3.fs.names.inode import NEW_INODE_BYTES, Inode, InodeNumbers, Kind
from csi_s3.fs.names.inodes import Inodes
from csi_s3.fs.names.kernel_cache import KernelCache
from csi_s3.fs.names.local_names import LocalNames
from csi_s3.fs.names.lookup import NameResolver
from csi_s3.fs.names.name_changes import NameChanges
from csi_s3.fs.names.recent_keys import KEY_BYTES, RecentKeys
from csi_s3.fs.names.sizes import Sizes
from csi_s3.fs.names.versions import Versions
from csi_s3.s3.store import ObjectInfo

MADE_HERE_SHARE = 1 / 32  # of the memory for inodes
KEPT_SHARE = 1 / 4  # of the memory for inodes that directories may take which only the mount holds


class Tree:
    """Concurrency: inodes change between awaits only.

    Cancellation: every method may be cancelled, with or without the effect of S3's answer.
    versions: of files. listings: of open directories. name_changes: those under way.
    local_names: those that S3 may not show (yet).
    made_here: the keys of directories made through this mount, which rmdir may remove without
        allow-delete.
    """

    def __init__(
        self, context: MountContext, *, prefix: str, kernel: KernelCache, numbers: InodeNumbers
    ) -> None:
        account = context.memory.account(MemoryKind.INODES)
        self.inodes = Inodes(prefix, numbers, account=account)
        most = int(account.limit_bytes * MADE_HERE_SHARE / KEY_BYTES)
        self.made_here = RecentKeys(account, limit=most)
        self.name_changes = NameChanges(context.progress_timeout, self.inodes)
        self._store, self._config, self._kernel = context.store, context.config, kernel
        self._context, self._clock = context, context.clock
        self._resolver = NameResolver(context.store, links=context.config.symlinks)
        self._mounted_ns = context.clock.realtime_ns()
        self.eviction = Eviction(
            self.inodes, kernel, context.group, wait_within_s=context.room_within_s
        )
        limit = int(context.memory.pool_bytes * KEPT_SHARE / NEW_INODE_BYTES)
        self.local_names = LocalNames(self.inodes, self.directory, limit=limit)
        self.sizes = Sizes(kernel)
        self.versions = Versions(context, inodes=self.inodes, sizes=self.sizes, kernel=kernel)
        self._changes = context.memory.account(MemoryKind.CHANGES)
        self._moves = DirectoryMoves(self.inodes)
        self.listings = DirectoryListings(
            context,
            directory=self.directory,
            inodes=self.inodes,
            moves=self._moves,
            next_question=self.sizes.next_question,
        )

    # names

    def directory(self, inode: Inode) -> Directory[Inode]:
        directory = inode.runtime.directory
        if directory is None:
            if not inode.is_dir:
                raise NotDirectoryError(f"{self.inodes.key(inode)}: not a directory")
            directory = inode.known_names(self._changes)
            self.inodes.recount(inode)
        return directory

    async def lookup(self, parent: Inode, name: str) -> Inode:
        """The inode behind a name.

        Memory for a new inode is reserved where S3 is asked, and where there is little. What a
        listing answers is added in the same step in which there was found to be enough.

        Raises:
            NotFoundError: nothing there.
            OutOfMemoryError: there is no memory for a new inode.

        """
        directory = self.directory(parent)
        if (local := directory.local.get(name)) is not None:
            return local
        present, now_s = self.inodes.child(parent.ino, name), self._clock.monotonic_s()
        if present is not None and (
            self.versions.is_fresh(present) or self.sizes.reusable_for_s(present, now_s) > 0
        ):
            return present
        entry, question = directory.from_listing(name, now_s)
        if entry is Special.LOCAL:
            entry = None
        if present is None and (entry is None or not self.eviction.has_plenty):
            return await self._lookup_new(parent, name)
        if entry is None:
            entry, question = await self.find(parent, name)
        return await self.adopt(parent, name, entry, question=question)

    async def _lookup_new(self, parent: Inode, name: str) -> Inode:
        """As `lookup`; memory is reserved before the answer, for which this may have to wait."""
        if not is_visible(name):
            raise NotFoundError(f"{name!r} cannot be shown")
        room = self.eviction.room_now(self._bytes_for(parent, name))
        with room or await self.room(parent.ino, name, is_look_up=True):
            now_s = self._clock.monotonic_s()
            entry, question = self.directory(parent).from_listing(name, now_s)
            if entry is None or entry is Special.LOCAL:
                entry, question = await self.find(parent, name)
            return await self.adopt(parent, name, entry, question=question)

    async def find(self, parent: Inode, name: str) -> tuple[Entry, int]:
        """Ask S3 what a name stands for; a change by this mount during the request wins.

        Returns the entry, and the number of the question.
        """
        directory = self.directory(parent)
        key = child_key(self.inodes.key(parent), name, is_dir=False)
        known, question = self.inodes.child(parent.ino, name), self.sizes.next_question()
        with directory.observe(name) as observation:
            entry = await self._resolver.resolve(
                key, link_last=known is not None and not known.is_link
            )
        if observation.change is not None:
            return observation.change, question
        if child_key(self.inodes.key(parent), name, is_dir=False) != key:
            return await self.find(parent, name)  # the directory was renamed
        self.learn(parent, name, entry, question=question)
        return entry, question

    def learn(self, parent: Inode, name: str, entry: Entry, *, question: int) -> None:
        """Correct listings, unless a newer question was answered before."""
        known = self.inodes.child(parent.ino, name)
        if known is None or known.question <= question:
            self.directory(parent).learn(name, entry, question=question)

    async def adopt(self, parent: Inode, name: str, entry: Entry, *, question: int) -> Inode:
        """The inode that stands for an entry: the present one, renewed, or a new one.

        Raises:
            NotFoundError: the entry says that there is nothing.

        """
        present, local = self.inodes.child(parent.ino, name), self.directory(parent).local
        if present is not None and local.get(name) is present:
            return present
        if entry is Special.ABSENT or entry is Special.LOCAL:
            if present is not None:
                self._vanished(present)
            if self.made_here:
                self.made_here.discard(child_key(self.inodes.key(parent), name, is_dir=True))
            raise NotFoundError(f"no file or directory {name!r}")
        if entry is Special.DIRECTORY:
            if present is not None and present.is_dir:
                return present
            return self.inodes.add(parent.ino, name, Kind.DIRECTORY)
        kind = Kind.LINK if isinstance(entry, SymbolicLink) else Kind.FILE
        info = entry.info if isinstance(entry, SymbolicLink) else entry
        if present is None or present.kind is not kind:
            return self.inodes.add(parent.ino, name, kind, info=info, question=question)
        return await self._adopt_version(present, info, (parent, name, entry), question=question)

    async def _adopt_version(
        self, present: Inode, info: ObjectInfo, of: tuple[Inode, str, Entry], *, question: int
    ) -> Inode:
        """As `adopt`; present: has the name. of: what is adopted, the version info."""
        parent, name, entry = of
        try:
            is_renewed = await self.versions.renew(present, info, question=question)
        except StaleError:
            if self.inodes.child(parent.ino, name) is present:
                raise
            entry, question = await self.find(parent, name)  # this mount has renamed it
            return await self.adopt(parent, name, entry, question=question)
        is_local = self.directory(parent).local.get(name) is present
        if self.inodes.child(parent.ino, name) is not present or is_local:
            # Forgotten during the request, or opened for writing.
            return await self.adopt(parent, name, entry, question=question)
        if is_renewed:
            return present
        return self.inodes.add(parent.ino, name, present.kind, info=info, question=question)

    def _vanished(self, inode: Inode) -> None:
        """Another client removed it.

        A directory that the kernel holds (a working directory, a subPath) stays usable, and has
        the same inode if its name comes back.
        """
        if inode.is_dir:
            self.inodes.let_go(inode)
        else:
            self.inodes.unlink(inode)

    # names that this mount makes, moves and removes

    def new_name(
        self, parent: int, name: bytes, *, is_dir: bool, is_link: bool = False
    ) -> tuple[Inode, str, str]:
        """The directory, name and key of a new name, which S3 can hold and a directory can show.

        Raises:
            InvalidNameError, KeyTooLongError: they cannot.
            NotFoundError: the directory was removed.

        """
        above, text = self.inodes.get(parent), decode_name(name)
        if not above.is_dir:
            raise NotDirectoryError(f"{above.name}: is a file")
        if not above.is_linked:
            raise NotFoundError("the directory was removed")
        limit = MAX_NAME_BYTES - (len(LINK_SUFFIX) if is_link else 0)
        if len(name) > limit:
            raise KeyTooLongError(f"a name of {len(name)} bytes", f"{limit} at most: shorten it")
        if not is_visible(text):
            raise InvalidNameError(f"{text!r} cannot be shown in a directory", "use another name")
        if self._config.symlinks and link_name(text) and not (is_dir or is_link):
            raise InvalidNameError(
                f"a file {text!r} would be shown as a symbolic link",
                "use another name, or the mount option symlinks=off",
            )
        component = f"{text}{LINK_SUFFIX}" if is_link else text
        return above, text, child_key(self.inodes.key(above), component, is_dir=is_dir)

    async def check_empty(self, directory: Inode) -> bool:
        """Whether an empty directory has a marker.

        Raises:
            NotEmptyError: it holds something.

        """
        key = self.inodes.key(directory)
        keys = (await first_below(self._store, key, 2)).keys()
        if keys - {key} or self.directory(directory).local:
            raise NotEmptyError(f"{key}: not empty")
        return bool(keys)

    def move(self, inode: Inode, into: Inode, new: str) -> None:
        """Give it another name: in the table, in what is local, and in what listings show."""
        above, old = self.inodes.get(inode.parent), inode.name
        was_local = self.directory(above).local.get(old) is inode
        if was_local:
            self.local_names.drop(above, old)
        self.directory(above).note(old, Special.ABSENT)
        self.inodes.move(inode, into.ino, new)
        if inode.is_dir and inode.has_runtime:  # else nothing is listed of it, or below it
            self._moves.note(self.directory(inode))
        for directory in (above, into):
            self.entries_changed(directory)
        if was_local:
            self.local_names.add(into, inode)
        self.directory(into).note(new, Special.LOCAL if was_local else inode.entry(inode.info))
        self.local_names.keep(above)  # until rmdir, even if that was its last name

    def forget_name(self, inode: Inode) -> None:
        """Let the kernel look the name up again, before its cached entry expires."""
        self._kernel.forget_name(inode.parent, inode.name.encode())

    # what the kernel holds

    def remember(self, inode: Inode) -> bool:
        """Count a reference of the kernel. False: it should not be given many more inodes now."""
        self.inodes.remember(inode)
        return self.eviction.check()

    async def room(self, parent: int, name: str, *, is_look_up: bool = False) -> Room:
        """As `Eviction.room`, for one inode of that name."""
        n = self._bytes_for(self.inodes.get(parent), name)
        return await self.eviction.room(n, is_look_up=is_look_up, directory=parent)

    def _bytes_for(self, above: Inode, name: str) -> int:
        key = self.inodes.key_of_directory(above)
        return NEW_INODE_BYTES + 2 * getsizeof(name) + getsizeof(key)

    async def give_back(self, *, unused_s: float) -> None:
        """Drop what nothing has used for so long, and what is not worth its memory then.

        While `metadata-ttl` lasts, the kernel may use names without a request.
        """
        self.listings.drop_old_pages()
        if unused_s > self._config.metadata_ttl_s:
            await self.eviction.drop_unused()

    # attributes

    async def refresh(self, inode: Inode) -> float:
        """Ask S3 again about a file that is not open. Returns how many seconds that is valid.

        Raises:
            NotFoundError: it is gone, or a directory has its name now.

        """
        ttl_s = self._config.metadata_ttl_s
        if inode.is_dir or not inode.is_linked or inode.is_open or self.versions.is_fresh(inode):
            return ttl_s  # an open file keeps its version, a directory its existence
        now_s = self._clock.monotonic_s()
        if (left_s := self.sizes.reusable_for_s(inode, now_s)) > 0:
            return left_s
        parent, key = self.inodes.get(inode.parent), self.inodes.key(inode)
        entry, question = self.directory(parent).from_listing(inode.name, now_s)
        info = inode.info_of(entry)
        if info is None:
            entry, question = await self.find(parent, inode.name)
            info = inode.info_of(entry)
        if self.inodes.key(inode) != key:
            return ttl_s  # renamed by this mount
        if info is None or not await self.versions.renew(inode, info, question=question):
            if inode.is_open:
                return ttl_s  # opened during the request
            self.inodes.unlink(inode)
            raise NotFoundError(f"{inode.name!r} is gone")
        return ttl_s

    def attributes(self, inode: Inode) -> Attributes:
        return attributes(inode, self._config, mounted_ns=self._mounted_ns)

    def entry_attributes(self, parent: Inode, name: str, entry: Entry) -> Attributes:
        """Of a listed name for which there is no inode."""
        return entry_attributes(f"{parent.ino}/{name}", entry, self._config)

    def entries_changed(self, directory: Inode) -> None:
        """This mount made or removed a name in it: set its time, for programs that cache listings.

        Python's import system lists a directory again only when its time has changed.
        """
        directory.set_times(mtime_ns=self._clock.realtime_ns())
