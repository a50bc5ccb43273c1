"""A file that is looked at on one mount, changed on another of the same bucket, and then used here.

Plain system calls: Python's files ask for the size after each open (fstat), which hides what a
kernel does that has an old one.
"""

import ctypes
import errno
import mmap
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.mount.command import WITHIN_S
from tests.mount.mounted import Mounted

OLD = b"0123456789\n" * 3

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]


# a look: what a program did to the file before, so that the kernel has its size


def not_at_all(_path: Path) -> None:
    """The kernel has the name and the size all the same, if the file was used just before."""


def by_stat(path: Path) -> None:
    path.stat()


def by_ls(path: Path) -> None:
    subprocess.run(
        ["ls", "-l", path.parent], check=True, stdout=subprocess.DEVNULL, timeout=WITHIN_S
    )


def by_scandir(path: Path) -> None:
    with os.scandir(path.parent) as entries:
        for entry in entries:
            entry.stat()


def by_cat(path: Path) -> None:
    path.read_bytes()


LOOKS = (not_at_all, by_stat, by_ls, by_scandir, by_cat)


# a change: on the other mount; each returns what the file holds then


def append(path: Path, old: bytes) -> bytes:
    with path.open("ab") as file:
        file.write(b"+ one more line\n")
    return old + b"+ one more line\n"


def lengthen(path: Path, _old: bytes) -> bytes:
    return _replace(path, bytes(random.choices(b"abcdefgh", k=random.choice([40, 5000, 300_000]))))


def shorten(path: Path, _old: bytes) -> bytes:
    return _replace(path, b"short")


def empty(path: Path, _old: bytes) -> bytes:
    """An empty file is in S3 at fsync, or some time after close."""
    with opened(path, os.O_WRONLY | os.O_TRUNC) as file:
        os.fsync(file)
    return b""


def keep_the_size(path: Path, old: bytes) -> bytes:
    return _replace(path, bytes(random.choices(b"ijklmnop", k=len(old))))


def cut(path: Path, old: bytes) -> bytes:
    size = len(old) // 2
    os.truncate(path, size)
    return old[:size]


def extend(path: Path, old: bytes) -> bytes:
    os.truncate(path, len(old) + 4999)
    return old + bytes(4999)


def rename_over(path: Path, _old: bytes) -> bytes:
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(b"renamed over it")
    beside.rename(path)
    return b"renamed over it"


def _replace(path: Path, new: bytes) -> bytes:
    path.write_bytes(new)
    return new


CHANGES = (append, lengthen, shorten, empty, keep_the_size, cut, extend, rename_over)


# a use: what a program does then; each returns what was read, or None, and what the file holds then


def read(path: Path, now: bytes) -> tuple[bytes, bytes]:
    with opened(path, os.O_RDONLY) as file:
        return b"".join(iter(lambda: os.read(file, 1 << 16), b"")), now


def read_from_the_end(path: Path, now: bytes) -> tuple[bytes, bytes]:
    with opened(path, os.O_RDONLY) as file:
        size = os.lseek(file, 0, os.SEEK_END)
        return os.pread(file, 1 << 20, 0)[:size], now


def read_the_tail(path: Path, now: bytes) -> tuple[bytes, bytes]:
    with opened(path, os.O_RDONLY) as file:
        return now[:-3] + os.pread(file, 1 << 16, max(0, len(now) - 3)), now


def map_it(path: Path, now: bytes) -> tuple[bytes, bytes]:
    """write() of mapped bytes says EFAULT where a program that reads them got SIGBUS."""
    if not now:
        return b"", now
    with opened(path, os.O_RDONLY) as file, opened(path.anchor, os.O_TMPFILE | os.O_RDWR) as copy:
        at = libc.mmap(None, len(now), mmap.PROT_READ, mmap.MAP_PRIVATE, file, 0)
        done = libc.write(copy, at, len(now))
        libc.munmap(at, len(now))
        return os.pread(copy, max(0, done), 0), now


def copy_file_range(path: Path, now: bytes) -> tuple[bytes, bytes]:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    with opened(path, os.O_RDONLY) as file, opened(f"{path}.copy", flags) as copy:
        while os.copy_file_range(file, copy, 1 << 30):
            pass
        return os.pread(copy, 1 << 20, 0), now


def sendfile(path: Path, now: bytes) -> tuple[bytes, bytes]:
    with opened(path, os.O_RDONLY) as file, opened(path.anchor, os.O_TMPFILE | os.O_RDWR) as copy:
        while os.sendfile(copy, file, None, 1 << 30):
            pass
        return os.pread(copy, 1 << 20, 0), now


def cp(path: Path, now: bytes) -> tuple[bytes, bytes]:
    copy = path.with_name(f"{path.name}.copy")
    _run("cp", path, copy)
    return copy.read_bytes(), now


def _run(*words: object) -> None:
    done = subprocess.run(
        list(map(str, words)), check=False, capture_output=True, text=True, timeout=WITHIN_S
    )
    if done.returncode:
        raise OSError(done.stderr)


def append_here(path: Path, now: bytes) -> tuple[bytes, bytes]:
    with opened(path, os.O_WRONLY | os.O_APPEND) as file:
        os.write(file, b"mine\n")
    return now, now + b"mine\n"


def append_by_a_shell(path: Path, now: bytes) -> tuple[bytes, bytes]:
    _run("sh", "-c", 'echo mine >> "$0"', path)
    return now, now + b"mine\n"


def write_at_the_end(path: Path, now: bytes) -> tuple[bytes, bytes]:
    with opened(path, os.O_RDWR) as file:
        os.lseek(file, 0, os.SEEK_END)
        os.write(file, b"mine\n")
    return now, now + b"mine\n"


def write_in_the_middle(path: Path, now: bytes) -> tuple[bytes, bytes]:
    at = len(now) // 2
    with opened(path, os.O_RDWR) as file:
        os.pwrite(file, b"mine", at)
    return now, now[:at] + b"mine" + now[at + 4 :]


def cut_here(path: Path, now: bytes) -> tuple[bytes, bytes]:
    os.truncate(path, len(now) // 2)
    return now, now[: len(now) // 2]


def extend_an_open_one(path: Path, now: bytes) -> tuple[bytes, bytes]:
    with opened(path, os.O_RDWR) as file:
        os.ftruncate(file, len(now) + 3)
    return now, now + bytes(3)


def rewrite(path: Path, now: bytes) -> tuple[bytes, bytes]:
    with opened(path, os.O_WRONLY | os.O_TRUNC | os.O_APPEND) as file:
        os.write(file, b"all mine\n")
    return now, b"all mine\n"


USES = (
    read,
    read_from_the_end,
    read_the_tail,
    map_it,
    copy_file_range,
    sendfile,
    cp,
    append_here,
    append_by_a_shell,
    write_at_the_end,
    write_in_the_middle,
    cut_here,
    extend_an_open_one,
    rewrite,
)


class opened:  # noqa: N801 - a context manager
    """A descriptor, by open(2) and nothing else."""

    def __init__(self, path: Path | str, flags: int) -> None:
        self._path, self._flags = path, flags

    def __enter__(self) -> int:
        self._fd = os.open(self._path, self._flags)
        return self._fd

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)


@dataclass(frozen=True)
class Round:
    look: Callable[[Path], None]
    change: Callable[[Path, bytes], bytes]
    use: Callable[[Path, bytes], tuple[bytes, bytes]]
    held: bool  # another program has the file open here, all the time

    def __str__(self) -> str:
        names = f"{self.look.__name__}, {self.change.__name__}, {self.use.__name__}"
        return f"{names}{', held open' if self.held else ''}"


def all_rounds() -> Iterator[Round]:
    for change in CHANGES:
        for use in USES:
            for look in LOOKS:
                yield Round(look, change, use, held=False)
            if use is not cp:  # it sees another inode than it has looked at, and says so
                yield Round(by_stat, change, use, held=True)


def play(this: Round, key: str, mounted: Mounted, elsewhere: Path) -> str | None:
    """One round with one file on two mounts. What was wrong, if anything."""
    mounted.put(key, OLD)
    if this.held:
        with opened(mounted.path / key, os.O_RDONLY) as file:
            os.read(file, 5)
            return _play(this, key, mounted, elsewhere)
    return _play(this, key, mounted, elsewhere)


def _play(this: Round, key: str, mounted: Mounted, elsewhere: Path) -> str | None:
    try:
        this.look(mounted.path / key)
        now = this.change(elsewhere / key, OLD)
        got, then = this.use(mounted.path / key, now)
    except OSError as exc:
        return f"{this}: {exc}"
    if got != now:
        return f"{this}: read {got[:50]!r} ({len(got)}), not {now[:50]!r} ({len(now)})"
    left = mounted.get(key)
    if left != then:
        return f"{this}: left {left!r:.99} ({len(left or b'')}), not {then!r:.99} ({len(then)})"
    return None


@dataclass
class Rewriter:
    """Another machine that rewrites a file all the time, one letter in another number."""

    path: Path
    rewrites: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end.set()
        self._thread.join()

    def _write(self) -> None:
        size = (7, 5000, 60_000, 40)[self.rewrites % 4]
        self.path.write_bytes(b"%d\n" % size + b"abcdefg"[self.rewrites % 7 :][:1] * size)
        self.rewrites += 1

    def _run(self) -> None:
        while not self._end.is_set():
            self._write()


def read_while_rewritten(path: Path, look: Callable[[Path], None]) -> str:
    """Open and read without fstat. What came of it: whole, stale at open or at read, or torn."""
    with suppress(FileNotFoundError):
        look(path)
    result = "stale at open"
    try:
        with opened(path, os.O_RDONLY) as file:
            result = "stale at read"
            got = b"".join(iter(lambda: os.read(file, 1 << 16), b""))
    except OSError as exc:
        if exc.errno != errno.ESTALE:
            raise
        return result
    size, _, data = got.partition(b"\n")
    is_whole = size.isdigit() and len(data) == int(size) and len(set(data)) == 1
    return "whole" if is_whole else f"torn: {got[:20]!r} ({len(got)})"
