"""The HTTP endpoint of node and mounter: /metrics, /healthz and /readyz.

It runs on an event loop of its own in one thread, so that a program whose event loop is stuck is
answered for with 503. Probes decide over the life of a container, so no other client can keep them
from their answer:

- each connection has one request and a deadline, their number is limited, and beyond the limit the
  connection that has been silent longest is closed;
- /metrics has a few places of its own; who finds none gets 503 at once. A connection that does not
  read its answer holds such a place, and only such a place: other answers fit a socket's buffer;
- a page is made once at a time, for all who ask while it is made; that of /metrics also for those
  who ask within a second. So the program's own loop does not work more for more clients.

Why no HTTP library serves it: docs/decisions/0017-http-endpoint.md.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias, TypeVar

from csi_s3.errors import BadOptionError
from csi_s3.obs.metrics.exposition import CONTENT_TYPE

T = TypeVar("T")
Page: TypeAlias = tuple[HTTPStatus, str, str | bytes]  # status, content type, body
log = logging.getLogger(__name__)

_TEXT = "text/plain; charset=utf-8"
_HEAD_BYTES = 8 << 10  # of a request
# Connections that one turn of the loop may accept. A request arrives up to three turns after its
# connection, so that `EndpointLimits.connections` is to be more than three times as many.
_BACKLOG = 64
_TOO_MANY: Page = (HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, "too many ask at a time: try again\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLimits:
    """connections: at most so many at a time; scrapes: of them, those that wait for /metrics."""

    request_s: float = 5.0  # from the connection to the end of its request; and for the answer
    live_s: float = 5.0
    collect_s: float = 8.0  # Prometheus gives up after 10
    fresh_s: float = 1.0  # from a collection's begin: as long its text is answered again
    connections: int = 256
    scrapes: int = 4


@contextlib.contextmanager
def serving(
    address: tuple[str, int] | None,
    unready: Callable[[], str | None],
    collect: Callable[[], Coroutine[Any, Any, bytes]],
    limits: EndpointLimits = EndpointLimits(),
) -> Iterator[int]:
    """Serve at (host, port) while the context lasts; None serves nothing. Entered on the loop.

    unready, collect: run on the program's event loop. Why it is not ready, or None; the text of
    /metrics.
    The hosts "" and "::" are all addresses of both IP versions. Yields the port, for port 0.

    Raises:
        BadOptionError: the address cannot be listened on.

    """
    if address is None:
        yield 0
        return
    sock = _listen(*address)
    endpoint = _Endpoint(sock, asyncio.get_running_loop(), unready, collect, limits)
    stop: Future[None] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(endpoint.run(stop)), name="http-endpoint", daemon=True
    )
    thread.start()
    port = int(sock.getsockname()[1])
    log.info("metrics and health are served", extra={"host": address[0], "port": port})
    try:
        yield port
    finally:
        stop.set_result(None)
        thread.join()


def _listen(host: str, port: int) -> socket.socket:
    is_any = host in {"", "::"} and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_any or ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            ("" if is_any else host, port), family=family, dualstack_ipv6=is_any, backlog=_BACKLOG
        )
    except OSError as exc:
        raise BadOptionError(
            f"--http-address {host}:{port}: cannot listen there: {exc.strerror}",
            "free that port or give another one; does an older process still run?",
        ) from exc


class _Endpoint:
    """The server on the thread's loop; `loop` is the program's.

    Lifetime: `run`, until `stop` is done; connections that are open end with it.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        unready: Callable[[], str | None],
        collect: Callable[[], Coroutine[Any, Any, bytes]],
        limits: EndpointLimits,
    ) -> None:
        self._sock, self._loop, self._limits = sock, loop, limits
        self._unready, self._collect = unready, collect
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}  # oldest first
        self._asked: set[asyncio.Task[None]] = set()  # those with a request
        self._scrapes = 0
        self._tasks = asyncio.TaskGroup()
        self._pages = {
            path: _SharedPage(self._tasks, path, make, fresh_s=fresh_s)
            for path, make, fresh_s in (
                ("/metrics", self._metrics, limits.fresh_s),
                ("/healthz", self._healthz, 0.0),
                ("/readyz", self._readyz, 0.0),
            )
        }

    async def run(self, stop: Future[None]) -> None:
        async with self._tasks:
            server = await asyncio.start_server(
                self._accept, sock=self._sock, limit=_HEAD_BYTES, backlog=_BACKLOG
            )
            await asyncio.wrap_future(stop)
            server.close()
            for task in (*self._open, *(page.task for page in self._pages.values() if page.task)):
                task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self._limits.connections:
            oldest = next((task for task in self._open if task not in self._asked), None)
            if oldest is None:
                writer.transport.abort()
                return
            oldest.cancel()
            self._close(oldest)
        task = self._tasks.create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._close)

    def _close(self, connection: asyncio.Task[None]) -> None:
        """Close a connection; not by its task, which may be cancelled before it has begun."""
        self._asked.discard(connection)
        writer = self._open.pop(connection, None)
        if writer is not None and not writer.is_closing():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request. HTTP/1.0: the connection ends with the answer."""
        try:
            async with asyncio.timeout(self._limits.request_s):
                head = await reader.readuntil(b"\r\n\r\n")
            if (task := asyncio.current_task()) is not None:
                self._asked.add(task)  # from here on the probes' deadlines hold
            words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
            with self._place(words) as is_free:
                page = await self._answer(words) if is_free else _TOO_MANY
                await self._send(writer, page, has_body=words[0] != "HEAD")
            writer.close()
        except (OSError, EOFError, asyncio.LimitOverrunError) as exc:
            log.debug("a connection ended before its answer: %r", exc)

    @contextlib.contextmanager
    def _place(self, words: list[str]) -> Iterator[bool]:
        """Hold one of the places of /metrics; False: all are taken. Other pages need none."""
        needs_one = len(words) > 1 and _path(words) == "/metrics"
        if needs_one and self._scrapes >= self._limits.scrapes:
            yield False
            return
        self._scrapes += needs_one
        try:
            yield True
        finally:
            self._scrapes -= needs_one

    async def _send(self, writer: asyncio.StreamWriter, page: Page, *, has_body: bool) -> None:
        status, content_type, body = page
        body = body.encode() if isinstance(body, str) else body
        lines = (
            f"HTTP/1.0 {status.value} {status.phrase}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
        )
        writer.transport.set_write_buffer_limits(0)  # `drain` waits until all is sent
        writer.write("\r\n".join([*lines, "", ""]).encode())
        writer.write(body if has_body else b"")
        async with asyncio.timeout(self._limits.request_s):
            await writer.drain()

    async def _answer(self, words: list[str]) -> Page:
        if len(words) != 3 or words[0] not in {"GET", "HEAD"}:  # noqa: PLR2004 - a request line's
            return HTTPStatus.BAD_REQUEST, _TEXT, "expected GET or HEAD\n"
        page = self._pages.get(_path(words))
        if page is None:
            return HTTPStatus.NOT_FOUND, _TEXT, f"there are {', '.join(self._pages)}\n"
        return await page.get()

    async def _metrics(self) -> Page:
        text = await self._call(self._collect(), self._limits.collect_s)
        return HTTPStatus.OK, CONTENT_TYPE, text

    async def _healthz(self) -> Page:
        await self._call(asyncio.sleep(0), self._limits.live_s)  # the loop runs: it is alive
        return HTTPStatus.OK, _TEXT, "ok\n"

    async def _readyz(self) -> Page:
        reason = await self._call(_call_soon(self._unready), self._limits.live_s)
        status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
        return status, _TEXT, f"{reason or 'ok'}\n"

    async def _call(self, call: Coroutine[Any, Any, T], within_s: float) -> T:
        """Run on the program's loop; cancelled there when it is too late."""
        answer = asyncio.run_coroutine_threadsafe(call, self._loop)
        async with asyncio.timeout(within_s):
            return await asyncio.wrap_future(answer)


class _SharedPage:
    """One page, made by one task at a time for all who ask for it.

    Cancellation: one who waits and is cancelled does not end the task. A failure is also a page, so
    that it is logged once for all who get it.
    fresh_s: so long after the task's begin, those who ask get the same page.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        path: str,
        make: Callable[[], Awaitable[Page]],
        *,
        fresh_s: float = 0.0,
    ) -> None:
        self._tasks, self._path, self._make, self._fresh_s = tasks, path, make, fresh_s
        self.task: asyncio.Task[Page] | None = None
        self._began_s = 0.0

    async def get(self) -> Page:
        now_s = asyncio.get_running_loop().time()
        is_old = now_s - self._began_s >= self._fresh_s
        task = self.task
        if task is None or (task.done() and is_old):
            self._began_s = now_s
            self.task = task = self._tasks.create_task(self._made())
        await asyncio.wait({task})  # not `await task`: one who goes away would cancel it
        return task.result()

    async def _made(self) -> Page:
        try:
            return await self._make()
        except TimeoutError:
            reason = "the event loop does not answer in time"
        except Exception as exc:
            log.exception("%s could not be answered", self._path)
            reason = f"{type(exc).__name__}: see the log"
        return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{reason}\n"


def _path(words: list[str]) -> str:
    return words[1].partition("?")[0]


async def _call_soon(call: Callable[[], T]) -> T:
    return call()
