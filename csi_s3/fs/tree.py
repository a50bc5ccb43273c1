"""The tree that a bucket shows: which inode a name stands for, in which version, and how it looks.

Asks S3 (or a listing that is fresh enough) and turns answers into inodes; changes nothing in S3.
"""

import asyncio
import logging
import stat
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from csi_s3.aio import KeyLocks
from csi_s3.config.volume import TreeConfig
from csi_s3.errors import (
    AccessDeniedError,
    InvalidNameError,
    KeyTooLongError,
    NotDirectoryError,
    NotFoundError,
    VolumeError,
)
from csi_s3.fs.directory import Directory, Found, Listing, Special
from csi_s3.fs.inodes import ROOT, Inode, Inodes
from csi_s3.fs.keys import MAX_NAME_BYTES, child_key, decode_name, is_visible
from csi_s3.obs import metrics
from csi_s3.s3.store import ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

INODE_BYTES = 900  # measured: 852 for a file with a key of 25 characters
INODES_SHARE = 4  # of the memory budget; buffers have a budget of their own


class Kernel(Protocol):
    """What the file system may ask of the kernel; `fuse.session` is the real one."""

    async def invalidate_inode(self, ino: int) -> None:
        """Drop the pages and attributes it holds of the inode; returns when they are gone."""
        ...

    def forget_name(self, parent: int, name: bytes) -> None:
        """Ask it to drop a name that nobody uses, and so its inode; it may take its time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """monotonic_s for durations, realtime_ns for time stamps that people see."""

    monotonic_s: Callable[[], float] = time.monotonic
    realtime_ns: Callable[[], int] = time.time_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What stat shows, and for how long the kernel may believe it. mode has the kind's bits."""

    ino: int
    mode: int
    size: int
    nlink: int
    uid: int
    gid: int
    mtime_ns: int
    ttl_s: float

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Tree:
    """Concurrency: inodes change between awaits only; a change of a file's version holds its lock.

    Cancellation: every method may be cancelled; what S3 answered until then is kept or not.
    """

    def __init__(
        self,
        store: ObjectStore,
        config: TreeConfig,
        *,
        prefix: str,
        kernel: Kernel,
        clock: Clock,
        group: asyncio.TaskGroup,
    ) -> None:
        self.inodes = Inodes(prefix)
        self.versions: KeyLocks[int] = KeyLocks()  # held while an inode's version may change
        self._store, self._config, self._kernel, self._clock = store, config, kernel, clock
        self._group = group
        self._mounted_ns = clock.realtime_ns()
        self._inodes_limit = config.budget_bytes // INODES_SHARE // INODE_BYTES
        self._evict_above = self._inodes_limit
        self._snapshots: deque[tuple[float, Directory, Listing, int]] = deque()
        self._snapshot_names = 0

    # names

    def directory(self, inode: Inode) -> Directory:
        if not inode.is_dir:
            raise NotDirectoryError(f"{self.inodes.key(inode)}: not a directory")
        if inode.directory is None:
            inode.directory = Directory()
        return inode.directory

    async def lookup(self, parent: Inode, name: str) -> Inode:
        """The inode behind a name.

        Raises:
            NotFoundError: nothing there.

        """
        directory = self.directory(parent)
        local = directory.local.get(name)
        if local is not None:
            return local
        if not is_visible(name):
            raise NotFoundError(f"{name!r} cannot be shown")
        present = self.inodes.child(parent.ino, name)
        if present is not None and self.is_fresh(present):
            return present
        found = directory.from_snapshot(name, self._clock.monotonic_s())
        if found is None or found is Special.LOCAL:
            found = await self.find(parent, name)
        return await self.adopt(parent, name, found)

    async def find(self, parent: Inode, name: str) -> Found:
        """Ask S3 what a name stands for; what we did to it meanwhile wins."""
        directory = self.directory(parent)
        key = child_key(self.inodes.key(parent), name, is_dir=False)
        with directory.observe() as began:
            found = await self._ask(key)
            changed = directory.changed_since(began, name)
        if changed is not None:
            return changed
        directory.learn(name, found)
        return found

    async def _ask(self, key: str) -> Found:
        """HEAD of the file and LIST of the directory at once; a directory hides a file."""
        async with asyncio.TaskGroup() as both:
            head = both.create_task(self._head(key))
            is_dir = await self._has_keys(f"{key}/")
            if is_dir is True:  # HEAD is waited for: cancelled, it would cost its connection
                return Special.DIRECTORY
        if isinstance(is_dir, VolumeError) and not isinstance(is_dir, AccessDeniedError):
            raise is_dir  # a file may be hidden by a directory: HEAD alone decides nothing
        outcome = head.result()
        if isinstance(outcome, AccessDeniedError) and is_dir is False:
            return await self._from_list(
                key
            )  # HEAD needs GetObject; LIST is allowed, so it decides
        if isinstance(outcome, NotFoundError) and is_dir is False:
            return Special.ABSENT
        if isinstance(outcome, ObjectInfo):
            return outcome
        raise is_dir if isinstance(is_dir, VolumeError) else outcome

    async def _head(self, key: str) -> ObjectInfo | VolumeError:
        try:
            return await self._store.head(key)
        except VolumeError as exc:
            return exc

    async def _has_keys(self, prefix: str) -> bool | VolumeError:
        try:
            page = await self._store.list_page(prefix, max_keys=1)
        except VolumeError as exc:
            return exc
        return bool(page.objects or page.prefixes)

    async def _from_list(self, key: str) -> Found:
        page = await self._store.list_page(key, max_keys=1)
        if page.objects and page.objects[0].key == key:
            return page.objects[0]
        return Special.ABSENT

    async def adopt(self, parent: Inode, name: str, found: Found) -> Inode:
        """The inode that stands for what was found: the present one, changed or not, or a new one.

        Raises:
            NotFoundError: nothing was found.

        """
        present = self.inodes.child(parent.ino, name)
        if present is not None and self.directory(parent).local.get(name) is present:
            return present
        if found is Special.ABSENT or found is Special.LOCAL:
            if present is not None:
                self._vanished(present)
            raise NotFoundError(f"no file or directory {name!r}")
        if found is Special.DIRECTORY:
            if present is not None and present.is_dir:
                return present
            return self.inodes.add(parent.ino, name, is_dir=True)
        assert isinstance(found, ObjectInfo)  # noqa: S101 - for mypy
        if present is None or present.is_dir or not await self.renew(present, found):
            return self.inodes.add(parent.ino, name, is_dir=False, info=found)
        return present

    def _vanished(self, inode: Inode) -> None:
        """Somebody else removed it.

        A directory that the kernel holds (a working directory, a subPath) stays usable, and is
        the same one when its name comes back.
        """
        if inode.is_dir:
            inode.is_ours = False
            self.inodes.drop_unused(inode)
        else:
            self.inodes.unlink(inode)

    def is_fresh(self, inode: Inode) -> bool:
        """Whether a `metadata-ttl` set by hand lets us answer without S3."""
        return (
            self._config.metadata_ttl_by_hand
            and not inode.is_dir
            and self._clock.monotonic_s() < inode.fresh_until
        )

    async def renew(self, inode: Inode, info: ObjectInfo) -> bool:
        """Let a file's inode stand for this version; False if it cannot, because handles are open.

        The kernel's pages of another version are gone when this returns.
        """
        inode.fresh_until = self._clock.monotonic_s() + self._config.metadata_ttl_s
        if inode.is_version(info) and not self.versions.busy(inode.ino):
            inode.info = info
            return True
        async with self.versions.hold(inode.ino):
            if inode.is_version(info):
                return True
            if inode.maybe_cached and not inode.is_open:
                await self._kernel.invalidate_inode(inode.ino)  # cancelled: it is as it was
            if inode.is_open:
                return False
            inode.info, inode.mtime_ns, inode.maybe_cached = info, None, False
        return True

    # names that S3 may not show (yet)

    def new_name(self, parent: int, name: bytes, *, is_dir: bool) -> tuple[Inode, str, str]:
        """Where a new name goes, and its key, once it is sure that S3 can hold and we show it."""
        above, text = self.inodes.get(parent), decode_name(name)
        if not above.is_linked:
            raise NotFoundError("the directory was removed")
        if len(name) > MAX_NAME_BYTES:
            raise KeyTooLongError(f"a name of {len(name)} bytes", "255 at most: shorten it")
        if not is_visible(text):
            raise InvalidNameError(f"{text!r} cannot be shown again", "use another name")
        return above, text, child_key(self.inodes.key(above), text, is_dir=is_dir)

    def add_local(self, parent: Inode, inode: Inode) -> None:
        """The name exists whatever S3 says, and so do the directories above it."""
        self.directory(parent).local[inode.name] = inode
        if parent.ino != ROOT and parent.is_linked:
            self.add_local(self.inodes.get(parent.parent), parent)

    def drop_local(self, parent: Inode, name: str) -> None:
        """Only S3 says from now on whether the name exists."""
        local = self.directory(parent).local
        local.pop(name, None)
        if parent.ino != ROOT and parent.is_linked and not parent.is_kept and not local:
            self.drop_local(self.inodes.get(parent.parent), parent.name)

    def keep(self, inode: Inode) -> None:
        """A directory exists from now on even if S3 has no key for it."""
        if inode.ino != ROOT and inode.is_linked:
            inode.is_kept = True
            self.add_local(self.inodes.get(inode.parent), inode)

    def forget_name(self, inode: Inode) -> None:
        """Have the kernel ask about the name again, before its time is up."""
        self._kernel.forget_name(inode.parent, inode.name.encode())

    def evict(self) -> None:
        """Keep the inode table to its share of memory: a `find` pins every name it has seen.

        Those that the kernel cannot drop, because they are in use, are asked for again only after
        as many new ones have come.
        """
        if len(self.inodes) <= self._evict_above:
            return
        batch = max(1, self._inodes_limit // 4)
        for inode in self.inodes.idle_files(batch):
            self.forget_name(inode)
        self._evict_above = max(self._inodes_limit, len(self.inodes) - batch) + batch

    # listings

    def list_directory(self, inode: Inode) -> Listing:
        directory = self.directory(inode)
        listing = Listing(self._store, self.inodes.key(inode), directory, self._group)
        directory.opened(listing)
        return listing

    def close_listing(self, inode: Inode, listing: Listing) -> None:
        valid_until = self._clock.monotonic_s() + self._config.metadata_ttl_s
        directory = self.directory(inode)
        directory.closed(listing, valid_until=valid_until)
        listing.close()
        self._tell_hidden(inode, listing)
        self._snapshots.append((valid_until, directory, listing, len(listing.names)))
        self._snapshot_names += len(listing.names)
        self._drop_old_snapshots()

    def _drop_old_snapshots(self) -> None:
        """Give back listings that are out of date, and the oldest beyond the inodes' share."""
        now = self._clock.monotonic_s()
        while self._snapshots:
            valid_until, directory, listing, names = self._snapshots[0]
            if now < valid_until and self._snapshot_names <= self._inodes_limit:
                return
            self._snapshots.popleft()
            self._snapshot_names -= names
            directory.drop_snapshot(listing)

    def _tell_hidden(self, inode: Inode, listing: Listing) -> None:
        directory = self.directory(inode)
        if not listing.hidden:
            return
        metrics.HIDDEN_NAMES.inc(len(listing.hidden))
        if not directory.hidden_logged:
            directory.hidden_logged = True
            log.info(
                "%d keys in %r cannot be shown as names, the first: %r",
                len(listing.hidden),
                self.inodes.key(inode),
                listing.hidden[0],
                extra={"op": "readdir", "code": "hidden-names"},
            )

    # attributes

    async def refresh(self, inode: Inode) -> None:
        """Ask S3 again about a file that nobody holds open.

        Raises:
            NotFoundError: it is gone, or a directory has its name now.

        """
        if inode.is_dir or not inode.is_linked or inode.handles or inode.writer is not None:
            return  # an open file is the version that was opened; a held directory stays
        if self.is_fresh(inode):
            return
        parent = self.inodes.get(inode.parent)
        fresh = self.directory(parent).from_snapshot(inode.name, self._clock.monotonic_s())
        if isinstance(fresh, ObjectInfo):
            found: Found = fresh
        else:
            found = await self.find(parent, inode.name)
        if not isinstance(found, ObjectInfo) or not await self.renew(inode, found):
            if inode.writer is not None or inode.handles:
                return  # opened meanwhile
            self.inodes.unlink(inode)
            raise NotFoundError(f"{inode.name!r} is gone")

    def attributes(self, inode: Inode) -> Attributes:
        config = self._config
        if inode.is_dir:
            mode, size, mtime_ns = stat.S_IFDIR | config.dir_mode, 0, self._mounted_ns
        else:
            mode, size, mtime_ns = stat.S_IFREG | config.file_mode, *self._size_and_mtime(inode)
            if inode.info is not None and inode.info.archived and inode.writer is None:
                mode = stat.S_IFREG
        return Attributes(
            ino=inode.ino,
            mode=mode,
            size=size,
            nlink=2 if inode.is_dir else 1,
            uid=config.uid,
            gid=config.gid,
            mtime_ns=inode.mtime_ns if inode.mtime_ns is not None else mtime_ns,
            ttl_s=config.metadata_ttl_s,
        )

    def _size_and_mtime(self, inode: Inode) -> tuple[int, int]:
        if inode.writer is not None:
            return inode.writer.size, self._mounted_ns
        if inode.info is None:
            return 0, self._mounted_ns
        return inode.info.size, int(inode.info.last_modified) * 1_000_000_000
