"""The loop that owns /dev/fuse: it reads requests, counts and routes them, and writes the replies.

It reads in callbacks of the event loop, so that a request that can be answered at once needs no
task. A message is in a buffer that the next one overwrites, unless `take_buffer` is called.
"""

import asyncio
import errno
import logging
import mmap
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from csi_s3.fuse.negotiation import MAX_WRITE_BYTES
from csi_s3.fuse.protocol import MessageBytes, parse_header
from csi_s3.fuse.reply_messages import build_error
from csi_s3.fuse.requests import KernelRequest, RequestsInFlight

log = logging.getLogger(__name__)

# Called with a request and its whole message, which is valid until it returns.
RequestHandler: TypeAlias = Callable[[KernelRequest, memoryview], None]

AT_ONCE = 16  # requests, in one callback: then other tasks get their turn
BUFFER_BYTES = MAX_WRITE_BYTES + mmap.PAGESIZE  # the kernel fills none that is smaller
DRAIN_POLL_S = 0.005


class RequestLoop:
    """Lifetime: from `serve` to `close`, which closes the descriptor.

    Concurrency: plain code, in the event loop, but for `reply`, which may be called in a thread.

    counts: of requests, by opcode.
    """

    def __init__(
        self,
        fd: int,
        *,
        ended: Callable[[], None],
        key_of: Callable[[int], str] = lambda _: "",
    ) -> None:
        """Own fd. ended: is called once the kernel has ended the connection.

        key_of: as of `RequestsInFlight`.
        """
        self._fd, self._ended = fd, ended
        self._handlers: Sequence[RequestHandler] = ()
        self.in_flight = RequestsInFlight(key_of)
        self.counts: Counter[int] = Counter()
        self._buffer = _new_buffer()
        self._is_taking = False

    @property
    def is_taking(self) -> bool:
        """Whether it takes requests."""
        return self._is_taking

    def serve(self, handlers: Sequence[RequestHandler]) -> None:
        """Take requests. handlers: by opcode; the last one is for all others."""
        self._handlers = handlers
        self.start()

    def start(self) -> None:
        """Take requests again, after `stop`."""
        if self._fd >= 0 and not self._is_taking:
            os.set_blocking(self._fd, False)
            asyncio.get_running_loop().add_reader(self._fd, self._take)
            self._is_taking = True

    def stop(self) -> None:
        """Take no more requests. What was taken is answered."""
        if self._is_taking:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._is_taking = False

    async def drain(self) -> None:
        """Take no more requests, and return when all that were taken are answered."""
        self.stop()
        while len(self.in_flight):  # noqa: ASYNC110 - a thread may end the last one
            await asyncio.sleep(DRAIN_POLL_S)

    def close(self) -> None:
        self.stop()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # requests

    def _take(self) -> None:
        """Read what is there, up to AT_ONCE; called when there is something."""
        handlers, others = self._handlers, len(self._handlers) - 1
        # With no other request under way a second one is unlikely, and a look for it costs time.
        for _ in range(AT_ONCE if len(self.in_flight) else 1):
            message = self._read()
            if message is None:
                return
            _, opcode, unique, nodeid, uid, gid, _ = parse_header(message)
            self.counts[opcode] += 1
            request = KernelRequest(opcode, unique, nodeid, uid, gid)
            try:
                handlers[min(opcode, others)](request, message)
            except Exception as exc:  # noqa: BLE001 - its caller would wait for ever
                self.fail(request, exc)

    def _read(self) -> memoryview | None:
        """The next request; None: there is none now, or the connection has ended."""
        while self._is_taking:
            try:
                n = os.readv(self._fd, [self._buffer])
            except BlockingIOError:
                return None
            except OSError as exc:
                if exc.errno == errno.ENOENT:  # it was withdrawn: its caller was killed
                    continue
                if exc.errno != errno.ENODEV:
                    log.error("no request can be read: %s", exc.strerror)  # noqa: TRY400
                self.stop()
                self._ended()
                return None
            return self._buffer[:n]
        return None

    def take_buffer(self) -> None:
        """Keep the buffer of the present message: the next one gets another."""
        self._buffer = _new_buffer()

    # replies

    def reply(self, request: KernelRequest, buffers: Sequence[MessageBytes]) -> None:
        """Write a reply, header first; the buffers are not used any more when this returns."""
        try:
            os.writev(self._fd, buffers)
        except FileNotFoundError:
            pass  # its caller was killed, or it was answered
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                log.error("the kernel refused the reply to %s", request.name)  # noqa: TRY400
                self.reply_error(request, errno.EIO)
            else:
                log.debug("no reply to %s: %s", request.name, exc.strerror)
        finally:  # not before: `drain` waits for it
            self.in_flight.end(request)

    def reply_error(self, request: KernelRequest, number: int) -> None:
        """Answer with an error number, or success without data, 0."""
        try:
            os.write(self._fd, build_error(request.unique, number))
        except OSError as exc:
            log.debug("no answer to %s: %s", request.name, exc.strerror)
        finally:
            self.in_flight.end(request)

    def fail(self, request: KernelRequest, error: Exception) -> None:
        """Answer with EIO, because of a bug, or where memory is missing."""
        extra = {"code": "internal"}
        log.error("bug in the answer to %s", request.name, exc_info=error, extra=extra)
        self.reply_error(request, errno.EIO)  # the kernel ignores it where it wants no reply


def _new_buffer() -> memoryview:
    """Zeros of which only what is used takes memory."""
    return memoryview(mmap.mmap(-1, BUFFER_BYTES))
