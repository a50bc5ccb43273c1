"""What is to be said on one connection, in order, by plain code that must not wait."""

import asyncio
import os
from types import TracebackType
from typing import Any, Self

from csi_s3.link.channel import Channel


class Outbox:
    """A queue of messages with their descriptors, and the task that sends them.

    Lifetime: a context manager around one connection; leaving closes what was not sent. It grows
    only with changes of state and with answers, so it has no bound of its own.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._queue: asyncio.Queue[tuple[str, dict[str, Any], tuple[int, ...]]] = asyncio.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _exc: BaseException | None,
        _tb: TracebackType | None,
    ) -> None:
        while not self._queue.empty():
            self._discard(self._queue.get_nowait()[2])

    def put(self, type_: str, body: dict[str, Any], *fds: int) -> None:
        """Have the message sent; the descriptors are the outbox's from here on."""
        self._queue.put_nowait((type_, body, fds))

    async def run(self) -> None:
        """Send until cancelled.

        A peer that is gone is not an error here: the connection's reader finds its end.
        """
        gone = False
        while True:
            type_, body, fds = await self._queue.get()
            try:
                if not gone:
                    await self._channel.send(type_, body, fds)
            except ConnectionError:
                gone = True
            finally:
                self._discard(fds)

    async def flush(self, *, within_s: float) -> None:
        """Wait until everything is sent, or until the deadline, whichever comes first."""
        try:
            async with asyncio.timeout(within_s):
                await self._queue.join()
        except TimeoutError:
            return

    def _discard(self, fds: tuple[int, ...]) -> None:
        for fd in fds:
            os.close(fd)
        self._queue.task_done()
