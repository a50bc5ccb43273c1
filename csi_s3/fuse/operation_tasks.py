"""A task for each operation that the request loop answers, and the reply with its result."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeAlias

from pyfuse3 import FUSEError

from csi_s3.fuse.relay import MAX_TASKS, RequestTasks
from csi_s3.fuse.reply_messages import build_error
from csi_s3.fuse.request_loop import RequestLoop
from csi_s3.fuse.requests import KernelRequest

# Of the request's number and what the operation returned: the reply. None: there is none to build.
ReplyBuilder: TypeAlias = Callable[[int, Any], bytes] | None


class _WaitingOperation(NamedTuple):
    request: KernelRequest
    operation: Coroutine[Any, Any, Any]
    build: ReplyBuilder


class OperationTasks:
    """Lifetime: as the session. Concurrency: plain code, in the event loop, but for its tasks.

    A request has a task also where it waits for nothing: that costs 2 to 3 µs, and what ends a
    request early (`interrupts`) needs one.
    """

    def __init__(self, loop: RequestLoop, tasks: RequestTasks, *, most: int = MAX_TASKS) -> None:
        """most: of these tasks, at the same time."""
        self._loop, self._tasks, self._most = loop, tasks, most
        self._in_turn = 0
        self._waiting: deque[_WaitingOperation] = deque()

    def start(
        self,
        request: KernelRequest,
        operation: Coroutine[Any, Any, Any],
        build: ReplyBuilder = lambda unique, _: build_error(unique, 0),
    ) -> None:
        """Answer with the operation's result; without build, that it has succeeded.

        Beyond the bound, operations begin in the order of these calls.
        """
        self._loop.in_flight.add(request)
        if self._in_turn >= self._most:
            self._waiting.append(_WaitingOperation(request, operation, build))
        else:
            self._begin(request, operation, build)

    def _begin(
        self, request: KernelRequest, operation: Coroutine[Any, Any, Any], build: ReplyBuilder
    ) -> None:
        request.task = self._tasks.start(self._run(request, operation, build), request.name)
        self._in_turn += 1
        request.task.add_done_callback(self._begin_next)

    def _begin_next(self, _ended: "asyncio.Task[None]") -> None:
        self._in_turn -= 1
        if self._waiting:
            self._begin(*self._waiting.popleft())

    def start_at_once(
        self, request: KernelRequest, operation: Coroutine[Any, Any, Any], build: ReplyBuilder
    ) -> None:
        """As `start`, of what is bounded by other means."""
        self._loop.in_flight.add(request)
        request.task = self._tasks.start(self._run(request, operation, build), request.name)

    async def _run(
        self, request: KernelRequest, operation: Coroutine[Any, Any, Any], build: ReplyBuilder
    ) -> None:
        """Answer also where the operation fails."""
        try:
            result = await operation
            if build is not None:
                self._loop.reply(request, [build(request.unique, result)])
        except FUSEError as exc:
            self._loop.reply_error(request, exc.errno)
        except Exception as exc:  # noqa: BLE001 - its caller would wait for ever
            self._loop.fail(request, exc)

    def close(self) -> None:
        """Begin none of those that wait: the session ends, and their callers with it."""
        while self._waiting:
            self._waiting.popleft().operation.close()
