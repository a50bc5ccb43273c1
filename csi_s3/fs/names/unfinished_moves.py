"""Renames of directories whose files are taking over their copies, a thousand in a step."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class UnfinishedMoves:
    """While there are any, a version that differs from an inode's is not another client's yet.

    A copy may have another ETag than its source. An inode that takes it for another version would
    lose its pages, and its open handles would be stale.

    Concurrency: `wait` is for those that have found a different version, before they take a lock.
    Nothing in between waits for the store.
    """

    def __init__(self) -> None:
        self._count, self._finished = 0, asyncio.Event()

    @contextmanager
    def one(self) -> Iterator[None]:
        self._count += 1
        self._finished.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._finished.set()

    async def wait(self) -> None:
        if self._count:
            await self._finished.wait()
