"""How the mounter's memory limit is divided among its volumes."""

import pytest

from csi_s3.config.volume import DEFAULT_MEMORY_BYTES, BucketConfig, TreeConfig, VolumeConfig
from csi_s3.errors import BadOptionError, MemoryLimitError, Status
from csi_s3.mounter.memory_shares import (
    LEAST_BYTES,
    MIB,
    RESERVE_BYTES,
    MemoryShares,
    cost_of,
    fitted_to,
)

FOUR_EACH_64 = RESERVE_BYTES + 4 * cost_of(64 * MIB)


def volume(**tree):
    tree = TreeConfig(**tree)
    return VolumeConfig(bucket=BucketConfig(bucket="b"), tree=tree)


def budget(shares, mount_id, *, asked=None):
    return shares.allot(mount_id, "pv", asked)


def test_without_a_limit_each_volume_has_what_it_asks_for_or_the_default():
    shares = MemoryShares(None, 1)
    assert budget(shares, "a") == DEFAULT_MEMORY_BYTES
    assert budget(shares, "b", asked=4096 * MIB) == 4096 * MIB
    assert budget(shares, "c", asked=64 * MIB) == 64 * MIB


def test_a_limit_is_divided_after_the_reserve():
    shares = MemoryShares(FOUR_EACH_64, 4)
    assert shares.share_bytes == 64 * MIB
    assert [budget(shares, name) for name in "abcd"] == [64 * MIB] * 4


def test_the_limit_of_the_chart_s_default_gives_a_useful_share():
    shares = MemoryShares(4096 * MIB, 16)
    assert 128 * MIB <= shares.share_bytes < 160 * MIB


def test_the_shares_and_the_reserve_never_exceed_the_limit():
    for limit in (2000 * MIB, 2001 * MIB + 1, 5555 * MIB):
        for n in (1, 3, 12):
            shares = MemoryShares(limit, n)
            assert RESERVE_BYTES + n * cost_of(shares.share_bytes) <= limit


@pytest.mark.warnings_expected("64 MiB are used; raise")
def test_a_volume_that_asks_for_more_than_its_share_gets_the_share_and_a_warning(caplog):
    assert budget(MemoryShares(FOUR_EACH_64, 4), "a", asked=512 * MIB) == 64 * MIB
    (line,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert line.getMessage().startswith("memory-target=512 (MiB) is more than a volume's share")
    assert line.volume == "pv"


def test_a_volume_that_asks_for_less_gets_less():
    assert (
        budget(MemoryShares(RESERVE_BYTES + cost_of(256 * MIB), 1), "a", asked=64 * MIB) == 64 * MIB
    )


def test_one_volume_too_many_is_refused_when_nothing_is_left():
    shares = MemoryShares(FOUR_EACH_64, 4)
    for name in "abcd":
        budget(shares, name)
    with pytest.raises(MemoryLimitError, match="among the 4 volumes") as caught:
        budget(shares, "e")
    assert caught.value.status is Status.RESOURCE_EXHAUSTED
    assert "mounter.maxVolumes" in caught.value.hint
    shares.release("b")
    assert budget(shares, "e") == 64 * MIB


@pytest.mark.warnings_expected("this is volume 2 of this node, but mounter.maxVolumes is 1")
def test_one_volume_too_many_gets_what_the_others_left():
    shares = MemoryShares(RESERVE_BYTES + cost_of(512 * MIB), 1)
    assert budget(shares, "a", asked=64 * MIB) == 64 * MIB
    assert LEAST_BYTES <= budget(shares, "b") < 512 * MIB - 64 * MIB


def test_a_mount_that_is_made_anew_takes_no_second_share():
    shares = MemoryShares(FOUR_EACH_64, 4)
    for name in "abcd" + "a" * 5:
        assert budget(shares, name) == 64 * MIB


def test_releasing_what_has_no_share_changes_nothing():
    shares = MemoryShares(RESERVE_BYTES + cost_of(64 * MIB), 1)
    shares.release("x")
    budget(shares, "a")
    with pytest.raises(MemoryLimitError):
        budget(shares, "b")


def test_a_limit_that_is_too_small_for_so_many_names_both_flags():
    with pytest.raises(BadOptionError) as caught:
        MemoryShares(1024 * MIB, 16)
    assert "--memory-limit 1073741824" in caught.value.what
    assert "--max-volumes 16" in caught.value.what
    least = int(caught.value.hint.split()[3])
    with pytest.raises(BadOptionError):
        MemoryShares(least - 16 * MIB, 16)


@pytest.mark.warnings_expected("MiB for a volume's buffers is little")
def test_the_limit_that_the_error_names_is_enough():
    with pytest.raises(BadOptionError) as caught:
        MemoryShares(1, 16)
    least = int(caught.value.hint.split()[3])
    assert MemoryShares(least, 16).share_bytes >= LEAST_BYTES


@pytest.mark.warnings_expected("parts of 67108864 bytes do not fit")
def test_parts_are_at_most_half_of_the_budget():
    found = fitted_to(volume(write_part_bytes=64 * MIB), 64 * MIB).tree
    assert (found.write_part_bytes, found.read_part_bytes) == (32 * MIB, 8 * MIB)


def test_nothing_else_of_the_volume_changes():
    asked = volume(uid=5, allow_delete=True)
    found = fitted_to(asked, 64 * MIB)
    assert found.bucket == asked.bucket
    assert (found.tree.uid, found.tree.allow_delete) == (5, True)
    assert found.tree.memory_bytes == 64 * MIB
