"""Keeps a worker's memory near what it uses, without long steps on the event loop.

Where few requests come, the file system is asked to drop what nothing uses: names in the kernel's
cache, old listings. A monitor that looks at a file now and then is no use that counts.

Two more things are left to neither glibc nor CPython. Free memory inside of the heap is returned to
the system when there is much of it. And a full collection of cycles looks at every object: 0.16 s
for 300,000 inodes (measured), at moments that CPython chooses. Here it runs when no program waits.
That may be late, because almost nothing depends on it: requests leave no cycles behind, failed ones
included, and what does is mostly found by the collections of young objects, which stay automatic.

CPython gives an arena of 1 MiB back when its last object is freed. Small objects that only make
something faster can hold as many arenas as there were when they were made: entries of
`functools.lru_cache`, free objects in CPython's lists, names in its cache of attributes (asyncio
makes a new string `result` whenever a task has waited for a future of a derived class). In a pause
after work they are dropped.

Rejected: gc.freeze() after each full collection, so that no object is looked at twice (a cycle that
is alive then would never be found, with the buffers that it refers to); PYTHONMALLOC=malloc (the
objects of Python would share the heap with buffers).
"""

import asyncio
import functools
import gc
import logging
import sys
import time
from typing import Any, Protocol

from csi_s3.aio import blocking
from csi_s3.kernel.process_memory import Heap
from csi_s3.obs.metrics import catalog as metrics

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
TRIM_WITHIN_S = 30.0
WORTH_A_TRIM_BYTES = 8 << 20
WORTH_AN_IDLE_TRIM_BYTES = 1 << 20
FEW_REQUESTS = 100  # which use fewer names than are never dropped
SHORT_STEP_S = 0.03
# Collections of the middle generation, each of which may leave 7,000 objects to the oldest.
WORTH_A_COLLECTION = 10
OVERDUE = 1000  # even if it takes long: every seven million objects
OTHER_BLOCKS = 1000  # of pymalloc, more or fewer than before: names were dropped
# After work, caches are dropped so often: the first collection puts other objects into free lists.
DROPS = 3

_lru_caches: "list[functools._lru_cache_wrapper[Any]]" = []  # filled by `prepare`


def prepare() -> None:
    """Prepare a process that has just imported everything and will serve one mount.

    The zygote does the same before it forks: in a worker, all of it would write to shared pages.
    """
    Heap().configure()
    gc.collect()
    _lru_caches[:] = [
        found
        for found in gc.get_objects()
        if isinstance(found, functools._lru_cache_wrapper)  # noqa: SLF001 - it has no other name
        and found.cache_parameters()["maxsize"] is not None  # what must stay has no bound
    ]
    gc.freeze()


def drop_caches() -> None:
    """Drop what is only there to make something faster. A full collection empties free lists."""
    for cache in _lru_caches:
        cache.cache_clear()
    if sys.version_info >= (3, 13):
        sys._clear_internal_caches()  # noqa: SLF001 - a documented function
    else:
        sys._clear_type_cache()  # noqa: SLF001 - likewise


class MemoryHolder(Protocol):
    """What holds memory for a later use: the file system."""

    async def give_back(self, *, unused_s: float) -> None:
        """unused_s: for so long there were few requests."""


class MemoryUpkeep:
    """Lifetime: the worker's process, after `prepare`; `run` is a task.

    Cancellation of `run` leaves at most a trim in its thread.
    """

    def __init__(self, heap: Heap, holder: MemoryHolder, *, every_s: float = LOOK_EVERY_S) -> None:
        self._heap, self._holder, self._every_s = heap, holder, every_s
        self._answered = 0.0
        self._unused_looks = 0  # in a row
        self._answered_before = 0.0  # the first of them
        self._collection_s = 0.0  # what the last full one took
        self._drops_left = 0
        self._seen: tuple[float, int] = (0.0, 0)  # requests answered, and blocks of pymalloc

    async def run(self) -> None:
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, 1 << 30)  # full collections are made here
        while True:
            await asyncio.sleep(self._every_s)
            unused_s = self._unused_s()
            if unused_s:
                await self._holder.give_back(unused_s=unused_s)
            if is_after_work := unused_s > 0 and self._takes_drop():
                drop_caches()
            self._collect(is_after_work=is_after_work)
            worth_bytes = WORTH_AN_IDLE_TRIM_BYTES if unused_s else WORTH_A_TRIM_BYTES
            if self._heap.reclaimable_bytes() >= worth_bytes:
                try:
                    await blocking(self._heap.trim, within_s=TRIM_WITHIN_S)
                except TimeoutError:
                    log.debug("the heap is still being trimmed")

    def _unused_s(self) -> float:
        """For so long there were few requests in all. 0.0: there were more in the last period."""
        answered = metrics.FUSE_OPERATIONS.total()
        if answered - self._answered_before > FEW_REQUESTS:
            self._unused_looks, self._answered_before = 0, answered
        else:
            self._unused_looks += 1
        return self._unused_looks * self._every_s

    def _takes_drop(self) -> bool:
        """Whether caches are to be dropped now; counts it."""
        answered, blocks = metrics.FUSE_OPERATIONS.total(), sys.getallocatedblocks()
        if answered != self._seen[0] or abs(blocks - self._seen[1]) > OTHER_BLOCKS:
            self._drops_left = DROPS
        self._seen = answered, blocks
        if self._drops_left == 0:
            return False
        self._drops_left -= 1
        return True

    def _collect(self, *, is_after_work: bool = False) -> None:
        """Collect all cycles, if it is worth while and no request is delayed."""
        answered = metrics.FUSE_OPERATIONS.total()
        is_idle, self._answered = answered == self._answered, answered
        waiting = gc.get_count()[2]
        is_free = is_idle or self._collection_s < SHORT_STEP_S
        is_worth_while = is_after_work or waiting >= WORTH_A_COLLECTION
        if waiting >= OVERDUE or (is_worth_while and is_free):
            began_s = time.thread_time()
            gc.collect()
            self._collection_s = time.thread_time() - began_s
