"""The requests under way, and what ends one before its handler has: an interrupt, or the end.

The kernel sends INTERRUPT for every signal that a waiting program gets, also for those that the
program handles (timers, profilers, SIGCHLD), and does not say which. An answer of EINTR breaks
programs that have such handlers, git for example. No answer keeps a killed process, and with it
its pod, for as long as the store is silent. So a request is let finish while the store answers, and
is ended INTERRUPTED_AFTER_S after its interrupt.

Rejected: ending it at once if the program has no handler, which only /proc tells, and no container
need share the node's process numbers.
"""

import asyncio
from typing import Any, Self, cast

INTERRUPTED_AFTER_S = 5.0

Task = asyncio.Task[Any]


class PendingRequest:
    """A request of the kernel that its handler has not answered: entered while the handler runs.

    Cancellation: a timeout ends it, which is a CancelledError for the handler, and differs from a
    cancellation of the task itself.

    is_interrupted: an interrupt ends it, or has ended it.
    """

    __slots__ = ("_can_be_interrupted", "_task", "_timeout", "is_interrupted")

    def __init__(self, timeout: asyncio.Timeout, *, can_be_interrupted: bool) -> None:
        """timeout: entered, of the handler, which runs in this task."""
        self._timeout, self._can_be_interrupted = timeout, can_be_interrupted
        self._task = cast("Task", asyncio.current_task())
        self.is_interrupted = False

    def __enter__(self) -> Self:
        _under_way[self._task] = self
        return self

    def __exit__(self, *_: object) -> None:
        del _under_way[self._task]

    @property
    def is_ended(self) -> bool:
        """Its time was over before the handler had answered."""
        return self._timeout.expired()

    def interrupt(self) -> None:
        """End it soon, if its deadline does not before. Only the first interrupt counts."""
        if not self._can_be_interrupted or self.is_interrupted or self.is_ended:
            return
        end = asyncio.get_running_loop().time() + INTERRUPTED_AFTER_S
        deadline = self._timeout.when()
        if deadline is None or end < deadline:
            self.is_interrupted = True
            self._timeout.reschedule(end)

    def end(self) -> None:
        """End it at once: there is no time left."""
        if not self.is_ended:
            self.is_interrupted = False
            self._timeout.reschedule(0)


_under_way: dict[Task, PendingRequest] = {}  # a process serves one mount


def interrupt(task: Task) -> bool:
    """The caller of the request that the task handles now has got a signal; plain code.

    Unless the handler has answered within INTERRUPTED_AFTER_S, it is cancelled, and the answer is
    EINTR. False: the task handles no request at this moment, and nothing happens: it has ended, or
    has not begun, in which case the interrupt is to be repeated.
    """
    request = _under_way.get(task)
    if request is not None:
        request.interrupt()
    return request is not None


def give_up() -> None:
    """Answer every request under way with ETIMEDOUT: the session is ending. Plain code."""
    for request in _under_way.values():
        request.end()
