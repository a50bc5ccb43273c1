"""A task that does jobs one after another for callers who may go away.

grpc.aio cancels a handler when its client's deadline passes. What the handler had begun (a mount,
a bind) must not stop half-way, so it is a job of the mount's owner, and the handler only waits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class JobQueue:
    """Jobs in the order they were given.

    Lifetime: `run` is the owner's task, in the caller's TaskGroup.
    Concurrency: jobs never overlap, so what only jobs change needs no lock.
    Cancellation: of a caller: the job goes on, its failure is dropped (kubelet asks again). Of
    `run`: the job under way and those that wait are cancelled, and so are their callers.
    """

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = (
            asyncio.Queue()
        )

    def enqueue(self, job: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """Add a job; plain code. The future has its outcome; whoever awaits it shields it."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((job, done))
        return done

    def later(self, job: Callable[[], Awaitable[None]]) -> None:
        """Add a job for which nobody waits; its failure is its own to log."""
        self._jobs.put_nowait((job, asyncio.get_running_loop().create_future()))

    async def ask(self, job: Callable[[], Awaitable[T]]) -> T:
        """Have a job done, and wait. Raises what it raises."""
        return await asyncio.shield(self.enqueue(job))

    async def run(self, until: Callable[[], bool]) -> None:
        """Do jobs until none waits and `until()` is true; no job can be added in between."""
        try:
            while True:
                job, done = await self._jobs.get()
                await _do(job, done)
                if self._jobs.empty() and until():
                    return
        finally:
            while not self._jobs.empty():
                self._jobs.get_nowait()[1].cancel()


async def _do(job: Callable[[], Awaitable[Any]], done: asyncio.Future[Any]) -> None:
    try:
        result = await job()
    except asyncio.CancelledError:
        done.cancel()
        raise
    except Exception as exc:  # noqa: BLE001 - the caller's: a failed job must not end the others
        done.set_exception(exc)
        done.exception()  # a caller that went away is no reason for a warning
    else:
        done.set_result(result)
