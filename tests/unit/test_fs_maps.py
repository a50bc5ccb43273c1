"""Files written at random: the map of their bytes is counted, bounded, and never scanned."""

import asyncio
import os
import random
import tracemalloc

import pytest

from csi_s3.errors import OutOfMemoryError
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.write.extents import EXTENT_BYTES, Extents, Origin
from csi_s3.fs.write.mapped_bytes import COUNTED_EXTENTS, MOST_EXTENTS
from tests.unit.costs import counted_turns, steps_of
from tests.unit.fs_mount import mount, mounts

__all__ = ["mount", "mounts"]

MIB = 1 << 20
BLOCK = 4096


@pytest.fixture
def spooled(mounts, tmp_path):
    return mounts(state_dir=tmp_path / "state", min_part_bytes=5 * MIB)


def records(mount):
    return mount.fs._context.memory.account(MemoryKind.DIRTY_FILES)


def extents_of(mount, path):
    return mount.fs._inodes.get(mount.ino(path)).writer._staged.extents


def sparse(mount, path, size):
    fh = mount.create(path)
    mount.truncate(path, size)
    return fh


def write_blocks(mount, fh, numbers):
    write_each(mount, fh, ((n * BLOCK, b"x" * BLOCK) for n in numbers))


def write_each(mount, fh, changes):
    """The bytes at each offset, in turns of the event loop that are no longer than a kernel's."""

    async def write():
        for i, (at, data) in enumerate(changes):
            await mount.fs.files.write(fh, at, data)
            if i % 100 == 99:
                await asyncio.sleep(0)

    mount.run(write())


def test_a_random_write_costs_the_same_however_many_went_before(spooled):
    fh = sparse(spooled, "f", 10 << 30)
    blocks = random.Random(1).sample(range(0, (10 << 30) // BLOCK, 2), 20_000)
    steps = {}
    for n in (500, 2000, 20_000):
        write_blocks(spooled, fh, blocks[: n - 20])
        last = blocks[n - 20 : n]
        steps[n] = steps_of(lambda last=last: write_blocks(spooled, fh, last))
        assert len(extents_of(spooled, "f")) > 1.9 * n
    assert steps[2000] < 1.1 * steps[500]
    assert steps[20_000] < 1.1 * steps[500]
    spooled.truncate("f", 0)
    spooled.close_file(fh)


@pytest.mark.parametrize("what", ["cut", "written over", "half cut", "half written over"])
def test_a_change_of_very_many_extents_has_no_loop_of_our_own(mounts, tmp_path, what):
    """The lines of our code that a truncation or a write runs do not grow with the map."""
    mount = mounts(state_dir=tmp_path / "state", write_part_bytes=64)
    steps = {}
    for n in (50, 500, 5000):
        fh = sparse(mount, f"{n}", size := 4 * n)
        write_each(mount, fh, ((at, b"x") for at in range(1, size, 4)))
        staged = mount.fs._inodes.get(mount.ino(f"{n}")).writer._staged
        assert len(staged.extents) >= 2 * n
        expected = bytearray(mount.read(fh, 0, size))
        start = 2 if what.startswith(("cut", "written")) else size // 2
        if what.endswith("over"):
            data = memoryview(b"y" * (size - start - 3))
            expected[start : size - 3] = data
            steps[n] = steps_of(lambda: staged.overwrite(start, data))  # noqa: B023 - called here
        else:
            del expected[start:]
            steps[n] = steps_of(lambda: mount.truncate(f"{n}", start))  # noqa: B023
        assert mount.read(fh, 0, size) == expected
        mount.close_file(fh)
        assert mount.data(f"{n}") == expected
    assert steps[5000] <= 1.1 * steps[500] <= 1.2 * steps[50]


@pytest.mark.parametrize("n", [4000, 40_000])
def test_an_extent_takes_what_is_counted(n):
    blocks = random.Random(1).sample(range(0, 10 * n, 2), n // 2)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    extents = Extents()
    extents.put(0, 10 * n, Origin.BASE)
    for at in blocks:
        extents.put(at, at + 1, Origin.SPOOL)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.75 * EXTENT_BYTES < (after - before) / len(extents) < 1.25 * EXTENT_BYTES


@pytest.mark.parametrize("n", [1000, 10_000])
def test_a_map_is_counted_until_its_file_is_closed(spooled, n):
    fh = sparse(spooled, "f", 10 * n * BLOCK)
    write_blocks(spooled, fh, [0])  # the record of its file in the spool is counted apart
    before = records(spooled).used_bytes
    write_blocks(spooled, fh, range(3, 2 * n + 2, 2))
    counted = records(spooled).used_bytes - before
    assert abs(counted / EXTENT_BYTES - 2 * n) <= COUNTED_EXTENTS
    spooled.truncate("f", BLOCK)
    assert records(spooled).used_bytes == before - COUNTED_EXTENTS * EXTENT_BYTES  # one extent
    spooled.close_file(fh)
    assert records(spooled).used_bytes == 0


def test_above_a_number_of_extents_the_smallest_gaps_are_closed(spooled):
    """The bytes are the same, and the map stays below its bound."""
    end = 3 * MOST_EXTENTS
    fh = sparse(spooled, "f", 16 * end)

    write_each(spooled, fh, ((16 * at, b"x" * 16) for at in range(1, end, 4)))
    write_each(spooled, fh, ((16 * at, b"y" * 16) for at in range(3, end, 8)))  # gaps of 16 and 48
    assert len(extents_of(spooled, "f")) <= MOST_EXTENTS
    data = spooled.read(fh, 0, 16 * 64)
    for at in range(64):
        expected = b"x" if at % 4 == 1 else b"y" if at % 8 == 3 else b"\0"
        assert data[16 * at : 16 * at + 16] == expected * 16
    spooled.close_file(fh)
    stored = spooled.data("f")
    assert len(stored) == 16 * end
    assert stored.count(b"x") == 16 * len(range(1, end, 4))
    assert stored.count(b"y") == 16 * len(range(3, end, 8))


def test_where_maps_have_no_memory_one_that_can_shrink_does_and_another_is_refused(spooled):
    """Promise: ENOMEM: a write that needs one more extent, where there is memory for none."""
    base = bytes(range(256)) * 40_000
    for name in ("f", "lone"):
        spooled.put(name, base)
    fh, lone = spooled.open("f", os.O_RDWR), spooled.open("lone", os.O_RDWR)
    write_blocks(spooled, fh, range(1, 200, 2))
    rest = records(spooled).free_bytes
    records(spooled).add(rest)
    with pytest.raises(OutOfMemoryError):
        spooled.write(lone, b"y", 2_000_000)
    full = records(spooled).used_bytes
    expected = bytearray(base)
    for n in range(1, 200, 2):
        expected[n * BLOCK : (n + 1) * BLOCK] = b"x" * BLOCK
    for at in range(2_000_000, 9_000_000, 10_000):
        spooled.write(fh, b"x", at)
        expected[at : at + 1] = b"x"
        assert records(spooled).used_bytes <= full
    records(spooled).add(-rest)
    spooled.write(lone, b"y", 2_000_000)
    spooled.close_file(fh)
    spooled.close_file(lone)
    assert spooled.data("f") == expected
    assert spooled.data("lone") == base[:2_000_000] + b"y" + base[2_000_001:]


@pytest.mark.parametrize("n", [1000, 10_000])
def test_storing_a_file_of_many_extents_leaves_others_their_turns(spooled, n):
    """No step between two turns handles more than so many extents."""
    spooled.put("f", bytes(max(2 * n * 512, 6 * MIB)))
    fh = spooled.open("f", os.O_RDWR)
    write_each(spooled, fh, ((at * 512, b"x" * 200) for at in range(1, 2 * n, 2)))
    assert len(extents_of(spooled, "f")) > 1.9 * n
    with counted_turns(spooled.loop) as turns:
        spooled.close_file(fh)
    assert turns.n > 2 * n // 1000
    assert spooled.data("f").count(b"x") == 200 * n


def test_an_overwrite_looks_at_no_part_but_those_it_changes(mounts, tmp_path):
    steps = {}
    for n in (100, 1000):
        mount = mounts(write_part_bytes=8, state_dir=tmp_path / str(n))
        fh = mount.create("f")
        mount.write(fh, bytes(8 * n + 4))
        mount.settle()
        mount.write(fh, b"x", 0)
        steps[n] = steps_of(lambda mount=mount, fh=fh: mount.write(fh, b"x", 80))
        mount.close_file(fh)
        assert mount.data("f").count(b"x") == 2
    assert steps[1000] < 1.1 * steps[100]
