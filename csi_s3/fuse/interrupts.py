"""The requests under way, and what ends one before its handler has: an interrupt, or the end.

The kernel sends INTERRUPT for every signal that a waiting program gets, also for those that the
program handles (timers, profilers, SIGCHLD), and does not say which. An answer of EINTR breaks
programs that have such handlers, git for example. No answer keeps a killed process, and with it
its pod, for as long as the store is silent. So a request is let finish while the store answers, and
is ended when for INTERRUPTED_AFTER_S after its interrupt it has not been answered, nor has anything
moved of the upload or the rename that it waits for.

A process that ends closes its descriptors one after the other, and the kernel reports the signal
for each FLUSH. So the seconds are counted once for all of them: a FLUSH that follows one of the
same process that was ended ends at its interrupt, unless bytes of some file have reached the store
since. Its `lock_owner` tells the process, also in containers, where pid is 0.

Rejected: ending it at once if the program has no handler, which only /proc tells, and no container
need share the node's process numbers.
"""

import asyncio
from types import TracebackType
from typing import Any, Self, cast

from csi_s3.fs.base.progress_timeout import any_moved_ago_s, moved_ago_s

INTERRUPTED_AFTER_S = 5.0

Task = asyncio.Task[Any]


class PendingRequest:
    """A request of the kernel that its handler has not answered: entered while the handler runs.

    Not asyncio.timeout, which takes 3 µs more (measured): each request has one.

    Cancellation: its end is a CancelledError for the handler and a TimeoutError for the caller, and
    differs from a cancellation of the task itself.

    is_ended: its time was over before the handler had answered. is_interrupted: by an interrupt.
    has_expired: by its deadline.

    Raises:
        TimeoutError: it is ended.

    """

    __slots__ = (
        "_can_be_interrupted",
        "_cancelled",
        "_closer",
        "_deadline",
        "_deadline_s",
        "_task",
        "_timer",
        "has_expired",
        "is_ended",
        "is_interrupted",
    )

    def __init__(self, deadline_s: float | None, *, can_be_interrupted: bool) -> None:
        """To be entered in the task in which the handler runs."""
        self._deadline_s, self._can_be_interrupted = deadline_s, can_be_interrupted
        self._deadline: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closer = 0
        self.is_ended = self.is_interrupted = self.has_expired = False

    def __enter__(self) -> Self:
        self._task = task = cast("Task", asyncio.current_task())
        self._cancelled = task.cancelling()
        if self._deadline_s is not None:
            later = asyncio.get_running_loop().call_later
            self._deadline = later(self._deadline_s, self._expire)
        _under_way[task] = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        del _under_way[self._task]
        if self._deadline is not None:
            self._deadline.cancel()
        if self._timer is not None:
            self._timer.cancel()
        is_of_this = self.is_ended and self._task.uncancel() <= self._cancelled
        if is_of_this and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def interrupt(self, closer: int = 0) -> None:
        """End it soon, if its deadline does not before. Only the first interrupt counts.

        closer: as of `interrupt`.
        """
        if self._can_be_interrupted and self._timer is None:
            self._closer = closer
            self._check_in(0 if _closers.has_waited(closer) else INTERRUPTED_AFTER_S)

    def _check_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check)

    def _check(self) -> None:
        moved_s = moved_ago_s(self._task)
        if moved_s < INTERRUPTED_AFTER_S and not _closers.has_waited(self._closer):
            self._check_in(INTERRUPTED_AFTER_S - moved_s)
        elif not self.is_ended:
            self.is_interrupted = True
            _closers.add(self._closer)
            self.end()

    def _expire(self) -> None:
        self.has_expired = not self.is_ended
        self.end()

    def end(self) -> None:
        """End it at once: there is no time left."""
        if not self.is_ended:
            self.is_ended = True
            self._task.cancel()


class Closers:
    """Processes of which a FLUSH was ended, for as many seconds as that waits; by `lock_owner`."""

    def __init__(self) -> None:
        self._ended_s: dict[int, float] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._ended_s)

    def add(self, closer: int) -> None:
        """A FLUSH of it was ended because of an interrupt; 0: of none."""
        now_s = asyncio.get_running_loop().time()
        if closer:
            self._ended_s.pop(closer, None)
            self._ended_s[closer] = now_s
        while self._ended_s:
            oldest = next(iter(self._ended_s))
            if now_s - self._ended_s[oldest] <= INTERRUPTED_AFTER_S:
                return
            del self._ended_s[oldest]

    def has_waited(self, closer: int) -> bool:
        """One of its FLUSHes was ended, and nothing has reached the store since."""
        ended_s = self._ended_s.get(closer)
        if ended_s is None:
            return False
        ago_s = asyncio.get_running_loop().time() - ended_s
        return ago_s <= INTERRUPTED_AFTER_S and any_moved_ago_s() > ago_s


# A process serves one mount.
_under_way: dict[Task, PendingRequest] = {}
_closers = Closers()


def interrupt(task: Task, closer: int = 0) -> bool:
    """The caller of the request that the task handles now has got a signal; plain code.

    Unless the handler has answered within INTERRUPTED_AFTER_S, or there is progress, it is
    cancelled, and the answer is EINTR. False: the task handles no request at this moment, and
    nothing happens: it has ended, or has not begun, and the interrupt is to be repeated.
    closer: the `lock_owner` of a FLUSH.
    """
    request = _under_way.get(task)
    if request is not None:
        request.interrupt(closer)
    return request is not None


def give_up() -> None:
    """Answer every request under way with ETIMEDOUT: the session is ending. Plain code."""
    for request in _under_way.values():
        request.end()
