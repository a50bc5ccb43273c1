"""Keeps the inode table to its share of memory: a `find` pins every name it has seen.

The kernel is asked to drop names that nobody uses, each once until it is used again, and one for
each name that comes. The names that wait are the idle files of the table: there is no other queue
but the batch that the kernel is being asked for.

Rejected: pyfuse3.invalidate_entry_async, whose queue has no bound. Directories: where the kernel
cannot spare one that is a process's working directory, that process could not tell its path.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.inodes import Inodes
from csi_s3.fs.names.kernel_cache import CachedName, KernelCache

BATCH = 256  # a thread for each; READDIR brings some 200 names at most


class Eviction:
    """Concurrency: one task of the group asks, while there are too many names; plain code else.

    Lifetime: until `close`, after which nothing is asked.
    """

    def __init__(
        self, inodes: Inodes, kernel: KernelCache, group: asyncio.TaskGroup, *, limit: int
    ) -> None:
        """limit: so many inodes have their share of memory."""
        self._inodes, self._kernel, self._group = inodes, kernel, group
        self._limit, self._slack = limit, limit // 4
        self._batch_names = max(1, min(BATCH, limit // 8))
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def has_room(self) -> bool:
        """Whether the kernel is keeping up, so that names may be given to it many at a time."""
        return len(self._inodes) <= self._limit + self._slack

    def check(self) -> None:
        """Names may have come, or may be asked for now."""
        if self._is_asking or self._is_closed or self._excess < self._batch_names:
            return
        if names := self._batch():
            self._task = self._group.create_task(self._ask(names))

    def close(self) -> None:
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()

    @contextmanager
    def reading(self, directory: Inode) -> Iterator[None]:
        """A READDIR waits for the store, and the kernel keeps the directory locked so long."""
        try:
            with self._inodes.idle.reading(directory.ino):
                yield
        finally:
            self.check()

    @property
    def _is_asking(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def _excess(self) -> int:
        """So many inodes are over the limit, once the kernel has dropped what it was asked for."""
        return max(0, len(self._inodes) - self._inodes.evictions_pending - self._limit)

    async def _ask(self, names: Sequence[CachedName]) -> None:
        while names:
            for name in await self._kernel.drop_names(names, is_read=self._inodes.idle.is_read):
                self._inodes.eviction_failed(name.ino)
            names = self._batch()

    def _batch(self) -> Sequence[CachedName]:
        names: list[CachedName] = []
        while len(names) < self._batch_names and self._excess:
            inode = self._inodes.evict_oldest()
            if inode is None:
                break
            names.append(CachedName(inode.parent, inode.name.encode(), inode.ino))
        return names
