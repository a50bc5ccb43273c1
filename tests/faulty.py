"""A proxy before an S3 server that is unreachable or answers wrongly, as gateways and networks do.

An HTTP proxy on loopback with a fixed address. The first of `faults` that matches a request is
applied to it; a request without a match is passed on. So a test decides what fails, when and how
often.
"""

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import override

HOP = {"connection", "transfer-encoding", "content-length", "expect"}
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by RST
SERVER_S = 120


class Act(Enum):
    ANSWER = auto()  # with status and body, without the server
    BREAK = auto()  # reset the connection when the request is read; nothing arrives
    LOSE = auto()  # pass on, and reset in place of the answer
    REPLACE = auto()  # pass on, and answer with status and body
    CUT = auto()  # end the connection within the answer's body
    SHORTEN = auto()  # send a part of the body as if it were whole
    DAMAGE = auto()  # change a byte of the request's body
    HANG = auto()  # pass on when the test lets it go
    SLOW = auto()  # pass on, one request after the other, each after delay_s


@dataclass
class Fault:
    """What happens to requests whose method and path, with the query, match; times -1: always."""

    act: Act
    method: str = ""
    path: str = ""
    times: int = 1
    status: int = 503
    body: bytes = b""
    delay_s: float = 0.0

    def fits(self, method: str, path: str) -> bool:
        is_meant = self.method in ("", method) and re.search(self.path, path) is not None
        return is_meant and self.times != 0


class Faulty(ThreadingHTTPServer):
    """faults: the test's; the first match is applied. asked: method and path of each request.
    let_go: ends every HANG.

    Concurrency: a thread for each connection; the test may change everything at any time.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        behind = urlsplit(endpoint)
        self.behind = (behind.hostname, behind.port)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, str]] = []
        self.is_open = True
        self.let_go = threading.Event()
        self.sockets: set[socket.socket] = set()
        self.lock, self.slow = threading.Lock(), threading.Lock()

    def shut(self) -> None:
        """Refuse every connection, and drop what is under way."""
        with self.lock:
            self.is_open = False
            for sock in self.sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def reopen(self) -> None:
        self.is_open = True

    def meets(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.asked.append((method, path))
            for fault in self.faults:
                if fault.fits(method, path):
                    fault.times -= 1
                    return fault
        return None

    @override
    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # without a FIN before it, where it is to be reset

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are the purpose of this server: no traceback."""


class _Connection(BaseHTTPRequestHandler):
    server: Faulty
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    @override
    def log_message(self, *args: Any) -> None:
        pass

    @override
    def handle(self) -> None:
        with self.server.lock:
            if not self.server.is_open:
                return
            self.server.sockets.add(self.connection)
        try:
            super().handle()
        finally:
            with self.server.lock:
                self.server.sockets.discard(self.connection)

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.meets(self.command, self.path)
        act = fault and fault.act
        if act is Act.HANG:
            self.server.let_go.wait(SERVER_S)
        if act is Act.SLOW:
            with self.server.slow:
                time.sleep(fault.delay_s)
        if act is Act.BREAK:
            self._reset()
        elif act is Act.ANSWER:
            self._send(fault.status, {"Content-Type": "text/html"}, fault.body)
        else:
            status, headers, answer = self._ask(_damaged(body) if act is Act.DAMAGE else body)
            if act is Act.LOSE:
                self._reset()
            elif act is Act.REPLACE:
                self._send(fault.status, {"Content-Type": "text/html"}, fault.body)
            elif act is Act.CUT:
                self._send(status, headers, answer[: len(answer) // 2], told=len(answer) or 1)
                self.close_connection = True
            else:
                n = len(answer) // 2 if act is Act.SHORTEN else len(answer)
                self._send(status, headers, answer[:n])

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        behind = http.client.HTTPConnection(*self.server.behind, timeout=SERVER_S)
        try:
            behind.connect()
            with self.server.lock:
                if not self.server.is_open:
                    raise ConnectionResetError("shut")
                self.server.sockets.add(behind.sock)
            own = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
            behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in {**own, "Content-Length": str(len(body))}.items():
                behind.putheader(name, value)
            behind.endheaders(body)
            answer = behind.getresponse()
            headers = dict(answer.getheaders())
            return answer.status, headers, answer.read()
        finally:
            with self.server.lock:
                self.server.sockets.discard(behind.sock)
            behind.close()

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, told: int | None = None
    ) -> None:
        size = len(body) if told is None else told
        if self.command == "HEAD":
            size = int({k.lower(): v for k, v in headers.items()}.get("content-length", size))
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _damaged(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


@contextmanager
def faulty(endpoint: str) -> Iterator[Faulty]:
    with Faulty(endpoint) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shut()
            proxy.shutdown()
            thread.join(60)
