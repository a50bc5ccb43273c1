"""A wait ends when no byte of the mount has moved for a time, counted from its own beginning."""

import asyncio

import pytest

from csi_s3.errors import StoreTimeoutError
from csi_s3.fs.base.clock import Clock
from csi_s3.fs.base.progress_timeout import WAIT_BYTES, Progress, ProgressTimeout

STALLED_AFTER_S = 0.05  # also how often a wait looks at the clock, which the test sets


@pytest.fixture
async def waits():
    """Starts a wait for work that never ends; `waits.now_s` is the clock."""
    async with asyncio.TaskGroup() as group:

        async def never():
            await asyncio.Event().wait()

        def wait(what, **rest):
            return group.create_task(_caught(timeout.wait(never, what, **rest)))

        wait.now_s, wait.held = 0.0, []
        clock = Clock(monotonic_s=lambda: wait.now_s)
        timeout = ProgressTimeout(
            group, clock, held=wait.held.append, stalled_after_s=STALLED_AFTER_S
        )
        wait.timeout, wait.clock = timeout, clock
        yield wait
        wait.now_s += 1000
        await asyncio.sleep(3 * STALLED_AFTER_S)
        timeout.close()


async def _caught(wait):
    try:
        await wait
    except StoreTimeoutError as exc:
        return exc


async def test_a_wait_that_begins_does_not_prolong_those_that_have_begun(waits):
    first = waits("first")
    await asyncio.sleep(0)
    waits.now_s = 0.04
    second = waits("second")
    await asyncio.sleep(0)
    waits.now_s = 0.06
    assert "first" in str(await asyncio.wait_for(first, 20))
    assert not second.done()
    waits.now_s = 0.1
    assert "second" in str(await asyncio.wait_for(second, 20))


async def test_progress_of_a_file_prolongs_the_waits_for_it_and_no_other(waits):
    one, other = Progress(waits.clock), Progress(waits.clock)
    first, second = (waits(f"{n}", progress=lambda p=p: p) for n, p in enumerate((one, other)))
    await asyncio.sleep(0)
    waits.now_s = 0.04
    other.made()
    waits.now_s = 0.06
    assert await asyncio.wait_for(first, 20) is not None
    assert not second.done()
    waits.now_s = 0.1
    assert await asyncio.wait_for(second, 20) is not None


async def test_a_request_counts_until_its_work_has_ended(waits):
    first = waits("first", held_bytes=5)
    await asyncio.sleep(0)
    waits.now_s = 1
    assert await asyncio.wait_for(first, 20) is not None
    assert sum(waits.held) == WAIT_BYTES + 5
    waits.timeout.close()
    await asyncio.sleep(0.01)
    assert sum(waits.held) == 0


async def test_progress_of_a_rename_prolongs_all_waits(waits):
    both = [waits("first"), waits("second")]
    await asyncio.sleep(0)
    waits.now_s = 0.04
    waits.timeout.made_progress()
    waits.now_s = 0.06
    await asyncio.sleep(2 * STALLED_AFTER_S)
    assert not any(task.done() for task in both)
    waits.now_s = 0.1
    for task in both:
        assert await asyncio.wait_for(task, 20) is not None


async def test_progress_before_a_wait_does_not_shorten_it(waits):
    waits.timeout.made_progress()
    waits.now_s = 100.0
    late = waits("late")
    await asyncio.sleep(2 * STALLED_AFTER_S)
    assert not late.done()
