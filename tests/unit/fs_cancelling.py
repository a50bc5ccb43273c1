"""Requests of the kernel that are interrupted at each of their awaits, once.

Every request of a `suspending` store suspends before and after it takes effect, so that each turn
of the event loop is another await. A test runs for every number of turns in TURNS; for the last of
them the request must have completed, which shows that no await is left out.
"""

import asyncio
import contextlib

import pytest

TURNS = range(24)
AT_EACH_AWAIT = pytest.mark.parametrize("turns", TURNS)


def suspending(mount):
    async def suspend(_operation, _key):
        await asyncio.sleep(0)

    mount.store.gate = mount.store.after = suspend
    return mount


def cancelled_after(mount, turns, call):
    """Run a request for so many turns, cancel it, let everything run out; the finished task."""

    async def run():
        task = await _started(call, turns)
        waits = not task.done()
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        return task, waits

    task, waits = mount.run(run())
    mount.settle()
    mount.settle()
    assert turns > 1 or waits, "the request does not wait: the test proves nothing"
    assert turns != TURNS[-1] or not waits, "there are more awaits: TURNS is too short"
    return task


def ended_after(mount, turns, call):
    """Run a request for so many turns, then end the mount's worker; returns the next one."""

    async def run():
        task = await _started(call, turns)
        assert turns != TURNS[-1] or task.done(), "there are more awaits: TURNS is too short"
        await mount.fs.close()
        for _ in range(60):
            await asyncio.sleep(0)
        assert task.done(), "the mount's end does not wait"
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()

    mount.run(run())
    successor = mount.restarted()
    successor.recover()
    return successor


async def _started(call, turns):
    task = asyncio.create_task(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    return task


def open_handles(mount):
    return list(mount.fs._handles._open)
