"""Files that only the kernel's name cache holds, least recently used first.

By directory, because the kernel cannot drop a name of a directory that is being read. The cost of
a step does not depend on the number of names.

Rejected: one order of all names (it would have to skip those of a directory that is being read
again and again), and a scan of the inode table.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from csi_s3.fs.names.inode import Inode


@dataclass(slots=True)
class _Names:
    """Of one directory. reads: READDIRs of it that wait for the store."""

    files: OrderedDict[int, Inode] = field(default_factory=OrderedDict)
    reads: int = 0


class IdleFiles:
    """Concurrency: plain code; `is_read` may be called from any thread.

    A file's parent must not change while it is in the list.
    """

    def __init__(self) -> None:
        self._directories: dict[int, _Names] = {}
        self._ready: OrderedDict[int, None] = OrderedDict()  # has names, and is not being read

    def add(self, inode: Inode) -> None:
        """It was used just now, and is idle."""
        names = self._directories.get(inode.parent)
        if names is None:
            names = self._directories[inode.parent] = _Names()
        names.files[inode.ino] = inode
        names.files.move_to_end(inode.ino)
        if not names.reads:
            self._ready[inode.parent] = None
            self._ready.move_to_end(inode.parent)

    def discard(self, inode: Inode) -> None:
        names = self._directories.get(inode.parent)
        if names is not None and names.files.pop(inode.ino, None) is not None:
            self._settle(inode.parent, names)

    def take(self) -> Inode | None:
        """Take out the least recently used file of the least recently used directory."""
        for directory in self._ready:
            names = self._directories[directory]
            _, inode = names.files.popitem(last=False)
            self._settle(directory, names)
            return inode
        return None

    @contextmanager
    def reading(self, directory: int) -> Iterator[None]:
        """Nothing is taken from a directory that is being read."""
        names = self._directories.setdefault(directory, _Names())
        names.reads += 1
        self._ready.pop(directory, None)
        try:
            yield
        finally:
            names.reads -= 1
            if not names.reads:
                self._ready[directory] = None
            self._settle(directory, names)

    def is_read(self, directory: int) -> bool:
        names = self._directories.get(directory)
        return names is not None and names.reads > 0

    def _settle(self, directory: int, names: _Names) -> None:
        if not names.files:
            self._ready.pop(directory, None)
            if not names.reads:
                del self._directories[directory]
