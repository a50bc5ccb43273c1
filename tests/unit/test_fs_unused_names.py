"""The memory of names that nothing uses goes back, although there is room for them."""

import asyncio
import sys
from itertools import pairwise

import pytest

from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.names.eviction import BATCH
from tests.model.forgetting import Drops
from tests.unit.costs import counted_calls
from tests.unit.eviction_case import (
    BOUND_BYTES,
    FILE_BYTES,
    LIMIT,
    POOL_BYTES,
    ROOT_BYTES,
    TABLE,
    small,
    used,
)
from tests.unit.fs_mount import WITHIN_S, mount, mounts

__all__ = ["mount", "mounts", "small"]

MUCH_BYTES = 20 * POOL_BYTES  # so that nothing is asked for as long as the volume is used


def give_back(mount, unused_s: float = 20.0) -> None:
    mount.run(mount.fs.give_back(unused_s=unused_s))
    mount.settle()


@pytest.mark.parametrize("drops", [Drops.AT_ONCE, Drops.SOON, Drops.NEVER])
def test_of_a_volume_that_nothing_uses_no_name_stays_where_there_were_many(small, drops):
    """Promise: An inode number stays while the kernel holds the inode. On a volume with little use
    and more than some 1,400 names, it is asked to drop those that were not read or written; they
    have other numbers afterwards.
    """
    cost = {}
    for n in (LIMIT, 4 * LIMIT, 10 * LIMIT):
        mount, kernel = small(drops, n, records_bytes=MUCH_BYTES)
        for i in range(n):
            mount.lookup(f"{i:05}")
        assert not kernel.asked
        mount.fs._tree.eviction.low_bytes = LIMIT // 4 * FILE_BYTES
        with counted_calls(TABLE) as calls:
            give_back(mount)
            give_back(mount)
        cost[n] = calls.n
        mount.run(asyncio.sleep(0.02))
        stay = used(mount) if drops is not Drops.NEVER else used(mount) - pending(mount)
        assert stay <= ROOT_BYTES, "nothing but the root"
        assert set(kernel.asked.values()) == {1}
        assert {name.name for name in kernel.asked} == {
            b"%05d" % i for i in range(len(kernel.asked))
        }
        assert kernel.longest <= BATCH
    first, then = ((cost[m] - cost[n]) / (m - n) for n, m in pairwise(cost))
    assert then < 1.1 * first, "for each name that goes"


def test_a_few_names_stay_however_long_nothing_uses_them(small):
    mount, kernel = small(Drops.AT_ONCE, LIMIT, records_bytes=MUCH_BYTES)
    mount.ls()
    mount.fs._tree.eviction.low_bytes = used(mount)
    for _ in range(3):
        give_back(mount)
    assert not kernel.asked
    mount.fs._tree.eviction.low_bytes = used(mount) - 1
    give_back(mount)
    assert len(kernel.asked) == LIMIT


def pending(mount) -> int:
    return mount.fs._inodes.pending_bytes


def test_files_with_pages_or_set_times_and_what_is_open_stay_however_long_nothing_uses_them(small):
    mount, kernel = small(Drops.AT_ONCE, 10 * LIMIT, records_bytes=MUCH_BYTES)
    mount.fs._tree.eviction.low_bytes = 0
    held = mount.open("00000")
    for i in range(1, LIMIT):
        mount.cat(f"{i:05}")
    mount.run(mount.fs.setattr(mount.lookup(f"{LIMIT:05}").ino, mtime_ns=1))
    for i in range(LIMIT + 1, 10 * LIMIT):
        mount.lookup(f"{i:05}")
    give_back(mount)
    assert {name.name for name in kernel.asked} == {
        b"%05d" % i for i in range(LIMIT + 1, 10 * LIMIT)
    }
    give_back(mount)
    with counted_calls(TABLE) as calls:
        give_back(mount)
    assert calls.n < LIMIT, "they are not looked at again"
    mount.release(held)


def list_directories(mount, above):
    """LIMIT of them, with a file each."""
    for i in range(LIMIT):
        mount.store.put_now(f"{above}{i:05}/file")
    mount.time.now_s += 2
    for i in range(LIMIT):
        assert mount.ls(f"{above}{i:05}") == ["file"]


def test_directories_that_nothing_uses_go_after_what_is_in_them(small):
    mount, _ = small(Drops.AT_ONCE, records_bytes=MUCH_BYTES)
    mount.fs._tree.eviction.low_bytes = 0
    list_directories(mount, "tree/")
    for _ in range(4):
        give_back(mount)
    assert mount.fs.usage().inodes == 1
    assert mount.fs.usage().memory_bytes["listings"] > 0, "until metadata-ttl"
    mount.time.now_s += 2
    give_back(mount)
    assert mount.fs._context.memory.account(MemoryKind.LISTINGS).used_bytes == 0


def test_an_older_kernel_keeps_directories_that_nothing_uses(small):
    mount, _ = small(Drops.AT_ONCE, records_bytes=MUCH_BYTES)
    mount.kernel.can_drop_directories = False
    mount.fs._tree.eviction.low_bytes = 0
    list_directories(mount, "")
    give_back(mount)
    assert mount.fs.usage().inodes == LIMIT + 1


def test_what_the_kernel_may_answer_for_metadata_ttl_stays(small):
    mount, kernel = small(
        Drops.AT_ONCE,
        LIMIT,
        records_bytes=MUCH_BYTES,
        metadata_ttl_s=60.0,
        metadata_ttl_by_hand=True,
    )
    mount.fs._tree.eviction.low_bytes = 0
    mount.ls()
    give_back(mount, 60.0)
    assert not kernel.asked
    give_back(mount, 70.0)
    assert len(kernel.asked) == LIMIT


def test_a_volume_that_is_used_meanwhile_has_room(small):
    """A pass over names that stay ends, and does not keep new ones out."""
    mount, kernel = small(Drops.LATE, 10 * LIMIT, room_within_s=WITHIN_S)
    mount.fs._tree.eviction.low_bytes = 0
    for i in range(LIMIT // 2):
        mount.cat(f"{i:05}")
    task = mount.start(mount.fs.give_back(unused_s=20.0))
    kernel.drops = Drops.SOON
    for i in range(10 * LIMIT):
        mount.lookup(f"{i:05}")
    mount.wait(task)
    assert kernel.most_bytes <= BOUND_BYTES


def test_the_tables_take_no_more_than_those_need_that_are_left(small):
    mount, _ = small(Drops.AT_ONCE, records_bytes=100 * POOL_BYTES)
    mount.fs._tree.eviction.low_bytes = 0
    for i in range(50 * LIMIT):
        mount.store.put_now(f"d/{i:05}")
    mount.time.now_s += 2
    mount.ls("d")
    for i in range(LIMIT):
        mount.cat(f"d/{i:05}")
    inodes = mount.fs._inodes
    give_back(mount)
    names = inodes.get(mount.ino("d")).runtime.names
    assert (len(names), len(inodes), len(inodes._by_number)) == (LIMIT, LIMIT + 2, LIMIT + 2)
    for table in (inodes._by_number, names):
        assert sys.getsizeof(table) < 120 * LIMIT
