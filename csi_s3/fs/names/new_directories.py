"""mkdir: a directory is an object, its marker, or with dir-markers=off a name on this mount."""

from functools import partial

from csi_s3.errors import ExistsError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import child_key, decode_name
from csi_s3.fs.listings.entries import Special
from csi_s3.fs.names.attributes import Attributes
from csi_s3.fs.names.exclusive_create import put_new_if_possible
from csi_s3.fs.names.inode import Inode, Kind
from csi_s3.fs.names.tree import Tree


class NewDirectories:
    """Concurrency and cancellation: as `FileSystem`, whose part it is."""

    def __init__(self, context: MountContext, tree: Tree) -> None:
        self._store, self._config, self._key_lock = context.store, context.config, context.key_lock
        self._tree, self._inodes = tree, tree.inodes

    async def make(self, parent: int, name: bytes) -> Attributes:
        """Make a directory: its marker object, or a local one with dir-markers=off.

        Raises:
            ExistsError: anything has the name.

        """
        await self._tree.name_changes.settled((parent, decode_name(name)))
        above, text, key = self._tree.new_name(parent, name, is_dir=True)
        directory = self._tree.directory(above)
        if text in directory.local or (await self._tree.find(above, text))[0] is not Special.ABSENT:
            raise ExistsError(f"{key}: exists")
        with await self._tree.room(parent, text):
            if self._config.dir_markers:
                work = partial(self._put_marker, above, text)
                await self._tree.name_changes.run(work, f"mkdir of {text}", (parent, text))
                inode = self._new_directory(above, text)
            else:
                self._tree.local_names.check_directory()
                inode = self._new_directory(above, text)
                self._made_directory(above, text)
                self._tree.local_names.keep(inode, is_local=True)
            self._tree.entries_changed(inode)
            self._tree.remember(inode)
        return self._tree.attributes(inode)

    async def _put_marker(self, above: Inode, text: str) -> None:
        async with self._key_lock.change(lambda: self._key(above, text)) as (marker,):
            await put_new_if_possible(self._store, marker, b"")
        self._made_directory(above, text)

    def _made_directory(self, above: Inode, text: str) -> None:
        if not self._config.allow_delete:
            self._tree.made_here.add(self._key(above, text))
        self._tree.directory(above).note(text, Special.DIRECTORY)
        self._tree.entries_changed(above)

    def _key(self, above: Inode, text: str) -> str:
        return child_key(self._inodes.key(above), text, is_dir=True)

    def _new_directory(self, above: Inode, text: str) -> Inode:
        present = self._inodes.child(above.ino, text)
        if present is not None and present.is_dir:
            return present
        return self._inodes.add(above.ino, text, Kind.DIRECTORY)
