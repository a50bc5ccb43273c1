"""The accounts of a mount's memory: limits by kind, one pool, caches that give way."""

import pytest

from csi_s3.config.volume import MIB, TreeConfig
from csi_s3.errors import OutOfMemoryError, TooManyOpenFilesError
from csi_s3.fs.base.memory import Memory, MemoryKind

POOL = 16 * MIB


@pytest.fixture
def memory():
    return Memory(64 * MIB, POOL)


def test_what_a_kind_may_hold_is_refused_above_its_limit_and_nothing_is_counted(memory):
    handles = memory.account(MemoryKind.HANDLES)
    handles.charge(handles.limit_bytes, "open")
    with pytest.raises(TooManyOpenFilesError, match="open: the volume's 8 MiB for handles"):
        handles.charge(1, "open")
    assert handles.used_bytes == handles.limit_bytes
    handles.add(-1)
    handles.charge(1, "open")


def test_all_kinds_together_hold_no_more_than_the_pool(memory):
    memory.account(MemoryKind.INODES).charge(POOL - 10, "look-up")
    memory.account(MemoryKind.RENAMES).charge(10, "rename")
    with pytest.raises(OutOfMemoryError):
        memory.account(MemoryKind.RENAMES).charge(1, "rename")


def test_a_cache_gives_way_to_what_cannot_be_fetched_again(memory):
    dropped = []

    def drop(n):
        dropped.append(n)
        cache.add(-min(n, cache.used_bytes))

    cache = memory.cache(MemoryKind.LISTINGS, drop)
    cache.add(POOL // 2)
    inodes = memory.account(MemoryKind.INODES)
    inodes.charge(POOL - 100, "look-up")
    assert dropped == [POOL // 2 - 100]
    assert cache.used_bytes == 100
    assert cache.free_bytes == 0
    inodes.charge(100, "look-up")
    assert cache.used_bytes == 0


def test_what_is_there_already_counts_even_above_the_limit(memory):
    changes = memory.account(MemoryKind.CHANGES)
    changes.add(POOL)
    assert changes.free_bytes < 0
    assert memory.account(MemoryKind.INODES).free_bytes == 0


def test_each_kind_is_shown_with_its_limit(memory):
    memory.account(MemoryKind.HANDLES).add(7)
    assert memory.used_bytes()["handles"] == 7
    assert (
        set(memory.used_bytes()) == set(memory.limit_bytes()) == {kind.value for kind in MemoryKind}
    )
    assert memory.limit_bytes()["buffers"] == 64 * MIB


@pytest.mark.parametrize(("buffers", "records"), [(16, 16), (64, 16), (148, 37), (512, 128)])
def test_records_have_a_quarter_of_the_budget_for_buffers_and_16_mib_at_least(buffers, records):
    assert TreeConfig(memory_bytes=buffers * MIB).records_bytes == records * MIB
