"""pyfuse3 and libfuse at the far end of a socketpair: one request in, its reply out.

pyfuse3 starts a task whenever none waits for a request. Each task takes the next request of a queue
here, and passes it to libfuse in the same step in which libfuse reads it; so it is known which task
has which request, and the event loop does not have to watch the socketpair. The reply is taken when
the task comes back or ends, in the step in which it was written.

These are pyfuse3's hooks: `Lock`, `wait_readable` and `open_nursery` of pyfuse3.asyncio, through
which it waits, and which it looks up at each call.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from errno import EIO
from types import TracebackType
from typing import Any, Self

import pyfuse3
import pyfuse3.asyncio
from typing_extensions import override

from csi_s3.fuse.protocol import parse_reply_header
from csi_s3.fuse.reply_messages import build_error
from csi_s3.fuse.requests import KernelRequest

log = logging.getLogger(__name__)

MAX_TASKS = 4096  # of requests that wait at the same time; further ones are queued here
LARGEST_MESSAGE_BYTES = 16 << 10  # RENAME has two names of at most 4,095 bytes
_HOOKS = ("Lock", "wait_readable", "open_nursery")


class RequestTasks(pyfuse3.asyncio._Nursery):  # noqa: SLF001 - its hook
    """The group of all tasks that answer requests, pyfuse3's among them.

    A task that has ended is dropped at once: pyfuse3's own keeps those that began later until it
    has ended as well.
    """

    tasks: "set[asyncio.Task[Any]]"

    def __init__(self, ended: Callable[[], None]) -> None:
        """ended: is called in a task of pyfuse3 that ends, before it does."""
        self.tasks = set()
        self._ended = ended

    @override
    async def __aenter__(self) -> Self:
        return self

    @override
    def start_soon(
        self, func: Callable[..., Coroutine[Any, Any, None]], *args: object, name: str | None = None
    ) -> None:
        async def serving() -> None:
            try:
                await func(*args)
            finally:
                self._ended()

        task = self.start(serving(), name or "pyfuse3")
        setattr(task, "name", name)  # noqa: B010 - pyfuse3 reads it

    def start(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)  # noqa: TID251 - this is the group
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class Relay:
    """Lifetime: from `open` to `close`; pyfuse3 runs between them.

    Concurrency: plain code, in the event loop.

    answer: is called with each request and its reply, which must not be kept.
    """

    def __init__(self, answer: Callable[[KernelRequest, bytearray], None]) -> None:
        self.tasks = RequestTasks(self._collect)
        self._answer = answer
        self._queued: deque[tuple[KernelRequest, bytes]] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next: tuple[KernelRequest, bytes] | None = None
        self._served: dict[asyncio.Task[Any], KernelRequest] = {}
        self._reply = bytearray(LARGEST_MESSAGE_BYTES)
        self._is_ended = False
        self._originals = {name: getattr(pyfuse3.asyncio, name) for name in _HOOKS}
        self._socket: socket.socket | None = None

    def open(self) -> int:
        """Have pyfuse3 use this relay. Returns the descriptor for libfuse, which closes it."""
        self._socket, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, far_end):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_MESSAGE_BYTES)
        self._socket.setblocking(False)
        pyfuse3.asyncio.enable()
        hooks = (lambda: _TaskTurn(self), self._wait_readable, lambda: self.tasks)
        for name, hook in zip(_HOOKS, hooks, strict=True):
            setattr(pyfuse3.asyncio, name, hook)
        return far_end.detach()

    def close(self) -> None:
        for name, original in self._originals.items():
            setattr(pyfuse3.asyncio, name, original)
        if self._socket is not None:
            self._socket.close()

    def add(self, request: KernelRequest, message: bytes) -> None:
        """Pass a request on as soon as a task is free, in the order of these calls."""
        self._queued.append((request, message))
        self._wake()

    def end(self) -> None:
        """Let tasks end that have no request; `pyfuse3.terminate` was called."""
        self._is_ended = True
        while self._waiting:
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    # called by tasks of pyfuse3

    async def wait(self) -> None:
        """Wait for a request, and take it."""
        self._collect()
        while not (self._queued or self._is_ended):
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        self._next = None if self._is_ended else self._queued.popleft()

    async def _wait_readable(self, _fd: int) -> None:
        """Pass on what `wait` has taken in this step; libfuse reads it at once."""
        task = asyncio.current_task()
        if self._next is None or task is None or self._socket is None:
            raise pyfuse3.asyncio.ClosedResourceError
        (request, message), self._next = self._next, None
        request.task = self._task_of(request, task)
        self._socket.send(message)

    def _task_of(self, request: KernelRequest, task: "asyncio.Task[Any]") -> "asyncio.Task[Any]":
        task.set_name(request.name)
        self._served[task] = request
        return task

    def _collect(self) -> None:
        """Take the reply to the request that this task has processed, if it had one."""
        task = asyncio.current_task()
        request = None if task is None else self._served.pop(task, None)
        if request is None or self._socket is None:
            return
        request.task = None
        with suppress(BlockingIOError):
            n = self._socket.recv_into(self._reply)
            reply = self._reply[:n]
            _, _, unique = parse_reply_header(reply)
            if unique == request.unique:
                self._answer(request, reply)
                return
            log.error("the reply to %s came with %s", unique, request.name)
        self._answer(request, bytearray(build_error(request.unique, EIO)))


class _TaskTurn:
    """What pyfuse3 takes to be a lock, so that one task after the other waits for a request."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def __aenter__(self) -> None:
        await self._relay.wait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass
