"""An ordered send queue for one connection, which never makes its callers wait."""

import asyncio
import os
from typing import Any

from csi_s3.link.channel import Channel


class Outbox:
    """A queue of messages with their descriptors, and the task that sends them.

    Lifetime: the connection's; `close` closes the descriptors that were not sent. The queue grows
    only with changes of state and with answers, so it has no bound.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._queue: asyncio.Queue[tuple[str, dict[str, Any], tuple[int, ...]]] = asyncio.Queue()

    def close(self) -> None:
        while not self._queue.empty():
            self._discard(self._queue.get_nowait()[2])

    def put(self, type_: str, body: dict[str, Any], *fds: int) -> None:
        """Queue a message; the outbox closes its descriptors."""
        self._queue.put_nowait((type_, body, fds))

    async def run(self) -> None:
        """Send until cancelled.

        A closed connection is not an error here: its reader notices the end.
        """
        is_closed = False
        while True:
            type_, body, fds = await self._queue.get()
            try:
                if not is_closed:
                    await self._channel.send(type_, body, fds)
            except ConnectionError:
                is_closed = True
            finally:
                self._discard(fds)

    async def flush(self, *, within_s: float) -> None:
        """Wait until everything is sent or the deadline has passed."""
        try:
            async with asyncio.timeout(within_s):
                await self._queue.join()
        except TimeoutError:
            return

    def _discard(self, fds: tuple[int, ...]) -> None:
        for fd in fds:
            os.close(fd)
        self._queue.task_done()
