"""A task that runs jobs one after another for callers that may be cancelled.

grpc.aio cancels a handler when its client's deadline passes. An operation that the handler began (a
mount, a bind) must not stop half-way, so it is a job of the mount's owner task, and the handler
only waits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class JobQueue:
    """Jobs in the order in which they were added.

    Lifetime: `run` is the owner's task, in the caller's TaskGroup.
    Concurrency: jobs never overlap, so what only jobs change needs no lock.
    Cancellation: of a caller: the job goes on, its failure is dropped (kubelet asks
    again). Of `run`: the running job and those that wait are cancelled, and so are their callers.
    """

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = (
            asyncio.Queue()
        )

    def enqueue(self, job: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """Add a job; plain code. The future gets its result; shield it to await it."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((job, done))
        return done

    def later(self, job: Callable[[], Awaitable[None]]) -> None:
        """Add a job without a caller; it must log its own failures."""
        self._jobs.put_nowait((job, asyncio.get_running_loop().create_future()))

    async def ask(self, job: Callable[[], Awaitable[T]]) -> T:
        """Add a job and wait for it. Raises what it raises."""
        return await asyncio.shield(self.enqueue(job))

    async def run(self, until: Callable[[], bool]) -> None:
        """Run jobs until none waits and `until()` is true; no job can be added in between."""
        try:
            while True:
                job, done = await self._jobs.get()
                await _run(job, done)
                if self._jobs.empty() and until():
                    return
        finally:
            while not self._jobs.empty():
                self._jobs.get_nowait()[1].cancel()


async def _run(job: Callable[[], Awaitable[Any]], done: asyncio.Future[Any]) -> None:
    try:
        result = await job()
    except asyncio.CancelledError:
        done.cancel()
        raise
    except Exception as exc:  # noqa: BLE001 - for the caller: a failed job must not end the others
        done.set_exception(exc)
        done.exception()  # mark it as retrieved: the caller may be gone
    else:
        done.set_result(result)
