"""Any number of spool files with a few descriptors: the others are S3's and the kernel's."""

import errno
import os
import resource
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from csi_s3.fs.write.extents import Extents
from csi_s3.fs.write.spool import LARGE_BYTES
from csi_s3.fs.write.spool_descriptors import MOST_OPEN, Descriptors, share_of_limit
from csi_s3.kernel.process_limits import raise_descriptor_limit
from tests.unit.fs_mount import mount, mounts
from tests.unit.spool_case import BLOCK, cut, put, spool_of

__all__ = ["mount", "mounts"]

LARGE = bytes(range(64))


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def soft_limit(n):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("n", [100, 1000])
def test_files_that_were_not_used_last_are_closed_and_opened_again(state, n):
    spool, before = spool_of(state, blocks=3 * n), open_descriptors()
    made = [(spool.create(f"key-{at}"), Extents()) for at in range(n)]
    for turn in range(3):
        for at, (file, extents) in enumerate(made):
            put(file, extents, turn * 10, b"%010d" % at)
        assert open_descriptors() - before <= 8
    for at, (file, extents) in enumerate(made):
        assert file.read(0, 30) == b"%010d" % at * 3
        cut(file, extents, 15)
    for at, (file, _) in enumerate(made):
        assert file.read(5, 10) == (b"%010d" % at * 2)[5:15]
        if at % 2:
            file.unlink()
    for at, (file, _) in enumerate(made):
        assert file.read(0, 10) == b"%010d" % at
        file.close(keep=False)
    assert open_descriptors() == before
    assert spool.used_bytes == 0
    assert list(state.iterdir()) == []


def test_the_file_used_last_stays_open(state, monkeypatch):
    spool, opened, really = spool_of(state), [], os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(path) or really(path, *rest))
    files = [(spool.create("f"), Extents()) for _ in range(20)]
    opened.clear()
    for turn in range(100):
        put(*files[0], turn, b"x")
        put(*files[turn % 20], 200, b"y")
    assert opened.count(str(files[0][0].path)) == 1
    for file, _ in files:
        file.close(keep=False)


@pytest.mark.parametrize(("soft", "most"), [(1024, 256), (256, 64), (4096, MOST_OPEN)])
def test_the_share_is_a_quarter_of_the_limit(soft, most):
    with soft_limit(soft):
        assert share_of_limit() == most


def test_where_others_took_the_descriptors_one_of_its_own_is_used_again(tmp_path, monkeypatch):
    paths = [str(tmp_path / str(n)) for n in range(3)]
    cache, really, left = Descriptors(8), os.open, 2

    def limited(path, *rest):
        nonlocal left
        if left == 0:
            left = 1
            raise OSError(errno.EMFILE, "Too many open files")
        left -= 1
        return really(path, *rest)

    monkeypatch.setattr(os, "open", limited)
    for number, path in enumerate(paths):
        cache.open(number, path, is_new=True)
    assert cache.get(0) is None
    assert len(cache) == 2
    for number in range(3):
        cache.close(number)


def test_a_spool_file_that_became_a_link_is_not_followed(state, tmp_path):
    spool = spool_of(state, most_open=1)
    file, other = spool.create("f"), spool.create("g")
    file.path.unlink()
    (tmp_path / "elsewhere").write_text("")
    file.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="symbolic links"):
        put(file, Extents(), 0, b"x")
    assert (tmp_path / "elsewhere").read_text() == ""
    for one in (file, other):
        one.close(keep=False)


def test_a_worker_takes_all_descriptors_that_it_may_have():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with soft_limit(256):
        assert raise_descriptor_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


@pytest.mark.parametrize("n", [300, 3000])
def test_many_files_that_are_changed_at_once_need_no_descriptor_each(mounts, state, n):
    with soft_limit(256):
        mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=state)
        before = open_descriptors()
        for at in range(n):
            mount.put(f"f{at}", LARGE)
        handles = [mount.open(f"f{at}", os.O_RDWR) for at in range(n)]
        for at, fh in enumerate(handles):
            mount.write(fh, b"!", at % 64)
        assert open_descriptors() - before <= 64
        mount.put("other", b"data")
        assert mount.cat("other") == b"data"
        for at in range(0, n, 3):
            mount.unlink(f"f{at}")
            mount.write(handles[at], b"?", 5)
        for at in range(0, n, 3):
            assert mount.read(handles[at], 5, 1) == b"?"
        for fh in handles:
            mount.close_file(fh)
        for at in range(n):
            expected = bytearray(LARGE)
            expected[at % 64] = ord("!")
            assert mount.data(f"f{at}") == (expected if at % 3 else None)
        assert open_descriptors() <= before
        assert mount.spooled() == []


def test_the_pages_of_a_large_file_are_freed_beside_the_event_loop(state, monkeypatch):
    """The kernel frees them when the last descriptor is closed: 27 to 40 ms for 1 GiB."""
    spool, before = spool_of(state, blocks=LARGE_BYTES // BLOCK + 100), open_descriptors()
    closed, close = [], os.close

    def noted(fd):
        closed.append((os.fstat(fd).st_size, os.fstat(fd).st_nlink, threading.get_ident()))
        close(fd)

    small, large = spool.create("small"), spool.create("large")
    put(small, Extents(), 0, LARGE)
    put(large, Extents(), 0, bytes(LARGE_BYTES))
    monkeypatch.setattr(os, "close", noted)
    small.close(keep=False)
    large.close(keep=False)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon:
            thread.join(10)
    monkeypatch.undo()
    (_, links, here), (size, left, aside) = sorted(closed)[-2:]
    assert (size, left, links) == (LARGE_BYTES, 0, 1)
    assert here == threading.get_ident() != aside
    assert open_descriptors() == before
    assert list(state.iterdir()) == []
    assert spool.used_bytes == 0
