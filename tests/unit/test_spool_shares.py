"""One limit for the spools of a node: each volume's share of it is its own."""

import os

import pytest

from csi_s3.config.programs import SpoolLimit
from csi_s3.mounter.spool_shares import SpoolShares

GIB = 1 << 30


def allot(shares, number, *, asked=10 * GIB, state_dir="/"):
    return shares.allot(f"{number:032x}", f"pv-{number}", str(state_dir), asked)


def test_the_limit_is_divided_and_a_volume_takes_no_more_than_it_asks_for():
    shares = SpoolShares(SpoolLimit(limit_bytes=32 * GIB), 16)
    assert allot(shares, 1) == 2 * GIB
    assert allot(shares, 2, asked=GIB) == GIB
    assert sum(allot(shares, n) for n in range(3, 17)) == 14 * 2 * GIB


@pytest.mark.warnings_expected(r"the spools of 1[67] volumes have taken mounter.spool.limit")
def test_all_together_never_have_more_than_the_limit():
    """Promise: All spools of a node together do not take more than the chart's
    `mounter.spool.limit`: each volume has a share of it that no other volume can take.
    """
    shares = SpoolShares(SpoolLimit(limit_bytes=32 * GIB), 16)
    assert sum(allot(shares, n) for n in range(17)) == 32 * GIB
    assert allot(shares, 17) == 0
    shares.release(f"{3:032x}")
    assert allot(shares, 18) == 2 * GIB


def test_a_mount_that_replaces_another_takes_over_its_share():
    shares = SpoolShares(SpoolLimit(limit_bytes=GIB), 1)
    assert allot(shares, 1) == allot(shares, 1) == GIB


def test_a_percentage_is_of_the_disk_with_the_state_directory(tmp_path):
    shares = SpoolShares(SpoolLimit(percent=50), 4)
    disk = os.statvfs(tmp_path)
    half = disk.f_blocks * disk.f_frsize * 50 // 100
    assert allot(shares, 1, asked=1 << 60, state_dir=tmp_path) == half // 4


@pytest.mark.warnings_expected("its disk's size is unknown")
def test_without_a_limit_or_a_known_disk_a_volume_gets_what_it_asks_for(tmp_path):
    assert allot(SpoolShares(None, 1), 1) == 10 * GIB
    assert allot(SpoolShares(SpoolLimit(percent=1), 1), 1, state_dir=tmp_path / "none") == 10 * GIB
