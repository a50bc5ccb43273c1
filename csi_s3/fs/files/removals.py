"""unlink and rmdir. What becomes of a file's bytes is in `write_back`."""

from csi_s3.errors import IsDirectoryError, NotDirectoryError, NotEmptyError, StaleError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import decode_name
from csi_s3.fs.files.write_back import WriteBack
from csi_s3.fs.listings.entries import Special
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.tree import Tree


class Removals:
    """Concurrency and cancellation: as `FileSystem`, whose part it is."""

    def __init__(self, context: MountContext, *, tree: Tree, write_back: WriteBack) -> None:
        self._context, self._store, self._key_lock = context, context.store, context.key_lock
        self._tree, self._inodes, self._write_back = tree, tree.inodes, write_back

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove a directory that holds nothing but its marker, even if the caller gives up.

        Raises:
            NotEmptyError: it holds something.
            NotPermittedError: without allow-delete, unless it was made through this mount.

        """
        text = decode_name(name)
        await self._tree.name_changes.settled((parent, text))
        above = self._inodes.get(parent)
        inode = self._inodes.child(parent, text) or await self._tree.lookup(above, text)
        if not inode.is_dir:
            raise NotDirectoryError(f"{text}: not a directory")
        if not self._tree.made_here or self._inodes.key(inode) not in self._tree.made_here:
            self._context.check_allowed("allow-delete", f"rmdir of {self._inodes.key(inode)}")
        if self._tree.directory(inode).local:
            raise NotEmptyError(f"{text}: not empty")

        async def removing() -> None:
            # Alone: a change below it, whose caller has given up, may still reach S3.
            async with self._key_lock.move(lambda: self._inodes.key(inode)) as (key,):
                self._check_still(above, text, inode)
                if await self._tree.check_empty(inode):
                    await self._store.delete(key)
                self._removed(above, text, inode)

        await self._tree.name_changes.run(removing, f"rmdir of {text}", (parent, text))

    async def unlink(self, parent: int, name: bytes) -> None:
        """Delete a file, even if the caller gives up; open handles on it go on working.

        Raises:
            NotPermittedError: without allow-delete, unless its creator has it open.

        """
        text = decode_name(name)
        await self._tree.name_changes.settled((parent, text))
        above = self._inodes.get(parent)
        inode = self._inodes.child(parent, text) or await self._tree.lookup(above, text)
        if inode.is_dir:
            raise IsDirectoryError(f"{text}: is a directory")
        if not self._write_back.is_exempt(inode):
            self._context.check_allowed("allow-delete", f"unlink of {self._inodes.key(inode)}")

        async def remove() -> None:
            stored = inode.info if inode.writer is None else inode.writer.base or inode.info
            if stored is not None:  # else an object there is another client's
                await self._store.delete(self._inodes.key(inode))
            self._removed(above, text, inode)

        async def removing() -> None:
            async with self._key_lock.change(lambda: self._inodes.key(inode)):
                self._check_still(above, text, inode)
                await self._write_back.set_aside(inode, remove)

        what, progress = f"unlink of {text}", self._context.progress_timeout.rename
        await self._tree.name_changes.run(removing, what, (parent, text), progress=progress)

    def _check_still(self, above: Inode, name: str, inode: Inode) -> None:
        """What has the name may have changed before the turn began."""
        if self._inodes.child(above.ino, name) is not inode:
            raise StaleError(f"{name}: changed concurrently")

    def _removed(self, above: Inode, name: str, inode: Inode) -> None:
        """The name is gone; the directory stays until rmdir even if that was its last key."""
        if inode.is_dir and self._tree.made_here:
            self._tree.made_here.discard(self._inodes.key(inode))
        self._tree.local_names.drop(above, name)
        self._tree.directory(above).note(name, Special.ABSENT)
        self._tree.entries_changed(above)
        self._inodes.unlink(inode)
        self._tree.local_names.keep(above)
