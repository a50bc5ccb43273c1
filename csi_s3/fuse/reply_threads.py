"""Threads that write large replies: the copy into the kernel holds up no other request."""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeAlias

from csi_s3.fuse.protocol import MessageBytes
from csi_s3.fuse.requests import KernelRequest

THREADS = 2  # more gain nothing: one copies 5 GB/s and more
_CLOSE_WITHIN_S = 10.0

LargeReply: TypeAlias = tuple[KernelRequest, Sequence[MessageBytes]]


class ReplyThreads:
    """Lifetime: as the session; the threads begin with the first reply.

    Buffers are referred to until they are written. Concurrency: plain code, in the event loop.
    """

    def __init__(self, write: Callable[[KernelRequest, Sequence[MessageBytes]], None]) -> None:
        """write: is called in a thread."""
        self._write = write
        self._queue: SimpleQueue[LargeReply | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def reply(self, request: KernelRequest, buffers: Sequence[MessageBytes]) -> None:
        """Write it soon."""
        if not self._threads:
            for _ in range(THREADS):
                thread = threading.Thread(target=self._run, daemon=True)
                thread.start()
                self._threads.append(thread)
        self._queue.put((request, buffers))

    def close(self) -> None:
        """Write what is left."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(_CLOSE_WITHIN_S)

    def _run(self) -> None:
        while (reply := self._queue.get()) is not None:
            self._write(*reply)
            del reply  # not until the next one comes
