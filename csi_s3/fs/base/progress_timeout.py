"""A timeout for waits that depends on progress: it ends them when no byte of the mount has moved.

No fixed deadline fits an upload, which depends on the file's size.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from csi_s3.errors import StoreTimeoutError, VolumeError
from csi_s3.fs.base.clock import Clock
from csi_s3.fs.base.outcome import outcome

log = logging.getLogger(__name__)

T = TypeVar("T")

STALLED_AFTER_S = 300.0


class ProgressTimeout:
    """Lifetime: as its mount; `close` cancels the work.

    Concurrency: any number of waits, each with a start of its own. Cancellation: the work goes on
    as a task of the group.
    """

    def __init__(
        self, group: asyncio.TaskGroup, clock: Clock, *, stalled_after_s: float = STALLED_AFTER_S
    ) -> None:
        self.stalled_after_s = stalled_after_s
        self._group, self._clock = group, clock
        self._progress_at = clock.monotonic_s()
        self._tasks: set[asyncio.Task[Any]] = set()

    def made_progress(self) -> None:
        self._progress_at = self._clock.monotonic_s()

    async def wait(self, work: Callable[[], Awaitable[T]], what: str) -> T:
        """Wait for work, which goes on if the wait ends before it.

        Raises:
            StoreTimeoutError: nothing of any file reached the store for stalled_after_s.

        """
        task = self._group.create_task(outcome(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        began = self._clock.monotonic_s()
        while not task.done():
            since = max(began, self._progress_at)
            left_s = since + self.stalled_after_s - self._clock.monotonic_s()
            if left_s <= 0:
                task.add_done_callback(partial(_log_failure, what))
                raise StoreTimeoutError(
                    f"{what}: no progress in {self.stalled_after_s:.0f} s",
                    "check the connection to the store; the work goes on",
                )
            await asyncio.wait({task}, timeout=left_s)
        result = task.result()
        if isinstance(result, VolumeError):
            raise result
        return result

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


def _log_failure(what: str, task: "asyncio.Task[Any]") -> None:
    """Of work whose callers have given up."""
    result = None if task.cancelled() else task.result()
    if isinstance(result, VolumeError):
        log.error("%s failed in the end: %s", what, result, extra={"code": result.code})
