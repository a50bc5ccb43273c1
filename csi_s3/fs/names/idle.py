"""Names that only the kernel's name cache holds, least recently used first.

By directory, because a kernel before Linux 6.18 cannot drop a name of a directory that is being
read. The cost of a step does not depend on the number of names.

Rejected: one order of all names (it would have to skip those of a directory that is being read
again and again), and a scan of the inode table.
"""

from collections.abc import Collection, Iterator

from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.record_chain import Chain, Link, remove


class _Names(Link):
    """Of one directory."""

    __slots__ = ("inodes",)

    def __init__(self) -> None:
        super().__init__()
        self.inodes: Chain[Inode] = Chain()


class IdleNames:
    """Concurrency: plain code; `is_read` may be called from any thread.

    An inode's parent must not change while it is in the list.
    """

    def __init__(self) -> None:
        self._directories: dict[int, _Names] = {}
        self._ready: Chain[_Names] = Chain()  # those of directories that are not being read
        self._reads: dict[int, int] = {}  # READDIRs of a directory that wait for the store

    def __bool__(self) -> bool:
        """Whether a name could be taken now."""
        return bool(self._ready)

    def add(self, inode: Inode) -> None:
        """It was used just now, and is idle."""
        names = self._directories.get(inode.parent)
        if names is None:
            names = self._directories[inode.parent] = _Names()
        names.inodes.append(inode)
        if inode.parent not in self._reads:
            self._ready.append(names)

    def discard(self, inode: Inode) -> None:
        if inode.before is not None:
            remove(inode)
            names = self._directories.get(inode.parent)
            if names is not None and not names.inodes:
                remove(names)
                names.inodes.close()
                del self._directories[inode.parent]

    def take(self) -> Inode | None:
        """Take out the least recently used name of the least recently used directory."""
        names = self._ready.first
        inode = None if names is None else names.inodes.first
        if inode is not None:
            self.discard(inode)
        return inode

    def each(self) -> Iterator[Inode]:
        """Each name once, the least recently used directory first, and its oldest name first.

        A name that the caller leaves there comes after those of its directory that follow. The
        list may change between two steps; what was added since the beginning may be left out.
        Where a name that was left is forgotten, others come once more: take a limited number.
        """
        for names in list(self._ready):
            left: Inode | None = None
            while (inode := names.inodes.first) is not None:
                if inode is left or inode.parent in self._reads:
                    break
                names.inodes.append(inode)
                yield inode
                if left is None and not inode.is_eviction_pending:
                    left = inode

    def holds_in(self, directory: int) -> bool:
        """Whether there is a name of this directory, read or not."""
        return directory in self._directories

    @property
    def read(self) -> Collection[int]:
        """The directories from which nothing is taken."""
        return self._reads.keys()

    def begin_reading(self, directory: int) -> None:
        """Nothing is taken from a directory that is being read, until `end_reading`."""
        self._reads[directory] = self._reads.get(directory, 0) + 1
        if (names := self._directories.get(directory)) is not None:
            remove(names)

    def end_reading(self, directory: int) -> None:
        """Once for each `begin_reading`."""
        if left := self._reads.pop(directory) - 1:
            self._reads[directory] = left
        elif (names := self._directories.get(directory)) is not None:
            self._ready.append(names)

    def is_read(self, directory: int) -> bool:
        return directory in self._reads
