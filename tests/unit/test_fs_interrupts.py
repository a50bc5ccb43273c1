"""An interrupted request is let finish while the store answers, and is ended after some seconds."""

import asyncio
import errno

import pyfuse3
import pytest

from csi_s3.errors import StaleError
from csi_s3.fs.base.clock import Clock
from csi_s3.fs.base.progress_timeout import FileProgress, ProgressTimeout
from csi_s3.fuse import interrupts
from csi_s3.fuse.boundary import answered
from csi_s3.fuse.interrupts import INTERRUPTED_AFTER_S, give_up, interrupt
from csi_s3.obs.metrics import catalog as metrics


@pytest.fixture
async def passed(monkeypatch):
    """Lets time pass on the loop's clock: every timer that is due then fires."""
    loop = asyncio.get_running_loop()
    ahead_s, time = 0.0, loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + ahead_s)

    async def pass_by(seconds):
        nonlocal ahead_s
        ahead_s += seconds
        for _ in range(5):
            await asyncio.sleep(0)

    return pass_by


class Request:
    """A handler that waits until it is `open`; ended: what ended the wait."""

    def __init__(self, deadline_s=None, **given):
        self.open, self.ended = asyncio.Event(), []

        @answered(deadline_s, **given)
        async def request():
            try:
                await self.open.wait()
            except BaseException as exc:
                self.ended.append(type(exc))
                raise
            return "answer"

        self.task = asyncio.create_task(self._answer(request))

    @staticmethod
    async def _answer(request):
        try:
            return await request()
        except pyfuse3.FUSEError as exc:
            return exc.errno

    async def begun(self):
        await asyncio.sleep(0)
        return self


async def test_a_request_that_waits_for_some_seconds_after_its_interrupt_is_ended(passed, caplog):
    """Promise: EINTR: a signal came, and for the 5 seconds after it S3 did not answer."""
    assert INTERRUPTED_AFTER_S == 5
    caplog.set_level("INFO", logger="csi_s3")
    before = metrics.FUSE_OPERATIONS.labels("request", "EINTR").count
    request = await Request().begun()
    assert interrupt(request.task)
    await passed(INTERRUPTED_AFTER_S - 0.1)
    assert not request.task.done()
    await passed(0.2)
    assert request.task.result() == errno.EINTR
    assert request.ended == [asyncio.CancelledError]
    assert metrics.FUSE_OPERATIONS.labels("request", "EINTR").count == before + 1
    assert not caplog.records


async def test_a_request_that_ends_soon_after_its_interrupt_is_answered(passed):
    """Promise: A call that waits for S3 ends with EINTR 5 seconds after a signal, unless S3 answers
    before: then it ends as usual.
    """
    request = await Request().begun()
    interrupt(request.task)
    await passed(INTERRUPTED_AFTER_S - 0.1)
    request.open.set()
    await passed(0)
    assert request.task.result() == "answer"
    await passed(INTERRUPTED_AFTER_S)
    assert request.ended == []


async def test_further_interrupts_change_nothing(passed):
    request = await Request().begun()
    for _ in range(3):
        interrupt(request.task)
        await passed(INTERRUPTED_AFTER_S * 0.3)
    assert not request.task.done()
    await passed(INTERRUPTED_AFTER_S * 0.2)
    assert request.task.result() == errno.EINTR


async def test_an_interrupt_of_a_task_that_has_ended_or_is_between_two_requests_is_harmless(passed):
    first, next_one = asyncio.Event(), asyncio.Event()

    @answered(None)
    async def request(event):
        await event.wait()
        return "answer"

    async def serving():
        answers = [await request(first)]
        await next_one.wait()
        return [*answers, await request(next_one)]

    task = asyncio.create_task(serving())
    assert not interrupt(task)  # it has not begun
    first.set()
    await passed(0)
    assert not interrupt(task)  # its first request is answered, the next has not come
    await passed(INTERRUPTED_AFTER_S + 0.1)
    next_one.set()
    assert await task == ["answer", "answer"]
    assert not interrupt(task)
    assert not interrupts._under_way


async def test_other_requests_go_on(passed):
    interrupted, other = await Request().begun(), await Request().begun()
    interrupt(interrupted.task)
    await passed(INTERRUPTED_AFTER_S + 0.1)
    assert interrupted.task.done()
    other.open.set()
    assert await other.task == "answer"


@pytest.mark.warnings_expected("no answer in 3 s")
async def test_a_deadline_that_is_earlier_stays(passed):
    request = await Request(3).begun()
    interrupt(request.task)
    await passed(3.1)
    assert request.task.result() == errno.ETIMEDOUT


@pytest.mark.warnings_expected("no answer in the time that was left to the mount")
async def test_the_end_of_the_session_comes_before_an_interrupt(passed):
    request = await Request(100).begun()
    interrupt(request.task)
    give_up()
    await passed(0)
    assert request.task.result() == errno.ETIMEDOUT


async def test_an_interrupted_request_that_is_shut_down_itself_is_cancelled(passed):
    request = await Request().begun()
    interrupt(request.task)
    request.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request.task


async def test_an_interrupted_request_under_which_a_task_was_cancelled_is_an_error(passed):
    shared = asyncio.create_task(asyncio.Event().wait())

    @answered(None)
    async def request():
        await asyncio.shield(shared)

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    interrupt(task)
    shared.cancel()
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await task
    assert caught.value.errno == errno.EIO


@pytest.mark.warnings_expected("request: replaced")
async def test_an_error_that_a_handler_raises_when_it_is_ended_is_the_answer(passed):
    @answered(None)
    async def request():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise StaleError("replaced") from None

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    interrupt(task)
    await passed(INTERRUPTED_AFTER_S + 0.1)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await task
    assert caught.value.errno == errno.ESTALE


async def test_a_result_that_comes_when_it_is_ended_is_the_answer(passed):
    """A write of which a part was accepted returns how much that is."""

    @answered(None)
    async def request():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 7

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    interrupt(task)
    await passed(INTERRUPTED_AFTER_S + 0.1)
    assert task.result() == 7
    assert task.cancelling() == 0


async def test_a_release_is_not_interrupted_because_no_program_waits(passed):
    request = await Request(has_caller=False).begun()
    interrupt(request.task)
    await passed(INTERRUPTED_AFTER_S + 0.1)
    assert not request.task.done()
    request.open.set()
    assert await request.task == "answer"


async def test_a_request_whose_upload_moves_is_let_finish(passed):
    """Promise: A store or a rename that takes longer is let finish as long as parts of it reach S3
    or are copied there; nothing may move for 5 seconds before it ends with EINTR.
    """
    clock = Clock(monotonic_s=asyncio.get_running_loop().time)
    progress = FileProgress(clock)
    async with asyncio.TaskGroup() as group:
        timeout = ProgressTimeout(group, clock, held=lambda _: None)
        is_stored = asyncio.Event()

        @answered(None)
        async def flush():
            await timeout.wait(is_stored.wait, "upload", progress=lambda: progress)

        async def flushing():
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await flush()
            return caught.value.errno

        task = group.create_task(flushing())
        await passed(0)
        interrupt(task)
        for _ in range(5):
            await passed(INTERRUPTED_AFTER_S - 1)
            progress.made()
        assert not task.done()
        await passed(INTERRUPTED_AFTER_S - 0.1)
        assert not task.done()
        await passed(1)
        assert task.result() == errno.EINTR
        is_stored.set()


class Closing:
    """FLUSHes of processes, one after the other, each interrupted at once, with a file of its own.

    progress: of another file.
    """

    def __init__(self, group, passed):
        self._passed, self._group = passed, group
        self._clock = Clock(monotonic_s=asyncio.get_running_loop().time)
        self.progress = FileProgress(self._clock)
        self.is_stored = asyncio.Event()
        self._timeout = ProgressTimeout(group, self._clock, held=lambda _: None)

    async def flush(self, closer):
        """Its task, which has run for a moment since the interrupt."""
        progress = FileProgress(self._clock)

        @answered(None)
        async def flush():
            await self._timeout.wait(self.is_stored.wait, "upload", progress=lambda: progress)

        async def flushing():
            try:
                await flush()
            except pyfuse3.FUSEError as exc:
                return exc.errno
            return 0

        task = self._group.create_task(flushing())
        await asyncio.sleep(0)
        assert interrupt(task, closer)
        await self._passed(0.01)
        return task


@pytest.fixture
async def closing(passed):
    async with asyncio.TaskGroup() as group:
        closing = Closing(group, passed)
        yield closing
        closing.is_stored.set()
    interrupts._closers = interrupts.Closers()


async def test_a_program_that_closes_many_files_waits_once(closing, passed):
    """Promise: After a close that ended with EINTR, the next closes of the same program end at
    their next signal, as long as no bytes reach S3.
    """
    first = await closing.flush(closer=5)
    await passed(INTERRUPTED_AFTER_S - 0.1)
    assert not first.done()
    await passed(0.2)
    assert first.result() == errno.EINTR
    for _ in range(3):
        assert (await closing.flush(closer=5)).result() == errno.EINTR


async def test_other_programs_and_later_closes_wait_their_own_time(closing, passed):
    await closing.flush(closer=5)
    await passed(INTERRUPTED_AFTER_S)
    other = await closing.flush(closer=6)
    assert not other.done()
    await passed(INTERRUPTED_AFTER_S + 0.1)
    later = await closing.flush(closer=5)
    assert not later.done()


async def test_bytes_that_reach_the_store_give_the_next_close_its_time_again(closing, passed):
    await closing.flush(closer=5)
    await passed(INTERRUPTED_AFTER_S)
    closing.progress.made()
    task = await closing.flush(closer=5)
    assert not task.done()
    closing.is_stored.set()
    await passed(0)
    assert task.result() == 0


async def test_programs_that_closed_are_forgotten(closing, passed):
    for closer in range(1, 20):
        await closing.flush(closer)
        await passed(INTERRUPTED_AFTER_S + 0.1)
    assert len(interrupts._closers) <= 2
