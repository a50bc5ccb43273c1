"""What a reader fetches: no byte twice in a stream, at random what is asked, parts in parallel."""

import random
from array import array
from functools import cache
from itertools import pairwise

import pytest

from csi_s3.errors import StoreUnavailableError
from csi_s3.fs.read.reader import FIRST_PART_BYTES, MAX_WINDOW_BYTES, SLACK_BYTES, plan_window
from tests.unit.fs_mount import Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

KIB, MIB = 1 << 10, 1 << 20


@cache
def pattern(size: int) -> bytes:
    return array("Q", range(-(-size // 8))).tobytes()[:size]


@pytest.fixture
def fetched(mount):
    """Ranges that the store was asked for, as (start, end)."""
    ranges = []
    whole = mount.store.read_range

    async def read_range(key, start, length, **rest):
        ranges.append((start, start + length))
        return await whole(key, start, length, **rest)

    mount.store.read_range = read_range
    return ranges


def window(head, end, *, stream_bytes=0, size=1 << 40, max_part=8 * MIB):
    return plan_window(head, end, stream_bytes=stream_bytes, size=size, max_part=max_part)


def test_a_window_reaches_ahead_by_twice_what_was_streamed_up_to_a_limit():
    reach = {n: window(n, n, stream_bytes=n)[-1][1] - n for n in (MIB, 4 * MIB, 100 * MIB)}
    assert reach == {
        MIB: 2 * MIB - MIB,
        4 * MIB: 8 * MIB - MIB,
        100 * MIB: MAX_WINDOW_BYTES - 8 * MIB,
    }


@pytest.mark.parametrize("stream_bytes", [0, MIB, 30 * MIB, 1 << 30])
@pytest.mark.parametrize("max_part", [FIRST_PART_BYTES // 2, 8 * MIB, 1 << 30])
@pytest.mark.parametrize("size", [5 * MIB + 17, 1 << 40])
def test_a_window_has_no_gap_and_ends_with_the_object(stream_bytes, max_part, size):
    parts = window(4 * MIB, 5 * MIB, stream_bytes=stream_bytes, size=size, max_part=max_part)
    assert parts[0][0] == 4 * MIB
    assert 5 * MIB <= parts[-1][1] <= size
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    assert all(0 < end - start <= max_part for start, end in parts)
    assert all(
        end - start >= FIRST_PART_BYTES or end - start == max_part for start, end in parts[:-1]
    )


def test_a_window_grows_only_when_there_is_room_for_a_whole_part():
    assert window(4 * MIB, 4 * MIB, stream_bytes=2 * MIB) != []
    assert window(7 * MIB, 4 * MIB, stream_bytes=2 * MIB) == []  # 4 ahead, the last part excepted


@pytest.mark.parametrize(("jump", "parts"), [(SLACK_BYTES, True), (SLACK_BYTES + 1, False)])
def test_a_window_is_not_filled_up_to_a_reader_that_has_jumped_ahead(jump, parts):
    assert bool(window(MIB, MIB + jump)) is parts


def test_nothing_is_fetched_behind_the_end_of_an_object():
    assert window(9, 9, size=9) == []


@pytest.mark.parametrize("size", [1, 128 * KIB, MIB - 1, MIB, MIB + 1, 20 * MIB + 17])
@pytest.mark.parametrize("step", [4 * KIB + 1, 128 * KIB, MIB])
def test_a_sequential_read_fetches_no_byte_twice(mount, fetched, size, step):
    """Promise: For a sequential reader the next parts are fetched in parallel, and no byte is
    fetched twice.
    """
    if size > 2 * MIB and step < 128 * KIB:
        step = 64 * KIB
    mount.put("f", pattern(size))
    fh = mount.open("f")
    parts = [mount.read(fh, at, step) for at in range(0, size, step)]
    assert b"".join(parts) == pattern(size)
    assert mount.read(fh, size, step) == b""
    mount.release(fh)
    fetched.sort()
    assert fetched[0][0] == 0
    assert fetched[-1][1] >= size
    assert all(a[1] == b[0] for a, b in pairwise(fetched)), fetched


@pytest.mark.parametrize("size", [4 * KIB, 256 * KIB])
def test_a_random_read_is_exactly_one_get_of_what_was_asked(mount, fetched, size):
    """Promise: A random read is one GET of exactly the bytes requested."""
    mount.put("f", pattern(40 * MIB))
    fh = mount.open("f")
    fetched.clear()
    rng = random.Random(5)
    offsets = [rng.randrange(1, 40 * MIB // size) * size for _ in range(30)]
    far = [b for a, b in zip([0, *offsets], offsets, strict=False) if abs(a - b) > 4 * MIB]
    for offset in far:
        assert mount.read(fh, offset, size) == pattern(40 * MIB)[offset : offset + size]
    assert fetched == [(offset, offset + size) for offset in far]
    assert mount.budget.used_bytes <= 128 * KIB
    mount.release(fh)


def test_parts_ahead_of_a_sequential_reader_are_fetched_in_parallel(mounts):
    mount = mounts(memory_bytes=512 * MIB)
    mount.put("f", bytes(100 * MIB))
    fh = mount.open("f")
    for at in range(32):
        mount.read(fh, at * MIB, MIB)
    mount.settle()
    held = Held(mount.store, "GET")
    mount.start(mount.fs.files.read(fh, 60 * MIB, MIB))
    task = mount.start(mount.fs.files.read(fh, 61 * MIB, MIB))
    mount.settle()
    assert held.waiting >= 2
    held.let_go()
    mount.wait(task)
    mount.release(fh)


def test_reads_slightly_out_of_order_are_one_stream(mount, fetched):
    """The kernel's read-ahead sends its requests in any order."""
    data = pattern(8 * MIB)
    mount.put("f", data)
    fh = mount.open("f")
    offsets = list(range(0, 8 * MIB, 128 * KIB))
    for i in range(0, len(offsets) - 1, 2):
        offsets[i], offsets[i + 1] = offsets[i + 1], offsets[i]
    tasks = [mount.start(mount.fs.files.read(fh, at, 128 * KIB)) for at in offsets]
    for at, task in zip(offsets, tasks, strict=True):
        assert b"".join(mount.wait(task)) == data[at : at + 128 * KIB]
    mount.release(fh)
    assert sum(end - start for start, end in fetched) <= 8 * MIB + 256 * KIB


def test_two_readers_of_one_handle_get_their_bytes(mount):
    data = pattern(24 * MIB)
    mount.put("f", data)
    fh = mount.open("f")
    tasks = []
    for at in range(0, 12 * MIB, MIB):
        for base in (0, 12 * MIB):
            offset = base + at
            tasks.append((offset, mount.start(mount.fs.files.read(fh, offset, MIB))))
    for offset, task in tasks:
        assert b"".join(mount.wait(task)) == data[offset : offset + MIB]
    mount.release(fh)


def test_a_cancelled_read_leaves_its_part_on_the_way_for_the_next(mount, fetched):
    data = pattern(4 * MIB)
    mount.put("f", data)
    fh = mount.open("f")
    assert mount.read(fh, 0, 128 * KIB) == data[: 128 * KIB]
    held = Held(mount.store, "GET")
    mount.store.gate = held._stop
    mount.settle()
    reading = mount.start(mount.fs.files.read(fh, 3 * MIB, 128 * KIB))
    mount.settle()
    reading.cancel()
    mount.settle()
    assert reading.cancelled()
    held.let_go()
    assert mount.read(fh, 128 * KIB, MIB) == data[128 * KIB : 128 * KIB + MIB]
    mount.release(fh)


@pytest.mark.parametrize("times", [1, 3])
def test_a_part_that_fails_is_asked_for_again_by_the_next_read(mount, times):
    data = pattern(6 * MIB)
    mount.put("f", data)
    fh = mount.open("f")
    fail(mount.store, "GET", StoreUnavailableError("503"), times=times)
    got, failed = b"", 0
    while len(got) < len(data):
        try:
            got += mount.read(fh, len(got), 128 * KIB)
        except StoreUnavailableError:
            failed += 1
    assert got == data
    assert failed <= times
    mount.release(fh)


def test_a_read_behind_the_end_is_empty_and_costs_nothing(mount, fetched):
    mount.put("f", b"abc")
    fh = mount.open("f")
    fetched.clear()
    assert mount.read(fh, 3, 10) == b""
    assert mount.read(fh, 1 << 50, 10) == b""
    assert mount.read(fh, 2, 10) == b"c"
    assert fetched == []
    mount.release(fh)


def test_a_file_that_grew_since_it_was_looked_up_is_read_whole(mount):
    mount.put("f", b"abc")
    ino = mount.ino("f")
    data = pattern(3 * MIB)
    mount.put("f", data)
    fh = mount.run(mount.opened(ino))
    assert mount.read(fh, 0, 3 * MIB) == data
    mount.release(fh)
