"""The memory of one mount: writers never exceed it, readers always progress, all is given back."""

import asyncio

import pytest

from csi_s3.errors import StoreUnavailableError
from csi_s3.fs.base.budget import MemoryBudget
from tests.unit.fs_mount import Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

MIB = 1 << 20


async def test_a_demand_waits_for_room_and_is_served_in_order_of_arrival():
    budget, served = MemoryBudget(10), []

    async def want(n):
        await budget.reserve(n)
        served.append(n)

    async with asyncio.TaskGroup() as group:
        for n in (6, 5, 1, 4):
            group.create_task(want(n))
        await asyncio.sleep(0)
        assert served == [6]  # 1 would fit, and must not overtake 5
        assert not budget.try_reserve(1)
        budget.release(6)
        await asyncio.sleep(0)
        assert served == [6, 5, 1, 4]
    assert budget.used_bytes == 10
    budget.release(10)


async def test_a_demand_above_everything_waits_until_all_else_is_free():
    budget = MemoryBudget(10)
    await budget.reserve(1)
    big = asyncio.create_task(budget.reserve(100))
    await asyncio.sleep(0)
    assert not big.done()
    budget.release(1)
    await big
    assert budget.used_bytes == 100
    budget.release(100)


@pytest.mark.parametrize("when", ["before", "with", "after"])
async def test_a_cancelled_demand_has_reserved_nothing_and_holds_up_nobody(when):
    budget = MemoryBudget(10)
    await budget.reserve(10)
    first, second = (asyncio.create_task(budget.reserve(n)) for n in (8, 3))
    await asyncio.sleep(0)
    if when == "before":
        first.cancel()
        await asyncio.sleep(0)
    if when == "with":
        first.cancel()
    budget.release(10)
    if when == "after":
        first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert budget.used_bytes == 3
    budget.release(3)


async def test_a_guess_leaves_room_for_writers():
    budget = MemoryBudget(100)
    assert budget.try_reserve(75)
    assert not budget.try_reserve(1)
    await budget.reserve(25)
    budget.take(1)  # a reader's need
    assert budget.used_bytes == 101
    budget.release(101)


def most_used(mount):
    """The most memory that was ever used; read it with []."""
    most = [0]

    def noting(name):
        call = getattr(mount.budget, name)

        def note(*args):
            call(*args)
            most[0] = max(most[0], mount.budget.used_bytes)

        setattr(mount.budget, name, note)

    for name in ("take", "release", "left", "stay", "leave", "holds"):
        noting(name)
    return most


def test_writers_never_exceed_the_budget_and_wait_instead(mounts):
    """Promise: A full memory budget is back-pressure: writers wait, and never exceed it."""
    mount = mounts(write_part_bytes=MIB, memory_bytes=4 * MIB)
    most = most_used(mount)
    held = Held(mount.store, "UPLOAD_PART")
    handles = [mount.create(f"f{n}") for n in range(4)]
    writes = [mount.start(mount.fs.files.write(fh, 0, bytes(5 * MIB))) for fh in handles]
    mount.settle()
    assert not any(task.done() for task in writes)
    assert mount.budget.used_bytes == 4 * MIB
    held.let_go()
    for task in writes:
        assert mount.wait(task) == 5 * MIB
    for fh in handles:
        mount.close_file(fh)
    assert most[0] == 4 * MIB
    assert mount.budget.used_bytes == 0
    assert all(len(v.data) == 5 * MIB for v in mount.store.objects.values())


def test_writers_that_all_wait_send_what_makes_a_part(mounts):
    """Each holds less than its part, together they hold everything: none could ever finish."""
    mount = mounts(write_part_bytes=8 * MIB, memory_bytes=16 * MIB)
    handles = [mount.create(f"f{n}") for n in range(3)]
    for at in range(8):
        writes = [
            mount.start(mount.fs.files.write(fh, at * MIB, bytes([at]) * MIB)) for fh in handles
        ]
        for task in writes:
            mount.wait(task)
    assert mount.budget.used_bytes <= 16 * MIB
    for n, fh in enumerate(handles):
        mount.close_file(fh)
        assert mount.data(f"f{n}") == b"".join(bytes([at]) * MIB for at in range(8))


def test_idle_readers_do_not_stop_a_writer(mounts):
    mount = mounts(write_part_bytes=2 * MIB, memory_bytes=16 * MIB)
    mount.put("big", bytes(100 * MIB))
    readers = [mount.open("big") for _ in range(3)]
    for fh in readers:
        for at in range(8):
            mount.read(fh, at * MIB, MIB)
    mount.settle()
    fh = mount.create("f")
    mount.wait(mount.start(mount.fs.files.write(fh, 0, bytes(10 * MIB))))
    mount.close_file(fh)
    assert len(mount.data("f")) == 10 * MIB
    for fh in readers:
        mount.release(fh)


def test_readers_progress_when_writers_hold_everything(mounts):
    """Promise: Readers always make progress, with a minimum of memory, whatever writers hold."""
    mount = mounts(write_part_bytes=2 * MIB, memory_bytes=4 * MIB)
    mount.put("big", b"x" * (8 * MIB))
    fh = mount.create("f")
    held = Held(mount.store, "UPLOAD_PART")
    writing = mount.start(mount.fs.files.write(fh, 0, bytes(9 * MIB)))
    mount.settle()
    assert mount.budget.used_bytes == 4 * MIB
    reader = mount.open("big")
    assert b"".join(mount.read(reader, at * MIB, MIB) for at in range(8)) == b"x" * (8 * MIB)
    mount.release(reader)
    assert mount.budget.used_bytes == 4 * MIB
    held.let_go()
    mount.wait(writing)
    mount.close_file(fh)


def test_all_memory_comes_back_when_the_handles_are_closed(mounts):
    mount = mounts(write_part_bytes=MIB, memory_bytes=64 * MIB)
    mount.put("big", bytes(30 * MIB))
    reader, writer, lost = mount.open("big"), mount.create("f"), mount.create("g")
    for at in range(10):
        mount.read(reader, at * MIB, MIB)
        mount.write(writer, bytes(MIB), at * MIB)
    fail(mount.store, "UPLOAD_PART", StoreUnavailableError("503"))
    mount.write(lost, bytes(MIB + 1))
    mount.unlink("f")
    assert mount.budget.used_bytes > 0
    mount.close_file(writer)
    with pytest.raises(StoreUnavailableError):
        mount.close_file(lost)
    mount.release(reader)
    assert mount.budget.used_bytes == 0
