"""A timeout for waits that depends on progress: it ends them when none was made for a time.

No fixed deadline fits an upload, which depends on the file's size. So each wait has a start of its
own, and counts from what has moved since of that which it waits for: the bytes of its own file
(`FileProgress`), or a rename's, for which any request may have to wait. Other files' uploads, and
others that wait, prolong nothing.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ClassVar, TypeVar, cast

from csi_s3.errors import StaleError, StoreTimeoutError, VolumeError
from csi_s3.fs.base.clock import Clock
from csi_s3.fs.base.outcome import outcome

log = logging.getLogger(__name__)

T = TypeVar("T")

STALLED_AFTER_S = 300.0
WAIT_BYTES = 11_500  # measured with tracemalloc, 1,000 and 10,000 writes that wait for memory
MEMORY_SHARE = 0.8  # of it: a wait for memory fails before the request that needs it


# By the task that waits. A process serves one mount.
_waits: "dict[asyncio.Task[Any], _Wait]" = {}


def moved_ago_s(task: "asyncio.Task[Any]") -> float:
    """When something moved last of that for which the task waits in `ProgressTimeout.wait`.

    Infinity: it waits for nothing of which that is known.
    """
    wait = _waits.get(task)
    return math.inf if wait is None else wait.moved_ago_s()


class FileProgress:
    """When bytes of one file moved last. Lifetime: as the file is being changed."""

    __slots__ = ("_clock", "at_s")
    latest: "ClassVar[FileProgress | None]" = None  # that was made; a process serves one mount

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.at_s = clock.monotonic_s()

    def made(self) -> None:
        self.at_s = self._clock.monotonic_s()
        FileProgress.latest = self

    @property
    def ago_s(self) -> float:
        return self._clock.monotonic_s() - self.at_s


def any_moved_ago_s() -> float:
    """When bytes of any file moved last; infinity: never."""
    latest = FileProgress.latest
    return math.inf if latest is None else latest.ago_s


class _Wait:
    """One call's, for the end of its work or a time, whichever comes first.

    Not asyncio.wait, which takes three times as long: 10 µs where a task takes 4 (measured).

    held_bytes: of the request.
    """

    __slots__ = ("_began_s", "_clock", "_progress", "_woken", "held_bytes")

    def __init__(
        self, clock: Clock, progress: Callable[[], FileProgress | None] | None, held_bytes: int
    ) -> None:
        self._clock, self._progress, self.held_bytes = clock, progress, held_bytes
        self._began_s = clock.monotonic_s()
        self._woken: asyncio.Future[None] | None = None

    async def run(self, work: Callable[[], Awaitable[T]]) -> T | VolumeError:
        """The outcome of the work, in its task; wakes the call in the turn in which it ends."""
        try:
            return await outcome(work)
        finally:
            self.wake()

    async def end(self, within_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        timer = loop.call_later(within_s, self.wake)
        try:
            await self._woken
        finally:
            timer.cancel()
            self._woken = None

    def wake(self) -> None:
        """Nothing happens where no call waits."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def moved_ago_s(self) -> float:
        """As the function; only what it waits for counts."""
        own = None if self._progress is None else self._progress()
        return math.inf if own is None else own.ago_s

    def stood_s(self, moved: FileProgress) -> float:
        """For how long nothing has moved, neither its own nor this."""
        now_s = self._clock.monotonic_s()
        return min(now_s - max(self._began_s, moved.at_s), self.moved_ago_s())


class ProgressTimeout:
    """Lifetime: as its mount; `close` cancels the work.

    Concurrency: any number of waits, each with a start of its own. Cancellation: the work goes on
    as a task of the group; `settled` waits for it, and its failure is in the log.

    held: is called with the bytes that a wait's request holds, and with as many below 0 once its
    work has ended, which may be after the wait.
    """

    def __init__(
        self,
        group: asyncio.TaskGroup,
        clock: Clock,
        *,
        held: Callable[[int], None],
        stalled_after_s: float = STALLED_AFTER_S,
    ) -> None:
        self.stalled_after_s = stalled_after_s
        self._group, self._clock, self._held = group, clock, held
        self.rename = FileProgress(clock)  # also of the removal of an open file
        self._tasks: dict[asyncio.Task[Any], _Wait] = {}
        self._left: set[asyncio.Task[Any]] = set()  # of them, those that no caller waits for
        self._is_closed = False

    @property
    def memory_within_s(self) -> float:
        """How long a writer waits for memory while no one is served."""
        return self.stalled_after_s * MEMORY_SHARE

    def made_progress(self) -> None:
        """A rename, or the removal of an open file, has moved some bytes."""
        self.rename.made()

    async def wait(
        self,
        work: Callable[[], Awaitable[T]],
        what: str,
        *,
        progress: Callable[[], FileProgress | None] | None = None,
        held_bytes: int = 0,
        leave: Callable[["asyncio.Task[Any]"], None] | None = None,
    ) -> T:
        """Wait for work, which goes on if the wait ends before it, unless `leave` stops it.

        progress: of the file that it is about. held_bytes: of the request, besides WAIT_BYTES.
        leave: is called with the work's task if the wait ends before it.

        Raises:
            StoreTimeoutError: nothing moved for stalled_after_s.
            StaleError: the mount has ended; no work was begun.

        """
        if self._is_closed:
            raise StaleError(f"{what}: the mount has ended")
        wait = _Wait(self._clock, progress, held_bytes + WAIT_BYTES)
        task = self._group.create_task(wait.run(work))
        self._tasks[task] = wait
        self._held(wait.held_bytes)
        task.add_done_callback(self._ended)
        caller = cast("asyncio.Task[Any]", asyncio.current_task())
        _waits[caller] = wait
        left_s = self.stalled_after_s
        try:
            while not task.done():
                if left_s <= 0:
                    raise self._stalled(task, what, leave)
                await wait.end(left_s)
                left_s = self.stalled_after_s - wait.stood_s(self.rename)
        except asyncio.CancelledError:
            self._leave(task, what, logging.INFO, leave)
            raise
        finally:
            del _waits[caller]
        result = task.result()
        if isinstance(result, VolumeError):
            raise result
        return result

    def _stalled(
        self,
        task: "asyncio.Task[Any]",
        what: str,
        leave: Callable[["asyncio.Task[Any]"], None] | None,
    ) -> StoreTimeoutError:
        self._leave(task, what, logging.ERROR, leave)
        goes_on = "" if task.cancelling() else "; the work goes on"
        return StoreTimeoutError(
            f"{what}: no progress in {self.stalled_after_s:.0f} s",
            f"check the connection to the store{goes_on}",
        )

    def _leave(
        self,
        task: "asyncio.Task[Any]",
        what: str,
        level: int,
        leave: Callable[["asyncio.Task[Any]"], None] | None,
    ) -> None:
        """The wait ends before the work. level: of its failure in the log, at least."""
        if leave is not None:
            leave(task)
        if not task.done():
            self._left.add(task)
        task.add_done_callback(partial(_log_failure, what, level))

    async def settled(self) -> None:
        """Wait for the work whose callers have given up until now; for the mount's end."""
        if self._left:
            await asyncio.wait(set(self._left))

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        wait = self._tasks.pop(task)
        wait.wake()  # where the task was cancelled before it began
        self._left.discard(task)
        self._held(-wait.held_bytes)

    def close(self) -> None:
        """Cancel what is under way; plain code. Nothing is begun from now on."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()


def _log_failure(what: str, level: int, task: "asyncio.Task[Any]") -> None:
    """Of work whose callers have given up."""
    result = None if task.cancelled() else task.result()
    if isinstance(result, VolumeError):
        level = max(level, result.level)
        log.log(level, "%s failed in the end: %s", what, result, extra={"code": result.code})
