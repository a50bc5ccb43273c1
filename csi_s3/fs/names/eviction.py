"""Keeps the inode table within its share of memory: a `find` pins every name it has seen.

Above the limit the kernel is asked to drop unused names, each once until it is used again, and one
for each new name. The queue is the table's list of idle files; there is none besides it but the
batch that the kernel is working on.

Rejected: pyfuse3.invalidate_entry_async, whose queue has no bound. Evicting directories: a process
whose working directory is dropped cannot find out its path.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.inodes import Inodes
from csi_s3.fs.names.kernel_cache import CachedName, KernelCache

BATCH = 256  # a thread for each; READDIR brings some 200 names at most


class Eviction:
    """Concurrency: one task of the group, while there are too many names; else plain code.

    Lifetime: until `close`, after which the kernel is asked for nothing.
    """

    def __init__(
        self, inodes: Inodes, kernel: KernelCache, group: asyncio.TaskGroup, *, limit: int
    ) -> None:
        """limit: so many inodes fit their share of memory."""
        self._inodes, self._kernel, self._group = inodes, kernel, group
        self._limit, self._slack = limit, limit // 4
        self._batch_names = max(1, min(BATCH, limit // 8))
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def has_room(self) -> bool:
        """Whether the kernel keeps up, so that it may be given many names at a time."""
        return len(self._inodes) <= self._limit + self._slack

    def check(self) -> None:
        """To be called when there are new names, or names that can be dropped now."""
        if self._is_running or self._is_closed or self._excess < self._batch_names:
            return
        if names := self._batch():
            self._task = self._group.create_task(self._evict(names))

    def close(self) -> None:
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()

    @contextmanager
    def reading(self, directory: Inode) -> Iterator[None]:
        """While a READDIR waits for the store: the kernel keeps the directory locked."""
        try:
            with self._inodes.idle.reading(directory.ino):
                yield
        finally:
            self.check()

    @property
    def _is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def _excess(self) -> int:
        """How many inodes are above the limit, without those that the kernel is dropping."""
        return max(0, len(self._inodes) - self._inodes.evictions_pending - self._limit)

    async def _evict(self, names: Sequence[CachedName]) -> None:
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
