"""General additions to asyncio; nothing here knows volumes."""

import asyncio
import concurrent.futures
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

LONGEST_PAUSE_S = 20.0

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class KeyLocks(Generic[K]):
    """One lock per key, which exists while a task holds it or waits for it.

    First come, first served. Cancellation: leaving is plain code, so a cancelled holder cannot
    leave its key locked.
    """

    def __init__(self) -> None:
        """Of each key that is held: those that wait for it."""
        self._locks: dict[K, list[asyncio.Future[None]]] = {}

    def busy(self, key: K) -> bool:
        return key in self._locks

    def hold(self, key: K) -> "HeldKey[K]":
        """To be entered with `async with`."""
        return HeldKey(self, key)

    async def acquire(self, key: K) -> None:
        """Hold the key until `release`."""
        waiting = self._locks.get(key)
        if waiting is None:
            self._locks[key] = []
            return
        turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had come
                self.release(key)
            raise

    def release(self, key: K) -> None:
        """Leave the key to the first that waits for it."""
        waiting = self._locks[key]
        while waiting:
            turn = waiting.pop(0)
            if not turn.done():
                turn.set_result(None)
                return
        del self._locks[key]


class HeldKey(Generic[K]):
    """A key of `KeyLocks` while a block runs. Not a generator: each change of a name takes one."""

    __slots__ = ("_key", "_locks")

    def __init__(self, locks: KeyLocks[K], key: K) -> None:
        self._locks, self._key = locks, key

    async def __aenter__(self) -> None:
        await self._locks.acquire(self._key)

    async def __aexit__(self, *_: object) -> None:
        self._locks.release(self._key)


async def finish(cleanup: Callable[[], Awaitable[None]], *, within_s: float) -> None:
    """Run cleanup to its end, or its deadline, even if the caller is cancelled repeatedly."""

    async def bounded() -> None:
        async with asyncio.timeout(within_s):
            await cleanup()

    task = asyncio.create_task(bounded())  # noqa: TID251 - owned here: waited for below
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    task.result()
    if cancelled is not None:
        raise cancelled


async def back_off(
    failures: int,
    pause: Callable[[float], Awaitable[object]],
    *,
    first_s: float,
) -> None:
    """Pause before the next attempt: first_s to twice that, doubling with each further failure.

    The jitter is a half, so no pause is shorter than the one before, up to LONGEST_PAUSE_S.
    https://aws.amazon.com/builders-library, "Timeouts, retries and backoff with jitter".
    """
    most_s = min(LONGEST_PAUSE_S, first_s * 2.0 ** min(failures, 32))
    await pause(secrets.SystemRandom().uniform(most_s / 2, most_s))


class Pace:
    """So many turns a second for one task; `turn` waits when they are used up."""

    def __init__(
        self,
        per_s: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._per_s = self._left = per_s
        self._clock, self._sleep = clock, sleep
        self._since_s = clock()

    async def turn(self) -> None:
        elapsed_s = self._clock() - self._since_s
        if elapsed_s < 1 and self._left == 0:
            await self._sleep(1 - elapsed_s)
        if elapsed_s >= 1 or self._left == 0:
            self._left, self._since_s = self._per_s, self._clock()
        self._left -= 1


class LateCalls:
    """The threads of calls that did not return in time; some never do.

    most: of them, before no further call is begun. Concurrency: plain code.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: list[threading.Thread] = []

    def add(self, thread: threading.Thread) -> None:
        self._threads.append(thread)

    def refuse_more(self) -> None:
        """Check that another call may be begun.

        Raises:
            TimeoutError: too many have not returned.

        """
        if len(self._threads) >= self._most:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= self._most:
            raise TimeoutError(f"{len(self._threads)} earlier calls have not returned")


_LATE = LateCalls(64)


async def blocking(call: Callable[[], T], *, within_s: float, late: LateCalls = _LATE) -> T:
    """Run a call that may hang in a thread of its own and wait for it within a deadline.

    The thread is a daemon: a call that never returns (on a dead mount) does not keep the process
    from ending.
    late: the process's.

    Raises:
        TimeoutError: the deadline passed; the call may still take effect later. With a text: very
            many earlier calls have not returned, or there can be no more threads, and this one was
            not begun.

    """
    late.refuse_more()
    done: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            result = call()
        except BaseException as exc:  # noqa: BLE001 - passed to the waiter
            outcome = exc
        else:
            if not done.cancelled():
                done.set_result(result)
            return
        if not done.cancelled():
            done.set_exception(outcome)

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:  # no memory for its stack, or the limit of processes is reached
        raise TimeoutError(f"{exc}: the call was not begun") from exc
    try:
        async with asyncio.timeout(within_s):
            return await asyncio.wrap_future(done)
    except (TimeoutError, asyncio.CancelledError):
        late.add(thread)
        raise
