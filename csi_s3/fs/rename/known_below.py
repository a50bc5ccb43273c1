"""The inodes below a directory that is renamed: whether they can have their keys, and their copies.

The kernel may know a hundred thousand. Each step handles STEP of them, so that the mount goes on
answering; state may change in between.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import TypeVar

from csi_s3.fs.base.keys import check_key, link_name
from csi_s3.fs.files.write_back import WriteBack
from csi_s3.fs.names.inode import Inode, Kind
from csi_s3.fs.names.tree import Tree
from csi_s3.fs.rename.tree_copy import Copied, TreeCopy
from csi_s3.s3.store import Version

STEP = 1000

T = TypeVar("T")


class KnownBelow:
    """Lifetime: one rename, which holds the range of keys, so that no name below moves away."""

    def __init__(self, directory: Inode, *, tree: Tree, write_back: WriteBack) -> None:
        self._directory, self._tree, self._write_back = directory, tree, write_back
        self._inodes = tree.inodes
        self._checked: set[int] = set()

    async def check_keys(self, old: str, new: str) -> Sequence[Inode]:
        """Whether all names below can have their new keys; those checked before can.

        Also of files that are not stored yet: they could not be stored later. Returns what is known
        below when the last one has been checked, without an await in between.

        Raises:
            KeyTooLongError: one cannot.

        """
        is_longer = len(new.encode()) > len(old.encode())
        is_over = False
        await asyncio.sleep(0)
        while not is_over:
            known = self._inodes.below(self._directory)
            left = [i for i in known if i.ino not in self._checked] if is_longer else []
            is_over = len(left) <= STEP
            for inodes in _steps(left):
                for inode in inodes:
                    if self._is_there(inode):
                        check_key(new + self._inodes.key(inode)[len(old) :])
                self._checked.update(i.ino for i in inodes)
                if not is_over:
                    await asyncio.sleep(0)
        return known

    async def follow(self, known: Sequence[Inode], copied: TreeCopy, old: str) -> None:
        """Let the files below stand for the copies; the directory has its new key.

        Not files that were never stored, or that another client removed or replaced: those are
        stale while they are open, and the next look-up finds another version.
        old: the directory's old key. The objects at old keys are still there.
        """
        with self._tree.moves.one():
            await asyncio.sleep(0)
            if all(i.kind is Kind.DIRECTORY for i in known):
                return
            for page in copied.pages():
                for copies in _steps(page):
                    self._follow(copies, old)
                    await asyncio.sleep(0)
        for inodes in _steps(known):
            for inode in inodes:
                if inode.fresh_until and not inode.is_dir and self._is_there(inode):
                    self._check_version(inode)
            await asyncio.sleep(0)

    def _follow(self, copies: Sequence[Copied], old: str) -> None:
        directories: dict[str, Inode | None] = {"": self._directory}
        for key, old_etag, etag in copies:
            directory, _, name = key[len(old) :].rpartition("/")
            if directory not in directories:
                directories[directory] = self._directory_at(directory)
            above = directories[directory]
            inode = None if above is None else self._file(above, name)
            if inode is None:
                continue
            known = inode.info if inode.writer is None else inode.writer.base
            if known is not None and old_etag and known.version == Version(old_etag):
                now = known._replace(key=self._inodes.key(inode), etag=etag)
                self._write_back.moved(inode, now)

    def _check_version(self, inode: Inode) -> None:
        """Have S3 asked about a file that has not followed."""
        if inode.info is None or inode.info.key != self._inodes.key(inode):
            inode.set_fresh(0.0)

    def _is_there(self, inode: Inode) -> bool:
        """Whether it has not been forgotten since it was found; it has a key then."""
        return self._inodes.child(inode.parent, inode.name) is inode

    def _directory_at(self, path: str) -> Inode | None:
        directory: Inode | None = self._directory
        for name in path.split("/"):
            directory = directory and self._inodes.child(directory.ino, name)
        return directory

    def _file(self, directory: Inode, name: str) -> Inode | None:
        """The file, or symbolic link, that the last component of a key stands for."""
        found = self._inodes.child(directory.ino, name)
        if found is not None and not (found.is_dir or found.is_link):
            return found
        link = link_name(name)
        found = None if link is None else self._inodes.child(directory.ino, link)
        return found if found is not None and found.is_link else None


def _steps(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + STEP] for start in range(0, len(items), STEP))
