"""fallocate, copy_file_range, SEEK_DATA and SEEK_HOLE through a mount, beside a local disk."""

import ctypes
import errno
import os
import random
import re
from functools import partial
from urllib.parse import quote

import pytest

from tests.mount.mounted import env, errno_of, here, minio, mounted, sh

__all__ = ["env", "here", "minio", "mounted"]

MIB = 1 << 20
KEEP, PUNCH, COLLAPSE, ZERO, INSERT = 0x1, 0x2, 0x8, 0x10, 0x20

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd, mode, offset, length):
    if libc.fallocate64(fd, mode, offset, length):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def result_of(call):
    """What a call returns, or the number of its error."""
    try:
        return call()
    except OSError as exc:
        return errno.errorcode[exc.errno]


def holes(fd):
    """Offsets in holes, as programs find them; all of them must be zeros."""
    size, at, found = os.fstat(fd).st_size, 0, set()
    while at < size:
        data = result_of(lambda at=at: os.lseek(fd, at, os.SEEK_DATA))
        if data == "ENXIO":
            return found | set(range(at, size))
        found |= set(range(at, data))
        at = os.lseek(fd, data, os.SEEK_HOLE)
        assert data < at <= size
    return found


def a_call(rng, size):
    """One of the calls, with its arguments."""
    at, n = rng.randrange(size + 2000), rng.randrange(1, 3000)
    mode = rng.choice([0, KEEP, PUNCH | KEEP, ZERO, ZERO | KEEP])
    return rng.choice(
        [
            lambda fd, _: fallocate(fd, mode, at, n),
            lambda fd, _: fallocate(fd, mode, at, n),
            lambda fd, _: os.posix_fallocate(fd, at, n),
            lambda fd, _: os.pwrite(fd, bytes([n % 255 + 1]) * n, at),
            lambda fd, _: os.ftruncate(fd, at),
            lambda fd, source: os.copy_file_range(source, fd, n, at % 5000, at),
            lambda fd, _: os.copy_file_range(fd, fd, n, at, at + n),
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_files_are_what_a_local_disk_makes_of_the_same_calls(here, tmp_path, seed):
    """Sizes, bytes and errors, after each of 60 calls; what is a hole is zeros."""
    rng = random.Random(seed)
    data = rng.randbytes(5000)
    fds, sources = [], []
    for place in (here, tmp_path):
        (place / "source").write_bytes(data)
        sources.append(os.open(place / "source", os.O_RDONLY))
        fds.append(os.open(place / "f", os.O_RDWR | os.O_CREAT))
    for n in range(60):
        size = os.fstat(fds[1]).st_size
        call = a_call(rng, size)
        results = [result_of(partial(call, *both)) for both in zip(fds, sources, strict=True)]
        assert results[0] == results[1]
        whole = [os.pread(fd, 1 << 20, 0) for fd in fds]
        assert whole[0] == whole[1]
        assert not any(whole[0][at] for at in holes(fds[0]))
        if n % 20 == 19:
            os.fsync(fds[0])
    for fd in (*fds, *sources):
        os.close(fd)
    assert (here / "f").read_bytes() == (tmp_path / "f").read_bytes()


def test_errors_are_those_of_a_local_disk(here, tmp_path):
    def calls(place):
        (place / "f").write_bytes(b"0123456789")
        reader = os.open(place / "f", os.O_RDONLY)
        fd = os.open(place / "f", os.O_RDWR)
        most = (1 << 63) - 1
        yield from (
            result_of(lambda: fallocate(reader, 0, 0, 10)),
            result_of(lambda: fallocate(fd, 0, -1, 10)),
            result_of(lambda: fallocate(fd, 0, 0, 0)),
            result_of(lambda: fallocate(fd, 0, most - 5, 10)),
            result_of(lambda: fallocate(fd, PUNCH, 0, 10)),
            result_of(lambda: os.copy_file_range(fd, reader, 5, 0, 0)),
            result_of(lambda: os.copy_file_range(fd, fd, 5, 0, 2)),
            result_of(lambda: os.copy_file_range(fd, fd, 5, 10, 0)),
            result_of(lambda: os.lseek(fd, 10, os.SEEK_DATA)),
            result_of(lambda: os.lseek(fd, 10, os.SEEK_HOLE)),
            result_of(lambda: os.lseek(fd, 9, os.SEEK_HOLE)),
        )
        os.close(reader)
        os.close(fd)

    on_mount, on_disk = list(calls(here)), list(calls(tmp_path))
    assert on_mount == on_disk
    assert on_mount[0] == "EBADF"
    with (here / "f").open("r+b") as file:
        for mode in (COLLAPSE, INSERT):
            number = errno_of(lambda mode=mode: fallocate(file.fileno(), mode, 0, 4096))
            assert number == errno.EOPNOTSUPP
    assert (here / "f").read_bytes() == b"0123456789"


def parts_of(mounted, key):
    """In how many parts the object was uploaded, as its ETag says."""
    status, body = mounted.server.request("GET", f"/data?list-type=2&prefix={quote(key, safe='')}")
    assert status == 200
    etag = re.search(r"<ETag>(.*?)</ETag>", body.decode()).group(1)
    return int(etag.replace("&#34;", "").replace("&quot;", "").strip('"').partition("-")[2])


def test_cp_copies_a_file_inside_the_bucket(here, mounted):
    """By cp of coreutils, from an object of one part and from one of several."""
    data = random.Random(1).randbytes(70 * MIB + 5)
    name = here.name
    mounted.put(f"{name}/f", data)
    sh("cp f g; cmp f g; cp g h; cmp f h", here)
    for copy in ("g", "h"):
        assert mounted.get(f"{name}/{copy}") == data
        assert parts_of(mounted, f"{name}/{copy}") == 2, "of 64 MiB, and the rest; 9 if it was sent"


def test_sync_of_a_file_stores_it(here, mounted):
    """Promise: `sync FILE` is fsync. `sync -f FILE` and `sync` alone store nothing: Linux passes
    syncfs(2) on to virtiofs and fuseblk only.
    """
    with (here / "f").open("wb", buffering=0) as file:
        file.write(b"data")
        assert libc.syncfs(file.fileno()) == 0  # in this process: a child that ends stores the file
        assert mounted.get(f"{here.name}/f") is None
        os.fsync(file.fileno())
        assert mounted.get(f"{here.name}/f") == b"data"
