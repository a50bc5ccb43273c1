"""The inodes below a directory that is renamed: whether they can have their keys, and their copies.

The kernel may know a hundred thousand. Each step handles STEP of them, so that the mount goes on
answering; state may change in between.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TypeVar

from csi_s3.fs.base.keys import check_key, link_name
from csi_s3.fs.files.write_back import WriteBack
from csi_s3.fs.names.inode import Inode
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
        self._unchecked: int | None = None  # the lowest number of those; None: nothing is checked

    async def find_written(self, matches: Callable[[Inode], bool]) -> list[Inode]:
        """The files below that are being changed and match; those that began during it may lack.

        They have no upload, because parts are sent with a turn of the keys. All have local names,
        as have the directories above them.
        """
        found: list[Inode] = []
        above, seen = [self._directory], 0
        while above:
            known = above.pop().runtime.directory
            for inodes in _steps([] if known is None else list(known.local.values())):
                there = [i for i in inodes if self._is_there(i)]
                found += [i for i in there if not i.is_dir and matches(i)]
                above += [i for i in there if i.is_dir]
                if (seen := seen + len(inodes) + 1) >= STEP:
                    await asyncio.sleep(0)
                    seen = 0
        return found

    async def check_keys(self, old: str, new: str) -> None:
        """Whether all names below can have their new keys; those checked before can.

        Also of files that are not stored yet: they could not be stored later. When this returns,
        it holds of all that are known, without an await in between.

        Raises:
            KeyTooLongError: one cannot.

        """
        if len(new.encode()) <= len(old.encode()):
            return
        if self._unchecked is None:
            self._unchecked = self._inodes.next_number
            async with aclosing(self._known()) as known:
                async for inodes in known:
                    self._check(inodes, old, new)
        while True:
            first, end = self._unchecked, min(self._unchecked + STEP, self._inodes.next_number)
            added = self._inodes.numbered(first, end)
            self._check([i for i in added if self._is_below(i)], old, new)
            self._unchecked = end
            if end == self._inodes.next_number:
                return
            await asyncio.sleep(0)

    def _check(self, inodes: Sequence[Inode], old: str, new: str) -> None:
        for inode in inodes:
            check_key(new + self._inodes.key(inode)[len(old) :])

    async def _known(self) -> AsyncGenerator[Sequence[Inode], None]:
        """What is known below, up to STEP at a time, with turns for others in between.

        Not all names that are added during it.
        """
        found: list[Inode] = []
        above = [self._directory]
        while above:
            for inodes in _steps(list(above.pop().runtime.names.values())):
                found += (there := [i for i in inodes if self._is_there(i)])
                above += [i for i in there if i.runtime.names]
                if len(found) >= STEP:
                    yield found
                    await asyncio.sleep(0)
                    found = []
        yield found

    async def follow(self, copied: TreeCopy, old: str) -> None:
        """Let the files below stand for the copies; the directory has its new key.

        Not files that were never stored, or that another client removed or replaced: those are
        stale while they are open, and the next look-up finds another version.
        old: the directory's old key. The objects at old keys are still there.
        """
        with self._tree.versions.moves.one():
            if not await self._has_files():
                return
            for page in copied.pages():
                for copies in _steps(page):
                    self._follow(copies, old)
                    await asyncio.sleep(0)
        async with aclosing(self._known()) as known:
            async for inodes in known:
                for inode in inodes:
                    if inode.fresh_until and not inode.is_dir:
                        self._check_version(inode)

    async def _has_files(self) -> bool:
        async with aclosing(self._known()) as known:
            async for inodes in known:
                if not all(i.is_dir for i in inodes):
                    return True
        return False

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

    def _is_below(self, inode: Inode) -> bool:
        return self._is_there(inode) and self._inodes.is_below(inode, self._directory)

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
