"""The memory that one worker's buffers share: read windows, tails of files, and upload parts.

One number for all, fixed at mount. Readers take what a kernel read needs at once (at most 1 MiB
each, 64 at a time) and read ahead only where there is room (`try_reserve`). So readers always
progress and never wait for a writer. Writers wait for room and never exceed it. What is `leaving`
is on its way to the store and comes back; as long as there is some, a writer waits for that.
Else those that hold memory they can do without give way, the one that has grown least recently
first (`holds`).

Bytes that leave at once (`reserve_to_send`) wait for nothing but others that are leaving, so that
every file can be stored whatever the tails of others hold: one such demand may exceed the budget.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from csi_s3.errors import VolumeError
from csi_s3.fs.base.progress_timeout import FileProgress

READ_AHEAD_SHARE = 0.75  # idle readers keep theirs, and must not stop every writer
WAY_SHARE = 8  # of the budget: as much is made free at once where others have to give way
HOLDERS_PER_TURN = 32  # give way before other tasks get their turn


class Holder(Protocol):
    """Holds memory of the budget that it can do without. Not to be asked again until it `holds`."""

    def give_way(self) -> bool:
        """Give it back now; False: it is in use.

        Raises:
            VolumeError: there is no other place for what is in it, nor for what others hold.

        """


@dataclass(slots=True, eq=False)
class _Waiter:
    """turn: whether it was served; False: nothing is leaving, so it has to make others give way.

    was_asked: to make others give way, and nothing has changed since.
    until_s: of the loop's clock; later, where one that came earlier is served.
    """

    n: int
    turn: "asyncio.Future[bool]"
    until_s: float = math.inf
    was_asked: bool = False


class MemoryBudget:
    """Concurrency: all plain code but the waits, which are served in order of arrival.

    Cancellation: a cancelled wait has reserved nothing.

    leaving_bytes: of used_bytes, those that are on their way to the store.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = self.leaving_bytes = 0
        self._waiters: deque[_Waiter] = deque()
        self._senders: deque[_Waiter] = deque()
        self._holders: dict[Holder, None] = {}
        self._served = 0  # of all waiters, ever

    def has_room(self, n: int) -> bool:
        """Whether `reserve` would not have to wait."""
        return not self._waiters and self._fits(n)

    def try_reserve(self, n: int) -> bool:
        """Reserve for read-ahead, which must leave a part of the memory to writers."""
        if self._waiters or self.used_bytes + n > self.total_bytes * READ_AHEAD_SHARE:
            return False
        self.used_bytes += n
        return True

    async def reserve(
        self,
        n: int,
        *,
        within_s: float = math.inf,
        progress: FileProgress | None = None,
        until_stuck: bool = False,
    ) -> bool:
        """Wait for room. A single demand above the whole budget waits until all else is free.

        within_s: between two that are served of those that came earlier, and then this one.
        progress: is made with each that is served. until_stuck: return False where nothing is
        leaving, and no one gives way.

        Raises:
            TimeoutError: nothing was served in that time.

        """
        if self.has_room(n):
            self.used_bytes += n
            return True
        loop = asyncio.get_running_loop()
        waiter = _Waiter(n, loop.create_future(), until_s=loop.time() + within_s)
        self._waiters.append(waiter)
        try:
            self._wake()
            while not await self._turn(waiter, within_s, progress):
                waiter.turn = loop.create_future()
                await self._make_way(n, waiter.turn)
                self._wake()
                if until_stuck and not (waiter.turn.done() or self.leaving_bytes):
                    self._leave_queue(waiter)
                    return False
        except (asyncio.CancelledError, TimeoutError):
            if waiter in self._waiters:
                self._leave_queue(waiter)
            elif not waiter.turn.cancelled():
                self.release(n)
            raise
        return True

    async def _turn(self, waiter: _Waiter, within_s: float, progress: FileProgress | None) -> bool:
        loop, served = asyncio.get_running_loop(), self._served
        while not waiter.turn.done():
            if within_s == math.inf:
                await waiter.turn
                break
            await asyncio.wait({waiter.turn}, timeout=max(0.0, waiter.until_s - loop.time()))
            if served != self._served:
                served, waiter.until_s = self._served, loop.time() + within_s
                if progress is not None:
                    progress.made()
            elif not waiter.turn.done():
                raise TimeoutError
        return waiter.turn.result()

    def _leave_queue(self, waiter: _Waiter) -> None:
        self._waiters.remove(waiter)
        self._wake()

    def take(self, n: int) -> None:
        """Reserve what a reader must have now, even above the budget."""
        self.used_bytes += n

    def release(self, n: int) -> None:
        self.used_bytes -= n
        if self._waiters or self._senders:
            self._changed()

    # what leaves

    async def reserve_to_send(self, n: int) -> None:
        """Wait for room for bytes that leave at once, or until nothing else is leaving.

        It may be called with a turn of the key range lock. They are `leaving` when it returns.
        """
        if not self._fits(n):
            await self._make_way(n)
        if not self._senders and (self._fits(n) or not self.leaving_bytes):
            self.used_bytes += n
            self.leaving_bytes += n
            return
        sender = _Waiter(n, asyncio.get_running_loop().create_future())
        self._senders.append(sender)
        try:
            await sender.turn
        except asyncio.CancelledError:
            if not sender.turn.cancelled():
                self.left(n)
            elif sender in self._senders:
                self._senders.remove(sender)
                self._wake()
            raise

    def leave(self, n: int) -> None:
        """Bytes that were reserved are on their way from now on."""
        self.leaving_bytes += n

    def stay(self, n: int) -> None:
        """As `left`, but they stay in memory."""
        self.leaving_bytes -= n
        self._changed()

    def left(self, n: int) -> None:
        """They have arrived, or never will; their memory is free."""
        self.used_bytes -= n
        self.stay(n)

    # who gives way

    def holds(self, holder: Holder) -> None:
        """It holds memory that it can do without, and has more than before."""
        self._holders.pop(holder, None)
        self._holders[holder] = None

    def holds_nothing(self, holder: Holder) -> None:
        self._holders.pop(holder, None)

    async def _make_way(self, n: int, turn: "asyncio.Future[bool] | None" = None) -> None:
        """Have holders give way until n bytes fit, and some more; or turn is done."""
        n = max(n, self.total_bytes // WAY_SHARE)
        for asked in range(1, len(self._holders) + 1):
            holder = next(iter(self._holders), None)
            if holder is None or self._fits(n) or (turn is not None and turn.done()):
                return
            del self._holders[holder]
            try:
                gave_way = holder.give_way()
            except VolumeError:
                self._holders[holder] = None
                return
            if not gave_way:
                self._holders[holder] = None
            if asked % HOLDERS_PER_TURN == 0:
                await asyncio.sleep(0)

    def _fits(self, n: int) -> bool:
        return self.used_bytes <= 0 or self.used_bytes + n <= self.total_bytes

    def _changed(self) -> None:
        if self._waiters:
            self._waiters[0].was_asked = False
        self._wake()

    def _wake(self) -> None:
        while self._senders and (self._fits(self._senders[0].n) or not self.leaving_bytes):
            sender = self._senders.popleft()
            if not sender.turn.done():
                self.used_bytes += sender.n
                self.leaving_bytes += sender.n
                sender.turn.set_result(True)
        while self._waiters:
            first = self._waiters[0]
            if first.turn.cancelled():
                self._waiters.popleft()
            elif first.turn.done():
                return  # it makes others give way
            elif self._fits(first.n):
                self._waiters.popleft()
                self.used_bytes += first.n
                self._served += 1
                first.turn.set_result(True)
            elif self.leaving_bytes or first.was_asked:
                return
            else:
                first.was_asked = True
                first.turn.set_result(False)
                return
