import asyncio

import pytest

from csi_s3.errors import BusyError
from csi_s3.node.job_queue import JobQueue


@pytest.fixture
async def owner():
    """An owner with its task, cancelled at the end."""
    owner = JobQueue()
    task = asyncio.create_task(owner.run(lambda: False))
    yield owner
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_jobs_run_one_after_another_in_their_order(owner):
    seen = []

    async def job(n: int) -> int:
        seen.append(f"{n} begins")
        await asyncio.sleep(0)
        seen.append(f"{n} ends")
        return n

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(owner.ask(lambda n=n: job(n))) for n in range(3)]
    assert [t.result() for t in tasks] == [0, 1, 2]
    assert seen == [f"{n} {what}" for n in range(3) for what in ("begins", "ends")]


async def test_a_job_goes_on_when_its_caller_is_cancelled(owner):
    gate, done = asyncio.Event(), asyncio.Event()

    async def job() -> None:
        await gate.wait()
        done.set()

    caller = asyncio.create_task(owner.ask(job))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await done.wait()


async def test_a_failed_job_is_its_callers_alone(owner):
    async def fails() -> None:
        raise BusyError("held")

    async def bug() -> None:
        raise ZeroDivisionError

    async def works() -> str:
        return "done"

    owner.later(bug)
    with pytest.raises(BusyError, match="held"):
        await owner.ask(fails)
    with pytest.raises(ZeroDivisionError):
        await owner.ask(bug)
    assert await owner.ask(works) == "done"


async def test_it_ends_when_there_is_nothing_left_to_own():
    owner, finished = JobQueue(), False

    async def first() -> None:
        nonlocal finished
        finished = True

    async def second() -> None: ...

    jobs = [owner.enqueue(first), owner.enqueue(second)]
    await owner.run(lambda: finished)
    assert all(j.done() for j in jobs)  # not before the queue was empty


async def test_the_end_of_the_owner_cancels_who_waits():
    owner = JobQueue()

    async def forever() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(owner.run(lambda: False))
    waiting = [asyncio.create_task(owner.ask(forever)) for _ in range(2)]
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    for each in (task, *waiting):
        with pytest.raises(asyncio.CancelledError):
            await each
