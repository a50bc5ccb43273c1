"""What the spool's files take of the disk, which gives whole blocks, against `spool-size`."""

import os
import random
import sys

import pytest

from csi_s3.errors import SpoolFullError
from csi_s3.fs.write.extents import Extents
from csi_s3.fs.write.spool import RECORD_BYTES
from csi_s3.fs.write.spool_description import Description
from tests.unit.fs_mount import mount, mounts
from tests.unit.spool_case import BLOCK, cut, map_of, measured_bytes, put, spool_of

__all__ = ["mount", "mounts"]

MIB = 1 << 20
SLACK = 64 << 10  # the file system's own blocks, for the maps of sparse files


def disk_use(state):
    """As `du`, without the directory itself."""
    return sum(p.stat().st_blocks * 512 for p in state.iterdir())


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def sparse_writes(mounts, state, *, spool_mib, step, length=1):
    """Write everywhere in an object that is larger than the spool; returns what was accepted."""
    mount = mounts(write_part_bytes=MIB, state_dir=state, spool_bytes=spool_mib * MIB)
    mount.put("f", bytes(64 * MIB))
    fh = mount.open("f", os.O_RDWR)
    done = 0
    with pytest.raises(SpoolFullError):  # noqa: PT012 - one of them is refused
        for at in range(0, 64 * MIB, step):
            mount.write(fh, b"!" * length, at)
            done += 1
            if done % 100 == 0:
                assert disk_use(state) <= spool_mib * MIB + SLACK
    assert abs(mount.spool.used_bytes - disk_use(state)) <= SLACK
    assert disk_use(state) <= spool_mib * MIB + SLACK
    mount.fsync(fh)
    assert mount.data("f").count(b"!") == done * length
    mount.close_file(fh)
    assert mount.spool.used_bytes == 0
    return done


@pytest.mark.parametrize("mib", [1, 10])
def test_a_byte_in_each_block_takes_the_block(mounts, state, mib):
    """Promise: The spool does not take more of the node's disk than `spool-size`, in whole blocks
    of the disk; a change that does not fit is ENOSPC, and the bytes that were accepted stay.
    """
    done = sparse_writes(mounts, state, spool_mib=mib, step=BLOCK)
    assert done == mib * MIB // BLOCK - 1, "one is the description's"


def test_rows_of_a_hundred_bytes_take_a_block_each_where_they_are_far_apart(mounts, state):
    assert sparse_writes(mounts, state, spool_mib=1, step=3 * BLOCK, length=100) == 255


def test_rows_next_to_one_another_share_blocks(mounts, state):
    done = sparse_writes(mounts, state, spool_mib=1, step=512, length=500)
    assert done == (MIB - BLOCK) // 512


def test_the_count_is_what_the_disk_says_after_any_order_of_writes_and_cuts(state):
    rng = random.Random(7)
    spool, extents = spool_of(state, blocks=100_000), Extents()
    file = spool.create("f")
    for _ in range(2000):
        if rng.random() < 0.02 and extents.size:
            cut(file, extents, rng.randrange(extents.size))
        else:
            data = b"x" * rng.choice((1, 100, BLOCK, 3 * BLOCK + 1))
            put(file, extents, rng.randrange(2000) * 1000, data)
        assert spool.used_bytes == BLOCK + spool.disk.space.freed_bytes(extents, 0)
    os.sync()
    assert abs(spool.used_bytes - disk_use(state)) <= SLACK
    file.close(keep=False)
    assert spool.used_bytes == 0


def test_small_files_take_two_blocks_each(state):
    spool = spool_of(state, blocks=20)
    made = []
    with pytest.raises(SpoolFullError):  # noqa: PT012 - the last is refused
        while True:
            made.append(spool.create(f"key-{len(made)}"))
            put(made[-1], Extents(), 0, b"x")
    assert len(made) == 10
    assert spool.used_bytes == disk_use(state) == 20 * BLOCK
    for file in made:
        file.close(keep=False)
    assert spool.used_bytes == 0


def test_a_long_description_counts_and_is_not_refused(state):
    """Else the bytes that it describes would be lost."""
    spool = spool_of(state, blocks=2)
    file, extents = spool.create("f"), Extents()
    put(file, extents, 0, b"x" * BLOCK)
    file.describe(Description.whole("f", None, map_of(10 * BLOCK)))
    assert spool.used_bytes == disk_use(state) > 10 * BLOCK
    file.describe(Description(key="f"))
    assert spool.used_bytes == disk_use(state) == 2 * BLOCK
    file.close(keep=False)


def test_a_name_of_a_thousand_bytes_has_room_in_its_block(state):
    spool = spool_of(state, blocks=2)
    file = spool.create("\u1234" * 341)
    assert spool.used_bytes == disk_use(state) == BLOCK
    file.close(keep=False)


@pytest.mark.parametrize("n", [300, 3000])
def test_the_record_of_a_file_is_as_large_as_it_counts(state, n):
    """And no file keeps its description's map in memory."""
    spool = spool_of(state, blocks=10 * n)
    extents = map_of(1000)

    def make():
        files = [spool.create(f"a/directory/file-{at:06}") for at in range(n)]
        for file in files[:10]:
            file.describe(Description.whole(file.description.key, None, extents))
        return files

    files, size = measured_bytes(make)
    keys = [file.description.key for file in files]
    counted = spool.disk.records.used_bytes
    assert counted == n * (RECORD_BYTES + sys.getsizeof(keys[0]))
    assert 0.75 * counted <= size <= 1.25 * counted
    for file in files:
        file.close(keep=False)
    assert spool.disk.records.used_bytes == 0
