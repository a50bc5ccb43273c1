"""A disk that others fill as well: below its floor, writers get ENOSPC, on a real small disk."""

import errno
import os
import subprocess

import pytest

from csi_s3.config.volume import SpoolRules
from csi_s3.errors import SpoolFullError
from csi_s3.fs.base.memory import Memory
from csi_s3.fs.write.extents import Extents
from csi_s3.fs.write.spool import Spool
from tests.unit.spool_case import BLOCK, put

MIB = 1 << 20
DISK = 8 * MIB
WITHIN_S = 30
SPOOLS = []  # of the running test


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    options = f"size={DISK},nr_inodes=100"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]
    subprocess.run(command, check=True, timeout=WITHIN_S)
    SPOOLS.clear()
    try:
        yield path
    finally:
        for spool in SPOOLS:
            for number in spool.disk.live:
                spool.disk.descriptors.close(number)
        subprocess.run(["umount", path], check=True, timeout=WITHIN_S)


def spool_on(disk, name, *, percent=25, limit_bytes=1 << 40):
    rules = SpoolRules(free_percent=percent)
    memory = Memory(1 << 20, 16 << 20)
    spool = Spool(disk / name, limit_bytes=limit_bytes, memory=memory, most_open=8, rules=rules)
    SPOOLS.append(spool)
    return spool


def free_bytes(disk):
    return os.statvfs(disk).f_bavail * BLOCK


def filled(spool, key):
    """A file that was written until it is refused; its size, and the error."""
    file, extents = spool.create(key), Extents()
    with pytest.raises(SpoolFullError) as refusal:  # noqa: PT012 - one of them is refused
        while True:
            put(file, extents, extents.size, bytes(16 * BLOCK))
    return file, extents.size, refusal.value


def test_writers_of_all_volumes_stop_at_the_floor(disk):
    """Promise: Below a floor of free bytes or inodes of the node's disk, a change that needs more
    of the spool is ENOSPC on all volumes of the node; what was accepted stays.
    """
    one, other = spool_on(disk, "one"), spool_on(disk, "other")
    file, size, error = filled(one, "f")
    assert error.errno == errno.ENOSPC
    assert "the node's disk is nearly full" in str(error)
    assert str(disk / "one") in error.hint
    floor = DISK // 4
    assert floor <= free_bytes(disk) < floor + 16 * BLOCK + BLOCK
    with pytest.raises(SpoolFullError, match="the node's disk is nearly full"):
        put(other.create("g"), Extents(), 0, bytes(32 * BLOCK))
    assert file.read(0, size) == bytes(size)
    assert one.used_bytes == size + BLOCK, "what was refused does not count"


def test_what_others_write_counts_and_what_they_remove_helps_at_once(disk):
    spool = spool_on(disk, "one")
    (disk / "images").write_bytes(bytes(DISK * 3 // 4))
    spool.create("f")  # no directory yet: the next one sees the disk
    with pytest.raises(SpoolFullError, match="nearly full"):
        spool.create("g")
    (disk / "images").unlink()
    put(spool.create("h"), Extents(), 0, bytes(BLOCK))


def test_inodes_have_the_same_floor(disk):
    spool = spool_on(disk, "one")
    with pytest.raises(SpoolFullError, match="inodes are free"):  # noqa: PT012 - as above
        for number in range(100):
            spool.create(f"f{number}")
    assert os.statvfs(disk).f_favail >= 22


def test_without_a_floor_the_disk_says_that_it_is_full(disk):
    spool = spool_on(disk, "one", percent=0)
    _, _, error = filled(spool, "f")
    assert "the spool's disk: No space left on device" in str(error)


def test_a_volume_s_limit_holds_above_the_floor(disk):
    spool = spool_on(disk, "one", limit_bytes=MIB)
    _, size, error = filled(spool, "f")
    assert size == MIB - 16 * BLOCK
    assert "bytes are in use" in str(error)
