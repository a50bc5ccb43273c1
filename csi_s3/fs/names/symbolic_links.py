"""Symbolic links: the object `name.rclonelink` holds the target of the link `name`.

The convention is rclone's. A link is seen in a listing without asking for each object, and any S3
tool can make and read one. Rejected: a header or user metadata of the object, which a listing does
not show. `lookup` and `directory` decide which of several things a name stands for.
"""

from sys import getsizeof

from csi_s3.errors import BadLinkError, ExistsError, NotFoundError, NotPermittedError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import LINK_SUFFIX, child_key, decode_name
from csi_s3.fs.listings.entries import SymbolicLink
from csi_s3.fs.names.attributes import Attributes
from csi_s3.fs.names.exclusive_create import put_new_if_possible
from csi_s3.fs.names.inode import RUNTIME_BYTES, Inode, Kind
from csi_s3.fs.names.tree import Tree
from csi_s3.s3.store import ObjectInfo

MAX_TARGET_BYTES = 4095  # PATH_MAX, less its NUL


class SymbolicLinks:
    """Concurrency and cancellation: as `FileSystem`, whose part it is."""

    def __init__(self, context: MountContext, tree: Tree) -> None:
        self._store, self._config, self._tree = context.store, context.config, tree
        self._key_lock, self._clock = context.key_lock, context.clock

    async def make(self, parent: int, name: bytes, target: bytes) -> Attributes:
        """Make a link; it is in S3 when this returns.

        Raises:
            ExistsError: a link has the name. (The kernel has checked for anything else.)
            NotPermittedError: with symlinks=off.

        """
        if not self._config.symlinks:
            raise NotPermittedError(
                f"symbolic link {name!r}", "the mount option symlinks=off forbids it"
            )
        await self._tree.name_changes.settled((parent, decode_name(name)))
        above, text, _ = self._tree.new_name(parent, name, is_dir=False, is_link=True)
        if text in self._tree.directory(above).local:
            raise ExistsError(f"{text}: exists")

        def key() -> str:
            return child_key(self._tree.inodes.key(above), f"{text}{LINK_SUFFIX}", is_dir=False)

        async def put() -> ObjectInfo:
            async with self._key_lock.change(key) as (link,):
                info = await put_new_if_possible(self._store, link, target)
                self._tree.directory(above).note(text, SymbolicLink(info))
                self._tree.entries_changed(above)
                return info

        with await self._tree.room(parent, text):
            what = f"symlink {text}"
            info = await self._tree.name_changes.run(put, what, (parent, text))
            inode = self._tree.inodes.add(above.ino, text, Kind.LINK, info=info)
            inode.set_times(mtime_ns=self._clock.realtime_ns())
            self._keep_target(inode, target)
            self._tree.remember(inode)
        return self._tree.attributes(inode)

    async def read(self, ino: int) -> bytes:
        """The target, as it was given. One request for each version of a link.

        Raises:
            BadLinkError: what the object holds cannot be a target.

        """
        inode = self._tree.inodes.get(ino)
        if inode.runtime.target is not None:
            return inode.runtime.target
        key = self._tree.inodes.key(inode)
        try:
            chunk = await self._store.read_range(key, 0, MAX_TARGET_BYTES + 1)
        except NotFoundError:
            if self._tree.inodes.key(inode) == key:
                raise
            return await self.read(ino)  # renamed while it was read
        target = bytes(chunk.data)
        if not target or len(target) > MAX_TARGET_BYTES or b"\0" in target:
            raise BadLinkError(
                f"{key} holds {chunk.info.size} bytes that are not the target of a symbolic link",
                f"it has 1 to {MAX_TARGET_BYTES} bytes without NUL; symlinks=off shows a file",
            )
        if inode.is_version(chunk.info):
            self._keep_target(inode, target)
            self._tree.inodes.recount(inode)
        return target

    def _keep_target(self, inode: Inode, target: bytes) -> None:
        """Where there is memory for it; else each readlink reads it again."""
        if self._tree.eviction.has_room_for(RUNTIME_BYTES + getsizeof(target)):
            inode.set_target(target)
