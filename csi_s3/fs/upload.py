"""The one multipart upload of a file: numbers its parts, sends them in parallel, ends it.

Bytes given to it are counted in the memory budget until their part is in the store.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from csi_s3.errors import FileTooLargeError, VolumeError
from csi_s3.fs.budget import MemoryBudget
from csi_s3.fs.outcome import outcome
from csi_s3.s3.store import (
    MAX_COPY_PART_BYTES,
    MAX_PARTS,
    MIN_PART_BYTES,
    Buffer,
    ObjectInfo,
    ObjectStore,
    Part,
    Upload,
)

PARALLEL_PARTS = 16
GROW_EVERY_PARTS = 1000  # the part size doubles, so that 10,000 parts of 8 MiB hold 4 TiB


class PartUpload:
    """Lifetime: from its first part to `complete` or `abort`; its owner calls one of them, once.

    Concurrency: one owner calls; parts run in the group as tasks that return their failure.
    The first failure is final: `complete` and later parts raise it.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        part_bytes: int,
        budget: MemoryBudget,
        group: asyncio.TaskGroup,
        progress: Callable[[], None],
    ) -> None:
        self._store, self._key, self._budget, self._group = store, key, budget, group
        self._part_bytes, self._progress = part_bytes, progress
        self._upload: Upload | None = None
        self._number = 0
        self._sent: list[asyncio.Task[Part | VolumeError]] = []
        self._slots = asyncio.Semaphore(PARALLEL_PARTS)
        self._creating = asyncio.Lock()
        self._failure: VolumeError | None = None

    @property
    def part_bytes(self) -> int:
        """The size of the next part: it grows with the file, but not beyond a share of memory."""
        grown = self._part_bytes << (self._number // GROW_EVERY_PARTS)
        return min(grown, max(self._part_bytes, self._budget.total_bytes // 8))

    async def part(self, data: Buffer) -> None:
        """Send the next part; returns when it is on its way. The budget's share is ours now."""
        await self._slots.acquire()
        number = self._next()
        self._begin(len(data), lambda: self._send(number, data))

    async def copy(self, source: ObjectInfo) -> None:
        """Begin with all bytes of that object (at least MIN_PART_BYTES), copied in the store."""
        start = 0
        while start < source.size:
            length = min(MAX_COPY_PART_BYTES, source.size - start)
            if 0 < source.size - start - length < MIN_PART_BYTES:
                length -= MIN_PART_BYTES  # no piece may be smaller than a part
            await self._slots.acquire()
            self._begin(0, partial(self._copy, self._next(), source, start, length))
            start += length

    async def complete(self, *, if_none_match: bool = False) -> ObjectInfo:
        """Wait for all parts and make the object visible.

        Raises:
            PreconditionFailedError: if_none_match, and the key holds an object.
            VolumeError: the first failure; the upload is still to be aborted.

        """
        parts = []
        for task in self._sent:
            part = await asyncio.shield(task)
            if isinstance(part, VolumeError):
                raise part
            parts.append(part)
        if self._upload is None:
            raise RuntimeError("an upload without parts cannot be completed")
        return await self._upload.complete(parts, if_none_match=if_none_match)

    async def abort(self) -> None:
        """Drop all that was sent. An upload being created is waited for, lest it be left."""
        async with self._creating:
            for task in self._sent:
                task.cancel()
        for task in self._sent:
            await asyncio.wait({task})
        if self._upload is not None:
            await self._upload.abort()

    def cancel(self) -> None:
        """Stop sending; plain code. What the store has of it stays there."""
        for task in self._sent:
            task.cancel()

    def _next(self) -> int:
        if self._failure is not None:
            self._slots.release()
            raise self._failure
        if self._number >= MAX_PARTS:
            self._slots.release()
            raise FileTooLargeError(
                f"{self._key}: more than {MAX_PARTS} parts",
                "give the volume a larger write-part-size",
            )
        self._number += 1
        return self._number

    def _begin(self, held_bytes: int, send: Callable[[], Awaitable[Part]]) -> None:
        async def sent() -> Part | VolumeError:
            result = await outcome(send)
            if isinstance(result, VolumeError):
                self._failure = self._failure or result
            else:
                self._progress()
            return result

        def ended(_task: "asyncio.Task[Part | VolumeError]") -> None:
            self._slots.release()
            self._budget.release(held_bytes)

        task = self._group.create_task(sent())
        task.add_done_callback(ended)
        self._sent.append(task)

    async def _send(self, number: int, data: Buffer) -> Part:
        upload = await self._opened()
        return await upload.part(number, data)

    async def _copy(self, number: int, source: ObjectInfo, start: int, length: int) -> Part:
        upload = await self._opened()
        return await upload.part_from(number, source, start, length)

    async def _opened(self) -> Upload:
        """The upload, created by the first part that needs it; the others wait for that one."""
        if self._upload is None:
            async with self._creating:
                if self._upload is None:
                    self._upload = await self._store.create_upload(self._key)
        return self._upload
