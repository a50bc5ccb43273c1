"""The memory that one worker's buffers share: read windows and upload parts.

One number for all, fixed at mount. Writers wait for room and never exceed it. Readers take what a
kernel read needs at once (at most 1 MiB each, 64 at a time) and read ahead only where there is room
(`try_reserve`). So readers always progress and never wait for a writer.
"""

import asyncio
from collections import deque

READ_AHEAD_SHARE = 0.75  # idle readers keep theirs, and must not stop every writer


class MemoryBudget:
    """Concurrency: all plain code but `reserve`, which serves its waiters in order of arrival.

    Cancellation: a cancelled `reserve` has reserved nothing.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    def has_room(self, n: int) -> bool:
        """Whether `reserve` would not have to wait."""
        return not self._waiters and self._fits(n)

    def try_reserve(self, n: int) -> bool:
        """Reserve for read-ahead, which must leave a part of the memory to writers."""
        if self._waiters or self.used_bytes + n > self.total_bytes * READ_AHEAD_SHARE:
            return False
        self.used_bytes += n
        return True

    async def reserve(self, n: int) -> None:
        """Wait for room. A single demand above the whole budget waits until all else is free."""
        if self.has_room(n):
            self.used_bytes += n
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((n, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._wake()  # drops this waiter, unless a release has done so
            else:
                self.release(n)
            raise

    def take(self, n: int) -> None:
        """Reserve what a reader must have now, even above the budget."""
        self.used_bytes += n

    def release(self, n: int) -> None:
        self.used_bytes -= n
        self._wake()

    def _fits(self, n: int) -> bool:
        return self.used_bytes <= 0 or self.used_bytes + n <= self.total_bytes

    def _wake(self) -> None:
        while self._waiters and (self._waiters[0][1].done() or self._fits(self._waiters[0][0])):
            n, turn = self._waiters.popleft()
            if not turn.done():
                self.used_bytes += n
                turn.set_result(None)
