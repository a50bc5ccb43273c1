"""The HTTP endpoint of node and mounter: /metrics, /healthz and /readyz.

It runs in a thread of its own, so that a stuck event loop is an answer (503) and not a silence. One
thread for each connection, one request for each connection, a deadline for both. As probes decide
over the life of a container, whoever reaches the port must not be able to occupy it: with all
threads taken the connection that has been silent longest is cut off.
Rejected: prometheus_client's WSGI server (no deadline, threads without number), and serving from
the event loop (it could not tell of its own end).
"""

import asyncio
import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, ClassVar, TypeAlias, TypeVar

from typing_extensions import override

from csi_s3.errors import BadOptionError
from csi_s3.obs.metrics.exposition import CONTENT_TYPE

T = TypeVar("T")
Page: TypeAlias = tuple[int, str, bytes]  # status, content type, body
log = logging.getLogger(__name__)

ALIVE_WITHIN_S = 5.0
COLLECTED_WITHIN_S = 8.0  # Prometheus gives up after 10
REQUEST_WITHIN_S = 5.0  # from the connection to the end of its request
CONNECTIONS = 16
_POLL_S = 0.1
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What is asked of the program. All run on its event loop.

    live: returns if all is well. ready: why it is not, or None. collect: the text of /metrics.
    """

    live: Callable[[], Awaitable[None]]
    ready: Callable[[], str | None]
    collect: Callable[[], Awaitable[bytes]]


@contextlib.contextmanager
def serving(
    address: str,
    *,
    live: Callable[[], Awaitable[None]],
    ready: Callable[[], str | None],
    collect: Callable[[], Awaitable[bytes]],
) -> Iterator[int]:
    """Serve at HOST:PORT while the context lasts; "" serves nothing. To be entered on the loop.

    An empty host, and [::], are all addresses of both IP versions. Yields the port, for port 0.

    Raises:
        BadOptionError: nobody can listen there.

    """
    if not address:
        yield 0
        return
    program = Probes(live=live, ready=ready, collect=collect)
    server = _listening(address, _ProbeCalls(asyncio.get_running_loop(), program))
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True)
    thread.start()
    log.info("metrics and health are served", extra={"address": address})
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.end()


def _listening(address: str, ask: "_ProbeCalls") -> "_Server":
    found = re.fullmatch(r"(?:\[(.*)\]|([^:]*)):([0-9]+)", address)
    if found is None:
        raise BadOptionError(
            f"--http-address {address!r} is not an address", "expected HOST:PORT or [HOST]:PORT"
        )
    host, port = found[1] or found[2] or "", int(found[3])
    try:
        if host in {"", "::"} and socket.has_dualstack_ipv6():
            return _Server(("::", port), ask, family=socket.AF_INET6)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return _Server((host, port), ask, family=family)
    except (OSError, OverflowError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise BadOptionError(
            f"--http-address {address}: cannot listen there: {why}",
            "free that port or give another one; does an older process still run?",
        ) from exc


class _ProbeCalls:
    """The program's answers, for threads.

    Concurrency: any thread may ask. `end` makes every answer an end, now and later.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, program: Probes) -> None:
        self._loop, self._program = loop, program
        self._pages: dict[str, Callable[[], Page]] = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }
        self._waiting: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._is_over = False

    def answer(self, path: str) -> Page:
        page = self._pages.get(path)
        if page is None:
            return 404, _TEXT, f"there are {', '.join(self._pages)}\n".encode()
        try:
            return page()
        except TimeoutError:
            reason = "the event loop does not answer in time"
        except CancelledError:
            reason = "the program is ending"
        except Exception as exc:
            log.exception("%s could not be answered", path)
            reason = f"{type(exc).__name__}: see the log"
        return 503, _TEXT, f"{reason}\n".encode()

    def _metrics(self) -> Page:
        text = self._wait(_now(self._program.collect), COLLECTED_WITHIN_S)
        return 200, CONTENT_TYPE, text

    def _healthz(self) -> Page:
        self._wait(_now(self._program.live), ALIVE_WITHIN_S)
        return 200, _TEXT, b"ok\n"

    def _readyz(self) -> Page:
        reason = self._wait(_called(self._program.ready), ALIVE_WITHIN_S)
        return (503, _TEXT, f"{reason}\n".encode()) if reason else (200, _TEXT, b"ok\n")

    def end(self) -> None:
        with self._lock:
            self._is_over = True
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    def _wait(self, answering: Coroutine[Any, Any, T], within_s: float) -> T:
        with self._lock:
            if self._is_over:
                answering.close()
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(answering, self._loop)
            self._waiting.add(future)
        try:
            return future.result(within_s)
        except TimeoutError:
            future.cancel()
            raise
        finally:
            self._waiting.discard(future)


async def _now(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


async def _called(call: Callable[[], T]) -> T:
    return call()


class _Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0: the connection ends with the answer."""

    server: "_Server"
    timeout: ClassVar[float] = REQUEST_WITHIN_S

    def do_GET(self) -> None:
        self.server.was_asked(self.request)
        status, content_type, body = self.server.ask.answer(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    @override
    def version_string(self) -> str:
        return "csi-s3"

    @override
    def log_message(self, format: str, *args: object) -> None:
        """A probe every few seconds is no news."""


class _Server(ThreadingMixIn, HTTPServer):
    """Lifetime: listens from construction to `end`. Open connections end with it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], ask: _ProbeCalls, *, family: socket.AddressFamily
    ) -> None:
        self.ask = ask
        self.address_family = family
        self._lock = threading.Lock()
        self._silent_since_s: dict[socket.socket, float] = {}  # in the order in which they came
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    @override
    def server_bind(self) -> None:
        if self.address_family is socket.AF_INET6:
            only = int(self.server_address[0] != "::")
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        super(HTTPServer, self).server_bind()  # HTTPServer's looks its own name up in the DNS

    def was_asked(self, connection: socket.socket) -> None:
        """From here on the program's deadlines hold."""
        with self._lock:
            self._silent_since_s.pop(connection, None)

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = len(self._open) >= CONNECTIONS
            oldest = next(iter(self._silent_since_s), None) if full else None
            if oldest is not None:
                del self._silent_since_s[oldest]
                _cut(oldest)  # its thread then ends
            elif full:
                super().shutdown_request(request)
                return
            self._open.add(request)
            self._silent_since_s[request] = time.monotonic()
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
            self._silent_since_s.pop(request, None)
        super().shutdown_request(request)

    @override
    def service_actions(self) -> None:
        latest_s = time.monotonic() - REQUEST_WITHIN_S
        with self._lock:
            late = [c for c, since_s in self._silent_since_s.items() if since_s < latest_s]
            for connection in late:
                del self._silent_since_s[connection]
                _cut(connection)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection ended before its answer: %r", client_address)

    def end(self) -> None:
        self.ask.end()
        self.server_close()
        with self._lock:
            for connection in self._open:
                _cut(connection)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)
