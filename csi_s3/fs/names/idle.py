"""Files that nothing but the kernel's name cache holds, in the order in which they were used.

By directory, because the kernel cannot be asked for a name of a directory that is being read.
Each step costs the same, however many names there are.

Rejected: one order of all names (those of a directory that is being read would have to be passed
over again and again), and a look through the inode table when names are wanted.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class NumberedFile(Protocol):
    ino: int
    parent: int


F = TypeVar("F", bound=NumberedFile)


@dataclass(slots=True)
class _Names(Generic[F]):
    """Of one directory. reads: so many READDIRs of it wait for the store."""

    files: OrderedDict[int, F] = field(default_factory=OrderedDict)
    reads: int = 0


class IdleFiles(Generic[F]):
    """Concurrency: plain code; `is_read` may be called from any thread.

    A file's parent must not change while it is in here.
    """

    def __init__(self) -> None:
        self._directories: dict[int, _Names[F]] = {}
        self._ready: OrderedDict[int, None] = OrderedDict()  # has names, and is not being read

    def add(self, inode: F) -> None:
        """It was used just now, and is idle."""
        names = self._directories.get(inode.parent)
        if names is None:
            names = self._directories[inode.parent] = _Names()
        names.files[inode.ino] = inode
        names.files.move_to_end(inode.ino)
        if not names.reads:
            self._ready[inode.parent] = None
            self._ready.move_to_end(inode.parent)

    def discard(self, inode: F) -> None:
        names = self._directories.get(inode.parent)
        if names is not None and names.files.pop(inode.ino, None) is not None:
            self._settle(inode.parent, names)

    def take(self) -> F | None:
        """Take out the file used longest ago, of the directory used longest ago."""
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

    def _settle(self, directory: int, names: _Names[F]) -> None:
        if not names.files:
            self._ready.pop(directory, None)
            if not names.reads:
                del self._directories[directory]
