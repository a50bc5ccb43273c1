import asyncio
import threading

import pytest

from csi_s3.aio import LONGEST_PAUSE_S, KeyLocks, LateCalls, Pace, back_off, blocking, finish

WITHIN_S = 20


async def test_a_key_is_held_by_one_at_a_time_and_in_order():
    locks, order = KeyLocks(), []

    async def hold(name: str) -> None:
        async with locks.hold("k"):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(hold(name))
    assert order == ["a in", "a out", "b in", "b out", "c in", "c out"]
    assert not locks.busy("k")


async def test_other_keys_do_not_wait():
    locks = KeyLocks()
    async with locks.hold("k"), locks.hold("other"):
        assert locks.busy("k")
        assert locks.busy("other")


async def test_cancelled_holder_leaves_no_key_locked():
    locks, held = KeyLocks(), asyncio.Event()

    async def hold() -> None:
        async with locks.hold("k"):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not locks.busy("k")


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
async def test_cancelled_waiter_leaves_the_holder_alone(steps):
    locks = KeyLocks()

    async def hold() -> None:
        async with locks.hold("k"):
            pass

    async with locks.hold("k"):
        waiter = asyncio.create_task(hold())
        for _ in range(steps):
            await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert locks.busy("k")
    assert not locks.busy("k")


async def test_finish_completes_under_cancellation_and_then_cancels():
    started, go, done = asyncio.Event(), asyncio.Event(), []

    async def cleanup() -> None:
        started.set()
        await go.wait()
        done.append(1)

    async def body() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await finish(cleanup, within_s=WITHIN_S)

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    task.cancel()
    await started.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]


async def test_finish_gives_up_at_its_deadline():
    with pytest.raises(TimeoutError):
        await finish(asyncio.Event().wait, within_s=0.01)


async def test_finish_raises_what_the_cleanup_raised():
    async def cleanup() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await finish(cleanup, within_s=WITHIN_S)


async def test_blocking_runs_in_another_thread_and_returns_or_raises():
    ident = await blocking(threading.get_ident, within_s=WITHIN_S)
    assert ident != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await blocking(lambda: 1 // 0, within_s=WITHIN_S)


async def test_blocking_leaves_a_call_that_hangs_behind_at_its_deadline():
    go, ended = threading.Event(), threading.Event()

    def hang() -> None:
        go.wait()
        ended.set()

    with pytest.raises(TimeoutError):
        await blocking(hang, within_s=0.01)
    go.set()
    assert ended.wait(WITHIN_S)  # late, and without an effect


async def test_a_call_left_behind_may_fail_late_and_disturb_nobody():
    go, ended = threading.Event(), threading.Event()

    def hang() -> None:
        go.wait()
        ended.set()
        raise OSError("late")

    with pytest.raises(TimeoutError):
        await blocking(hang, within_s=0.01)
    go.set()
    assert ended.wait(WITHIN_S)


async def test_many_blocking_calls_do_not_wait_for_one_another():
    together = threading.Barrier(40)  # more than a default executor has threads
    async with asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(blocking(lambda: together.wait(WITHIN_S), within_s=WITHIN_S))


async def test_pauses_between_attempts_grow_to_the_longest():
    pauses = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    for failures in (*range(1, 20), 5000):
        await back_off(failures, pause, first_s=0.1)
    assert 0.1 <= pauses[0] <= 0.2 <= pauses[1] <= 0.4 <= pauses[2] <= 0.8
    assert all(LONGEST_PAUSE_S / 2 <= seconds <= LONGEST_PAUSE_S for seconds in pauses[8:])


@pytest.mark.parametrize("n", [4, 40])
async def test_calls_that_never_return_have_no_more_threads_than_they_may(n):
    go, late, refused = threading.Event(), LateCalls(4), 0
    before = threading.active_count()
    for _ in range(n):
        try:
            await blocking(go.wait, within_s=0.001, late=late)
        except TimeoutError as exc:
            refused += str(exc) == "4 earlier calls have not returned"
    assert (threading.active_count() - before, refused) == (4, n - 4)
    assert await blocking(lambda: 1, within_s=WITHIN_S, late=LateCalls(4)) == 1  # another's
    go.set()
    for thread in threading.enumerate():
        if thread.daemon and thread is not threading.current_thread():
            thread.join(0.5)
    assert await blocking(lambda: 1, within_s=WITHIN_S, late=late) == 1


@pytest.mark.parametrize("n", [10, 100])
async def test_a_pace_gives_so_many_turns_in_each_second(n):
    now_s, times = 0.0, []

    async def sleep(seconds):
        nonlocal now_s
        now_s += seconds

    pace = Pace(5, clock=lambda: now_s, sleep=sleep)
    for _ in range(n):
        await pace.turn()
        times.append(now_s)
    assert times == [second for second in range(n // 5) for _ in range(5)]
    now_s += 10
    await pace.turn()
    assert now_s == times[-1] + 10
