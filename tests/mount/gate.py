"""A server that can be out of reach for a while, at an address that stays the same."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class Gate(socketserver.ThreadingTCPServer):
    """Passes connections on to a server while it is open; shut, it breaks them at once.

    Concurrency: a thread for each connection and direction; `shut` and `reopen` from any.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        behind = urlsplit(endpoint)
        self.behind = (behind.hostname, behind.port)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.is_open = True
        self.sockets: set[socket.socket] = set()
        self.lock = threading.Lock()

    def shut(self) -> None:
        """Nobody gets through, and nothing that is under way arrives."""
        with self.lock:
            self.is_open = False
            for sock in self.sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def reopen(self) -> None:
        self.is_open = True


class _Connection(socketserver.BaseRequestHandler):
    server: Gate

    def handle(self) -> None:
        gate = self.server
        if not gate.is_open:
            return
        with contextlib.suppress(OSError), socket.create_connection(gate.behind) as behind:
            with gate.lock:
                if not gate.is_open:
                    return
                gate.sockets |= {self.request, behind}
            back = threading.Thread(target=_pass_on, args=(behind, self.request))
            back.start()
            _pass_on(self.request, behind)
            back.join()
            with gate.lock:
                gate.sockets -= {self.request, behind}


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def gated(endpoint: str) -> Iterator[Gate]:
    with Gate(endpoint) as gate:
        thread = threading.Thread(target=gate.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield gate
        finally:
            gate.shut()
            gate.shutdown()
            thread.join(60)
