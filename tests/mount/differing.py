"""The same operations on a mount and on a local directory: what differs must be listed here.

An operation is plain data, so that Hypothesis can shrink a list of them and a found case can be
pasted into a named test.
"""

import errno
import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("a", "b", "c")
ACCESS = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}
FLAGS = {
    "create": os.O_CREAT,
    "excl": os.O_EXCL,
    "trunc": os.O_TRUNC,
    "append": os.O_APPEND,
    "nofollow": os.O_NOFOLLOW,
    "directory": os.O_DIRECTORY,
}
EVERYTHING = 1 << 20

Operation = tuple[Any, ...]


@dataclass
class Side:
    """One of the two directories, and the descriptors that are open in it, in order."""

    root: Path
    fds: list[int] = field(default_factory=list)

    def do(self, operation: Operation) -> object:
        """What a program gets: a value, or the errno."""
        kind, *arguments = operation
        try:
            return getattr(self, kind)(*arguments)
        except OSError as exc:
            return errno.errorcode[exc.errno]

    def close_all(self) -> None:
        while self.fds:
            os.close(self.fds.pop())

    def tree(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for directory, names, files in os.walk(self.root):
            for name in (*names, *files):
                path = Path(directory, name)
                kind = path.lstat().st_mode
                content: object = None
                if stat.S_ISLNK(kind):
                    content = str(path.readlink())
                elif stat.S_ISREG(kind):
                    content = path.read_bytes()
                    assert path.stat().st_size == len(content), path
                found[str(path.relative_to(self.root))] = (stat.S_IFMT(kind), content)
        return found

    # operations with a descriptor: the n-th of those that are open

    def _fd(self, n: int) -> int:
        if not self.fds:
            raise OSError(errno.EBADF, "none is open")
        return self.fds[n % len(self.fds)]

    def open(self, path: str, access: str, *flags: str) -> None:
        number = ACCESS[access]
        for flag in flags:
            number |= FLAGS[flag]
        self.fds.append(os.open(self.root / path, number, 0o644))

    def close(self, n: int) -> None:
        fd = self._fd(n)
        self.fds.remove(fd)
        os.close(fd)

    def dup(self, n: int) -> None:
        self.fds.append(os.dup(self._fd(n)))

    def write(self, n: int, data: bytes) -> int:
        return os.write(self._fd(n), data)

    def pwrite(self, n: int, offset: int, data: bytes) -> int:
        return os.pwrite(self._fd(n), data, offset)

    def pread(self, n: int, offset: int, length: int) -> bytes:
        return os.pread(self._fd(n), length, offset)

    def seek_end(self, n: int, offset: int) -> int | None:
        """Where a directory ends is the file system's own affair, as its size is."""
        end = os.lseek(self._fd(n), offset, os.SEEK_END)
        return None if stat.S_ISDIR(os.fstat(self._fd(n)).st_mode) else end

    def ftruncate(self, n: int, size: int) -> None:
        os.ftruncate(self._fd(n), size)

    def fsync(self, n: int) -> None:
        os.fsync(self._fd(n))

    def fstat(self, n: int) -> tuple[int, int | None]:
        return shown(os.fstat(self._fd(n)))

    def store_mapped(self, n: int, offset: int, data: bytes) -> object:
        """Stores to a shared mapping; the file must be that long."""
        fd = self._fd(n)
        size = os.fstat(fd).st_size
        if offset + len(data) > size or not stat.S_ISREG(os.fstat(fd).st_mode):
            return "too short"
        with mmap.mmap(fd, size) as view:
            before = bytes(view)
            view[offset : offset + len(data)] = data
            return before, bytes(view)

    # operations with a path

    def stat(self, path: str) -> tuple[int, int | None]:
        return shown((self.root / path).stat())

    def lstat(self, path: str) -> tuple[int, int | None]:
        return shown((self.root / path).lstat())

    def readlink(self, path: str) -> str:
        return str((self.root / path).readlink())

    def ls(self, path: str) -> list[str]:
        return sorted(p.name for p in (self.root / path).iterdir())

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def mkdir(self, path: str) -> None:
        (self.root / path).mkdir()

    def rmdir(self, path: str) -> None:
        (self.root / path).rmdir()

    def unlink(self, path: str) -> None:
        (self.root / path).unlink()

    def rename(self, old: str, new: str) -> None:
        (self.root / old).rename(self.root / new)

    def symlink(self, path: str, target: str) -> None:
        (self.root / path).symlink_to(target)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.root / path, size)

    def utime(self, path: str, seconds: int) -> float:
        os.utime(self.root / path, (seconds, seconds))
        return (self.root / path).stat().st_mtime

    def chmod(self, path: str) -> None:
        (self.root / path).chmod(0o644)


def shown(found: os.stat_result) -> tuple[int, int | None]:
    """Kind and size; a directory's size is the file system's own affair."""
    kind = stat.S_IFMT(found.st_mode)
    return kind, None if kind == stat.S_IFDIR else found.st_size


def same(here: Side, there: Side, operations: list[Operation]) -> None:
    """Do them in both places. Every answer, and every file at the end, must be the same."""
    try:
        for number, operation in enumerate(operations):
            got, expected = here.do(operation), there.do(operation)
            assert got == expected, (number, operation, operations[: number + 1])
        assert here.tree() == there.tree(), operations
    finally:
        here.close_all()
        there.close_all()
    assert here.tree() == there.tree(), operations
