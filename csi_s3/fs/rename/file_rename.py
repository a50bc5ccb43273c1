"""rename(2): copies inside the store, then deletes; the inode goes on under its new name.

A file is one copy and one delete. A directory is all its keys: see `directory_rename`. At any
moment each file is whole under at least one name.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from csi_s3.errors import (
    ExistsError,
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    ObjectChangedError,
    PreconditionFailedError,
    StaleError,
    VolumeError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import decode_name
from csi_s3.fs.files.write_back import WriteBack
from csi_s3.fs.listings.entries import Special
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.tree import Tree
from csi_s3.fs.rename.copies import Copies
from csi_s3.fs.rename.directory_rename import DirectoryRenames
from csi_s3.s3.store import ObjectInfo

log = logging.getLogger(__name__)


class Renames:
    """Concurrency: the kernel holds the directories whose entries change; `KeyRangeLock` all below.

    Cancellation: the caller runs it in a task of the mount, which is not cancelled.
    """

    def __init__(
        self,
        context: MountContext,
        *,
        tree: Tree,
        write_back: WriteBack,
        copies: Copies,
        directories: DirectoryRenames,
    ) -> None:
        self._context, self._store, self._key_lock = context, context.store, context.key_lock
        self._tree, self._write_back = tree, write_back
        self._copies, self._directories = copies, directories
        self._inodes = tree.inodes

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, may_replace: bool
    ) -> None:
        """Give a file or directory another name; what has that name is replaced, a file atomically.

        The kernel has looked both names up, so that is not repeated.

        Raises:
            ExistsError: the new name is there, and may_replace is not given.
            NotPermittedError: without allow-delete; over a file, without allow-overwrite.
            NotEmptyError, NotDirectoryError, IsDirectoryError: the new name cannot be replaced.
            VolumeError: what the store answered. The old name is still there, whole; where deletes
                failed after all copies were made, both may be.

        """
        above, old = self._inodes.get(parent), decode_name(name)
        inode = self._inodes.child(parent, old) or await self._tree.lookup(above, old)
        into, new, _ = self._tree.new_name(
            new_parent, new_name, is_dir=inode.is_dir, is_link=inode.is_link
        )
        target = self._inodes.child(into.ino, new)
        if target is not None and target.is_dir and not (inode.is_dir and may_replace):
            target = await self._if_there(target)
        if target is inode:
            return
        self._check(inode, target, may_replace=may_replace)
        if inode.is_dir:
            await self._directories.move(inode, into, new, target)
            return
        other = target or inode
        async with self._key_lock.move(
            lambda: self._inodes.key(inode),
            lambda: self._inodes.key_at(inode, into, new),
            lambda: self._inodes.key(other),  # a symbolic link has another key than a file
        ):
            self._check_still((above, old, inode), (into, new, target))
            await self._file(inode, into, new, target, may_replace=may_replace)

    def _check_still(self, *names: tuple[Inode, str, Inode | None]) -> None:
        """What the kernel has looked up may have changed before the turn began."""
        for parent, name, inode in names:
            if not parent.is_linked or self._inodes.child(parent.ino, name) is not inode:
                raise StaleError(f"{name}: changed concurrently")

    async def _if_there(self, target: Inode) -> Inode | None:
        """The directory, or None: another client emptied it; only its present users see it."""
        above = self._inodes.get(target.parent)
        if self._tree.directory(above).local.get(target.name) is target:
            return target
        if (await self._tree.find(above, target.name))[0] is not Special.ABSENT:
            return target
        self._inodes.unlink(target)
        return None

    def _check(self, inode: Inode, target: Inode | None, *, may_replace: bool) -> None:
        key = self._inodes.key(inode)
        if not self._write_back.is_exempt(inode):
            self._context.check_allowed("allow-delete", f"rename of {key} removes its old name")
        if target is None:
            return
        there = self._inodes.key(target)
        if not may_replace:
            raise ExistsError(f"{there}: exists")
        if inode.is_dir and not target.is_dir:
            raise NotDirectoryError(f"{there}: is a file, and {key} is a directory")
        if target.is_dir and not inode.is_dir:
            raise IsDirectoryError(f"{there}: is a directory, and {key} is a file")
        if not target.is_dir and not self._write_back.is_exempt(target):
            self._context.check_allowed("allow-overwrite", f"rename over {there} replaces it")

    # a file

    async def _file(
        self, inode: Inode, into: Inode, new: str, target: Inode | None, *, may_replace: bool
    ) -> None:
        new_key = self._inodes.key_at(inode, into, new)
        async with self._tree.versions.hold(inode.ino):
            source = await self._write_back.prepare_move(inode, over=target is not None)
            made: ObjectInfo | None = None

            async def put_in_place() -> None:
                nonlocal source, made
                if source is not None:
                    source, made = await self._copy(inode, source, new_key, may_replace=may_replace)
                    await self._remove_other_kind(inode, target, new_key)

            await self._over(target, put_in_place)
            if source is not None and made is not None:
                await self._remove_old(inode, source, made, (into, new), may_undo=target is None)
            self._tree.move(inode, into, new)

    async def _remove_other_kind(self, inode: Inode, target: Inode | None, made: str) -> None:
        """Of a file over a symbolic link, or the reverse: the two have different keys."""
        if target is None or target.is_link == inode.is_link:
            return
        try:
            await self._store.delete(self._inodes.key(target))
        except VolumeError:
            with suppress(VolumeError):
                await self._store.delete(made)  # as before the rename; it would be a second name
            raise

    async def _over(
        self, target: Inode | None, put_in_place: Callable[[], Awaitable[None]]
    ) -> None:
        if target is None:
            await put_in_place()
            return
        await self._write_back.set_aside(target, put_in_place)
        self._tree.local_names.drop(self._inodes.get(target.parent), target.name)
        self._inodes.unlink(target)

    async def _copy(
        self, inode: Inode, source: ObjectInfo, key: str, *, may_replace: bool
    ) -> tuple[ObjectInfo, ObjectInfo]:
        """The source that was copied, and the copy."""
        try:
            try:
                return source, await self._copies.one(source, key, if_none_match=not may_replace)
            except (ObjectChangedError, NotFoundError) as exc:
                if inode.is_open:
                    raise StaleError(f"{source.key}: replaced or removed concurrently") from exc
            now = await self._store.head(source.key)  # another client's version
            if not await self._tree.versions.renew_held(inode, now):
                raise StaleError(f"{source.key}: replaced concurrently while it was opened")
            return now, await self._copies.one(now, key, if_none_match=not may_replace)
        except PreconditionFailedError as exc:
            raise ExistsError(f"{key}: exists") from exc

    async def _remove_old(
        self,
        inode: Inode,
        source: ObjectInfo,
        made: ObjectInfo,
        new: tuple[Inode, str],
        *,
        may_undo: bool,
    ) -> None:
        """Let the inode stand for the copy, and remove its old name.

        Raises:
            VolumeError: the old name stays. The new one is removed again if it may be, and if the
                delete of the old one cannot take effect any more; else both names are there.

        """
        key = self._inodes.key(inode)
        self._write_back.moved(inode, made)
        try:
            await self._store.delete(key, if_match=source.etag)
        except ObjectChangedError as exc:
            log.info(
                "%s was modified concurrently while it was renamed to %s: %s", key, made.key, exc
            )
        except VolumeError as exc:
            if exc.retryable and await self._is_gone(key):
                return  # only the answer was lost
            self._write_back.moved(inode, source)
            if exc.retryable or not may_undo or not await self._is_deleted(made):
                directory, name = new
                self._tree.directory(directory).note(name, inode.entry(made))
            raise

    async def _is_deleted(self, made: ObjectInfo) -> bool:
        """Delete it; whether that succeeded."""
        try:
            await self._store.delete(made.key, if_match=made.etag)
        except VolumeError:
            return False
        return True

    async def _is_gone(self, key: str) -> bool:
        try:
            await self._store.head(key)
        except NotFoundError:
            return True
        except VolumeError:
            return False
        return False
