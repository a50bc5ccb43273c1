"""The table of inodes: by number, as the kernel names them, and by directory and name.

An inode number of a file stands for one version of one key for as long as a handle is open on it,
because page cache and size belong to the inode, not to the handle. Keys are not stored: they
follow from parent and name, so that renaming a directory moves one inode and not all that are
below it.
"""

from collections.abc import Iterator

from csi_s3.errors import StaleError
from csi_s3.fs.base.keys import LINK_SUFFIX, child_key
from csi_s3.fs.names.idle import IdleFiles
from csi_s3.fs.names.inode import FIRST_NUMBERS, ROOT, Inode, InodeNumbers, Kind
from csi_s3.s3.store import ObjectInfo


class Inodes:
    """The table. Concurrency: plain code only, so it is consistent between awaits.

    Lifetime of an entry: from `add` until nothing refers to it any more (`drop_unused`). No number
    is used twice.

    idle: the files that the kernel may be asked to drop. evictions_pending: so many of the table
    it was asked to drop, and has not yet.
    """

    def __init__(self, prefix: str, numbers: InodeNumbers = FIRST_NUMBERS) -> None:
        self.idle = IdleFiles()
        self.evictions_pending = 0
        self._prefix = prefix
        self._by_number: dict[int, Inode] = {}
        self._by_name: dict[tuple[int, str], Inode] = {}
        self._next, self._generation = numbers
        self._by_number[ROOT] = Inode(ROOT, self._generation, 0, "", Kind.DIRECTORY)

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._by_number.values()))

    def get(self, ino: int) -> Inode:
        """The inode.

        Raises:
            StaleError: the kernel asks for a number that it has forgotten.

        """
        try:
            return self._by_number[ino]
        except KeyError as exc:
            raise StaleError(f"inode {ino} is gone") from exc

    def child(self, parent: int, name: str) -> Inode | None:
        return self._by_name.get((parent, name))

    def key(self, inode: Inode) -> str:
        """The key it stands for; a directory's ends with "/", the root's is the prefix."""
        if inode.ino == ROOT:
            return self._prefix
        return self.key_at(inode, self.get(inode.parent), inode.name)

    def _prefix_of(self, directory: Inode) -> str:
        """Its key. Without recursion, as everywhere here: a key may have 512 components."""
        names = []
        while directory.ino != ROOT:
            names.append(directory.name)
            directory = self.get(directory.parent)
        return self._prefix + "".join(f"{name}/" for name in reversed(names))

    def key_at(self, inode: Inode, parent: Inode, name: str) -> str:
        """The key it would stand for under that name."""
        suffix = LINK_SUFFIX if inode.is_link else ""
        return child_key(self._prefix_of(parent), f"{name}{suffix}", is_dir=inode.is_dir)

    def add(
        self,
        parent: int,
        name: str,
        kind: Kind,
        *,
        info: ObjectInfo | None = None,
        question: int = 0,
    ) -> Inode:
        """A new inode under a name; the one that had the name is unlinked."""
        old = self._by_name.get((parent, name))
        if old is not None:
            self.unlink(old)
        inode = Inode(
            self._next, self._generation, parent, name, kind, info=info, question=question
        )
        self._next += 1
        self._by_number[inode.ino] = inode
        self._by_name[parent, name] = inode
        self._by_number[parent].add_children(1)
        return inode

    def move(self, inode: Inode, parent: int, name: str) -> None:
        """Give a linked inode another name; the one that had it is unlinked."""
        there = self._by_name.get((parent, name))
        if there is not None and there is not inode:
            self.unlink(there)
        self.idle.discard(inode)
        before = self._by_number[inode.parent]
        del self._by_name[inode.parent, inode.name]
        self._by_number[parent].add_children(1)
        inode.parent, inode.name = parent, name
        self._by_name[parent, name] = inode
        before.add_children(-1)
        self._used(inode)
        self.drop_unused(before)

    def is_below(self, inode: Inode, directory: Inode) -> bool:
        """Whether it is that directory, or under it at any depth."""
        while inode is not directory and inode.ino != ROOT:
            inode = self._by_number[inode.parent]
        return inode is directory

    def below(self, directory: Inode) -> list[Inode]:
        """All linked inodes under a directory, at any depth."""
        inside = {ROOT: directory.ino == ROOT, directory.ino: True}
        for inode in self._by_number.values():
            above, undecided = inode, []
            while above.is_linked and above.ino not in inside:
                undecided.append(above.ino)
                above = self._by_number[above.parent]
            is_inside = above.is_linked and inside[above.ino]
            inside |= dict.fromkeys(undecided, is_inside)
        return [i for i in self if i is not directory and i.is_linked and inside[i.ino]]

    def unlink(self, inode: Inode) -> None:
        """The name is gone, or has another inode; this one stays while it is in use."""
        if not inode.is_linked or inode.ino == ROOT:
            return
        self.idle.discard(inode)
        inode.is_linked = False
        inode.unpin()
        if self._by_name.get((inode.parent, inode.name)) is inode:
            del self._by_name[inode.parent, inode.name]
        self.drop_unused(inode)

    def drop_unused(self, inode: Inode) -> None:
        """A use of it has ended: forget it, and its parents, if that was the last."""
        while not inode.is_in_use and inode.ino in self._by_number:
            self.idle.discard(inode)
            self.evictions_pending -= inode.is_eviction_pending
            del self._by_number[inode.ino]
            if inode.is_linked:
                del self._by_name[inode.parent, inode.name]
            parent = self._by_number[inode.parent]
            parent.add_children(-1)
            inode = parent
        self._used(inode)

    def remember(self, inode: Inode) -> None:
        """The kernel was given the inode once more."""
        inode.lookups += 1
        self._used(inode)

    def forget(self, ino: int, n: int) -> None:
        """The kernel gives back n of its references."""
        inode = self._by_number.get(ino)
        if inode is None:
            return
        inode.lookups = max(0, inode.lookups - n)
        self.drop_unused(inode)

    def evict_oldest(self) -> Inode | None:
        """The least recently used idle file; the caller asks the kernel to drop it."""
        while (inode := self.idle.take()) is not None:
            if inode.is_idle:
                inode.is_eviction_pending = True
                self.evictions_pending += 1
                return inode
        return None  # open files are idle again when they are closed

    def eviction_failed(self, ino: int) -> None:
        """The kernel could not be asked for it."""
        inode = self._by_number.get(ino)
        if inode is not None:
            self._used(inode)

    def _used(self, inode: Inode) -> None:
        self.evictions_pending -= inode.is_eviction_pending
        inode.is_eviction_pending = False
        if inode.is_idle:
            self.idle.add(inode)
        else:
            self.idle.discard(inode)
