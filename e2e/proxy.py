"""A TCP proxy before the S3 server that can be slow, or down, without disturbing other tests."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 16 << 10


class Link:
    """url: what a volume's endpoint-url says.

    delay_s: pause before each piece of an answer is passed on.
    """

    def __init__(self, host: str, target: tuple[str, int]) -> None:
        self.delay_s = 0.0
        self._target, self._up, self._ended = target, True, False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((host, 0))
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def down(self) -> None:
        """Cut all connections; new ones are closed at once."""
        with self._lock:
            self._up = False
            self._cut()

    def up(self) -> None:
        with self._lock:
            self._up = True

    def close(self) -> None:
        with self._lock:
            self._ended = True
            self._cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _cut(self) -> None:
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._ended or not self._up:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(self._target, timeout=10)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self._open |= {client, server}
            for source, sink, is_answer in ((client, server, False), (server, client, True)):
                threading.Thread(
                    target=self._pump, args=(source, sink, is_answer), daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if is_answer and self.delay_s:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()


@contextmanager
def linked(host: str, target: tuple[str, int]) -> Iterator[Link]:
    link = Link(host, target)
    try:
        yield link
    finally:
        link.close()
