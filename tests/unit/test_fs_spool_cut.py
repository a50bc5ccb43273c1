"""A large file of the spool is cut, or gets a hole: in slices, with other requests in between."""

import asyncio
import os
from contextlib import contextmanager

import pytest

from csi_s3.fs.write.spool import SpoolDisk
from tests.unit.costs import counted_turns
from tests.unit.fs_mount import mount, mounts
from tests.unit.spool_case import BLOCK, spooled, state

__all__ = ["mount", "mounts", "spooled", "state"]

N = 40


@pytest.fixture(autouse=True)
def slices_of_a_block(monkeypatch):
    monkeypatch.setattr(SpoolDisk, "slice_bytes", BLOCK)


def written(mount, n=N):
    """A file in the spool: so many blocks, each with its number, in front of a few bytes."""
    data = b"".join(b"%04d" % at * (BLOCK // 4) for at in range(n)) + b"tail"
    fh = mount.create("f", os.O_RDWR | os.O_CREAT)
    mount.write(fh, b"x", 9)
    mount.write(fh, data)
    return fh, data


def data_file(state):
    [path] = state.glob("file-*.data")
    return path


@contextmanager
def stopped(mount, size, *, turns):
    """A truncation that has had so many turns, with the loop in the test's hand."""
    cutting = mount.start(mount.fs.setattr(mount.ino("f"), size=size))

    async def some():
        for _ in range(turns):
            await asyncio.sleep(0)

    mount.run(some())
    assert not cutting.done()
    yield cutting
    assert cutting.done()


@pytest.mark.parametrize("n", [N, 10 * N])
def test_a_cut_leaves_others_their_turns_and_gives_back_all_it_cuts(spooled, state, n):
    fh, data = written(spooled, n)
    before = spooled.spool.used_bytes
    with counted_turns(spooled.loop) as turns:
        spooled.truncate("f", BLOCK + 1)
    assert n <= turns.n <= n + 30
    assert before - spooled.spool.used_bytes == (n - 2) * BLOCK
    assert data_file(state).stat().st_size == BLOCK + 1
    assert spooled.read(fh) == data[: BLOCK + 1]
    spooled.close_file(fh)
    assert spooled.data("f") == data[: BLOCK + 1]


def test_between_two_slices_the_file_is_short_already_and_a_write_waits(spooled, state):
    fh, data = written(spooled)
    with stopped(spooled, BLOCK, turns=N // 2) as cutting:
        assert data_file(state).stat().st_size > BLOCK
        assert spooled.stat("f").size == BLOCK
        assert spooled.run(spooled.fs.files.read(fh, 0, 1 << 20)) == [data[:BLOCK]]
        spooled.write(fh, b"behind", BLOCK + 4)
        assert cutting.done()
    expected = data[:BLOCK] + bytes(4) + b"behind"
    assert spooled.read(fh) == expected
    spooled.close_file(fh)
    assert spooled.data("f") == expected


def test_a_disk_that_does_not_give_back_changes_nothing_for_the_program(
    spooled, state, monkeypatch
):
    def refuse(_fd, _size):
        raise OSError(5, "Input/output error")

    fh, data = written(spooled)
    before = spooled.spool.used_bytes
    monkeypatch.setattr(os, "ftruncate", refuse)
    spooled.truncate("f", BLOCK)
    assert spooled.spool.used_bytes == before, "the disk has them"
    assert spooled.read(fh) == data[:BLOCK]
    spooled.write(fh, b"y", 3 * BLOCK)
    assert spooled.read(fh) == data[:BLOCK] + bytes(2 * BLOCK) + b"y"
    spooled.close_file(fh)
    assert spooled.spool.used_bytes == 0
    assert spooled.data("f") == data[:BLOCK] + bytes(2 * BLOCK) + b"y"


@pytest.mark.warnings_expected("is kept in")
def test_the_end_of_the_mount_during_a_cut_keeps_the_file_as_it_was_cut(spooled, state):
    """What is left on the disk behind the new end is no part of the file that is kept."""
    _fh, data = written(spooled)
    with stopped(spooled, BLOCK, turns=N // 2):
        spooled.close()
        assert BLOCK < data_file(state).stat().st_size < N * BLOCK
    following = spooled._next(state)
    following.recover()
    assert following.data("f") == data[:BLOCK]


PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


@pytest.mark.parametrize("n", [N, 10 * N])
def test_a_hole_leaves_others_their_turns_and_gives_back_all_its_blocks(spooled, n):
    fh, data = written(spooled, n)
    before = spooled.spool.used_bytes
    with counted_turns(spooled.loop) as turns:
        spooled.fallocate(fh, PUNCH_HOLE, BLOCK, (n - 2) * BLOCK)
    assert n - 5 <= turns.n <= n + 30
    assert before - spooled.spool.used_bytes == (n - 2) * BLOCK
    spooled.close_file(fh)
    assert spooled.data("f") == data[:BLOCK] + bytes((n - 2) * BLOCK) + data[(n - 1) * BLOCK :]


@pytest.mark.warnings_expected("is kept in")
def test_a_hole_that_the_end_of_the_mount_stops_takes_no_block_any_more(spooled, state):
    """What is written where the hole was to come is not lost to it."""
    fh, data = written(spooled)
    punching = spooled.start(spooled.fs.files.fallocate(fh, PUNCH_HOLE, BLOCK, (N - 2) * BLOCK))

    async def some():
        for _ in range(N // 2):
            await asyncio.sleep(0)

    spooled.run(some())
    assert not punching.done()
    spooled.close()
    left = data_file(state).read_bytes()
    assert left[: 2 * BLOCK] == data[:BLOCK] + bytes(BLOCK), "it had begun"
    at = (N - 2) * BLOCK
    assert left[at : at + BLOCK] == data[at : at + BLOCK], "and has ended before its end"
    following = spooled._next(state)
    following.recover()
    assert following.data("f") == data[:BLOCK] + bytes((N - 2) * BLOCK) + data[(N - 1) * BLOCK :]
