"""What was freed goes back to the system, and cycles are collected when no program waits."""

import asyncio
import contextlib
import gc
import subprocess
import sys

import pyfuse3
import pytest

from csi_s3.errors import NotFoundError
from csi_s3.fuse.boundary import answered
from csi_s3.mounter.memory_upkeep import (
    DROPS,
    FEW_REQUESTS,
    OTHER_BLOCKS,
    OVERDUE,
    WORTH_A_COLLECTION,
    MemoryUpkeep,
)
from csi_s3.obs.metrics import catalog as metrics

# 200 MB in blocks as tails of files have them, each with a small one behind it that stays.
PROGRAM = """
import ctypes, sys
from csi_s3.kernel.process_memory import Heap, memory_of
import os
heap = Heap()
heap.configure()
before = memory_of(os.getpid()).rss
large, small = [], []
for _ in range(1600):
    large.append(bytearray(125 << 10))
    small.append(bytearray(600))
assert memory_of(os.getpid()).rss - before > 180 << 20
large.clear()
reclaimable = heap.reclaimable_bytes()
heap.trim()
left = memory_of(os.getpid()).rss - before
part = bytearray(9 << 20)
del part
part = bytearray(5 << 20)
mapped = memory_of(os.getpid()).rss
del part
print(reclaimable >> 20, left >> 20, heap.reclaimable_bytes() >> 20,
      (mapped - memory_of(os.getpid()).rss) >> 20)
"""


def test_the_pages_of_freed_blocks_go_back_though_small_ones_stay_between_them():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60
    )
    reclaimable, left, again, of_a_part = map(int, done.stdout.split())
    assert reclaimable > 180
    assert left < 8
    assert again == 0  # what was returned is not asked for again
    assert of_a_part >= 4  # at once, though a larger one was freed before


class FakeHeap:
    """A heap of which so much can be returned."""

    def __init__(self, *reclaimable: int) -> None:
        self.reclaimable, self.trims = list(reclaimable), 0

    def configure(self) -> None:
        pass

    def reclaimable_bytes(self) -> int:
        return self.reclaimable.pop(0) if self.reclaimable else 0

    def trim(self) -> None:
        self.trims += 1


class FakeHolder:
    """unused: what it was called with."""

    def __init__(self) -> None:
        self.unused: list[float] = []

    async def give_back(self, *, unused_s: float) -> None:
        self.unused.append(unused_s)


async def looks(upkeep, until):
    task = asyncio.get_running_loop().create_task(upkeep.run())
    async with asyncio.timeout(10):
        while not until():
            await asyncio.sleep(0.001)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_the_heap_is_trimmed_where_it_is_worth_while():
    heap = FakeHeap(1 << 19, 100 << 20, 1 << 19, 9 << 20)
    await looks(MemoryUpkeep(heap, FakeHolder(), every_s=0.001), lambda: not heap.reclaimable)
    assert heap.trims >= 1
    await looks(MemoryUpkeep(heap, FakeHolder(), every_s=0.001), lambda: True)
    assert heap.trims == 2


def test_a_volume_is_unused_while_few_requests_come():
    upkeep = MemoryUpkeep(FakeHeap(), FakeHolder(), every_s=10)
    found = []
    for requests in (FEW_REQUESTS + 1, 1, FEW_REQUESTS // 2, 0, FEW_REQUESTS, 0):
        metrics.FUSE_OPERATIONS.inc(requests, op="lookup", result="ok")
        found.append(upkeep._unused_s())
    assert found == [0, 10, 20, 30, 0, 10]


async def test_what_is_unused_is_given_back_and_then_the_heap_is_trimmed_for_less():
    heap, holder = FakeHeap(3 << 20, 1 << 19), FakeHolder()
    upkeep = MemoryUpkeep(heap, holder, every_s=0.001)
    upkeep._unused_s()
    await looks(upkeep, lambda: not heap.reclaimable)
    assert holder.unused[0] > 0
    assert heap.trims == 1


@pytest.fixture
def collections(monkeypatch):
    """Count full collections; the counts of the collector are the test's."""
    found = []
    waiting = [0]
    monkeypatch.setattr(gc, "get_count", lambda: (0, 0, waiting[0]))
    monkeypatch.setattr(gc, "collect", lambda: found.append(waiting[0]))
    return found, waiting


def test_cycles_are_collected_when_no_request_was_answered_since(collections):
    found, waiting = collections
    upkeep = MemoryUpkeep(FakeHeap(), FakeHolder())
    upkeep._collection_s = 1.0  # it took long before
    waiting[0] = WORTH_A_COLLECTION
    metrics.FUSE_OPERATIONS.inc(op="lookup", result="ok")
    upkeep._collect()
    assert found == []
    upkeep._collect()
    assert found == [WORTH_A_COLLECTION]


def test_cycles_are_collected_in_any_case_when_it_is_overdue(collections):
    found, waiting = collections
    upkeep = MemoryUpkeep(FakeHeap(), FakeHolder())
    upkeep._collection_s = 1.0
    waiting[0] = OVERDUE
    metrics.FUSE_OPERATIONS.inc(op="lookup", result="ok")
    upkeep._collect()
    assert found == [OVERDUE]


# What is held is known by the references to it. The first name is in no code, so not interned.
CACHES = """
import asyncio, functools, sys
from csi_s3.mounter.memory_upkeep import MemoryUpkeep, prepare
from tests.unit.test_memory_upkeep import FakeHeap, FakeHolder, looks

class Some:
    pass

bounded = functools.lru_cache(list)
unbounded = functools.cache(list)
prepare()
name = "".join(["a", "name"])
alone = sys.getrefcount(name)
getattr(Some, name, None)
assert sys.getrefcount(name) > alone
bounded(), unbounded()
work = [object() for _ in range(3000)]
upkeep = MemoryUpkeep(FakeHeap(), FakeHolder(), every_s=0.001)
asyncio.run(looks(upkeep, lambda: bounded.cache_info().currsize == 0))
print(sys.getrefcount(name) - alone, bounded.cache_info().currsize, unbounded.cache_info().currsize)
"""


def test_what_only_makes_something_faster_is_dropped_in_a_pause_after_work():
    done = subprocess.run(
        [sys.executable, "-c", CACHES], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["0", "0", "1"]


async def test_it_is_dropped_some_times_after_work_and_after_names_went(collections):
    found, _ = collections
    holder = FakeHolder()
    upkeep = MemoryUpkeep(FakeHeap(), holder, every_s=0.001)
    await looks(upkeep, lambda: len(holder.unused) >= 10)
    assert len(found) == DROPS
    metrics.FUSE_OPERATIONS.inc(op="lookup", result="ok")
    await looks(upkeep, lambda: len(holder.unused) >= 20)
    assert len(found) == 2 * DROPS
    names = [object() for _ in range(2 * OTHER_BLOCKS)]
    await looks(upkeep, lambda: len(holder.unused) >= 30)
    assert len(found) == 3 * DROPS
    del names
    await looks(upkeep, lambda: len(holder.unused) >= 40)
    assert len(found) == 4 * DROPS


def test_an_error_that_was_answered_leaves_nothing_to_the_garbage_collector():
    async def lookup():
        error = NotFoundError("no name")
        raise error

    handler = answered(10)(lookup)

    async def requests(n):
        for _ in range(n):
            with contextlib.suppress(pyfuse3.FUSEError):
                await handler()

    with asyncio.Runner() as runner:
        runner.run(requests(1))
        gc.collect()
        gc.disable()
        try:
            runner.run(requests(20))
            assert gc.collect() < 20
        finally:
            gc.enable()
