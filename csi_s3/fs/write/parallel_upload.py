"""The one multipart upload of a file: numbers its parts, sends them in parallel, ends it.

Bytes given to it are counted in the memory budget until their part is in the store.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from csi_s3.errors import FileTooLargeError, IntegrityError, VolumeError
from csi_s3.fs.base.budget import MemoryBudget
from csi_s3.fs.base.outcome import outcome
from csi_s3.s3.store import MAX_PARTS, Buffer, ObjectInfo, ObjectStore, Part, Upload

PARALLEL_PARTS = 16
GROW_EVERY_PARTS = 1000  # the part size doubles, so that 10,000 parts of 8 MiB hold 4 TiB


@dataclass(slots=True, eq=False)
class SentPart:
    """A range of the file that is in the upload, or on its way there, under this number.

    is_stale: bytes of it have changed since: it is to be sent again.
    """

    number: int
    start: int
    end: int
    task: "asyncio.Task[Part | VolumeError]"
    is_stale: bool = False


class ParallelUpload:
    """Lifetime: from its first part to `complete` or `abort`; its owner calls one of them, once.

    Concurrency: one owner calls; parts run in the group as tasks that return their failure.
    The first failure is final: `complete` and later parts raise it.

    parts: in the file's order, without gaps from `start` to `covered`.
    start: what is before has numbers reserved, and is sent last, in `head`: an edit's unchanged
        beginning, which is copied when it is sure to be unchanged.
    tried: the parts of a `complete` that got no answer; the next `complete` is of these again.
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
        like: ObjectInfo | None = None,
        start: int = 0,
        reserved: int = 0,
    ) -> None:
        """reserved: so many numbers are kept for what is before start."""
        self.key = key
        self.parts: list[SentPart] = []
        self.start, self.reserved = start, reserved
        self.tried: list[Part] | None = None
        self._store, self._budget, self._group = store, budget, group
        self._part_bytes, self._progress, self._like = part_bytes, progress, like
        self._upload: Upload | None = None
        self._number = reserved
        self._running: set[asyncio.Task[Part | VolumeError]] = set()
        self._slots = asyncio.Semaphore(PARALLEL_PARTS)
        self._creating = asyncio.Lock()
        self._failure: VolumeError | None = None

    @property
    def part_bytes(self) -> int:
        """The size of the next part: it grows with the file, but not beyond a share of memory."""
        grown = self._part_bytes << (self._number // GROW_EVERY_PARTS)
        return min(grown, max(self._part_bytes, self._budget.total_bytes // 8))

    @property
    def used(self) -> int:
        """So many part numbers are used; the store has MAX_PARTS of them."""
        return self._number

    @property
    def covered(self) -> int:
        """So many first bytes of the file are in parts, but for those before `start`."""
        return self.parts[-1].end if self.parts else self.start

    @contextmanager
    def head(self) -> Iterator[None]:
        """Let what is sent meanwhile be what comes before `start`."""
        behind, number = self.parts, self._number
        self.parts, self._number, self.start = [], 0, 0
        try:
            yield
        finally:
            self.parts, self._number = [*self.parts, *behind], number

    async def part(self, data: Buffer) -> None:
        """Send the next bytes; returns when they are on their way.

        Their share of the budget is given back by us, whatever happens.
        """
        number, start = await self._next(len(data)), self.covered
        task = self._begin(len(data), partial(self._send, number, data))
        self.parts.append(SentPart(number, start, start + len(data), task))

    async def copy(self, source: ObjectInfo, length: int) -> None:
        """Have the next bytes copied in the store: those at the same place of that version."""
        number, start = await self._next(0), self.covered
        task = self._begin(0, partial(self._copy, number, source, start, length))
        self.parts.append(SentPart(number, start, start + length, task))

    async def replace(self, sent: SentPart, data: Buffer) -> None:
        """Send a part again, after its first sending has ended. As for `part`."""
        await self._slot(len(data), after=sent.task)
        sent.is_stale = False
        sent.task = self._begin(len(data), partial(self._send, sent.number, data))

    def changed(self, start: int, end: int) -> None:
        """Bytes of this range have changed: parts that hold any of them are stale."""
        for sent in self.parts:
            if sent.start < end and start < sent.end:
                sent.is_stale = True

    def cut(self, size: int) -> None:
        """The file has become shorter: parts that reach beyond are dropped.

        Their numbers are not used again: what is on its way may still arrive.
        """
        while self.parts and self.parts[-1].end > size:
            self.parts.pop().task.cancel()
        if size < self.start:
            self.start = 0

    async def room(self) -> None:
        """Wait until one of the parts that are on their way has arrived; at once if none is."""
        if self._running:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    async def complete(
        self, *, if_none_match: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        """Wait for all parts and make the object visible.

        Raises:
            PreconditionFailedError: the key holds an object (if_none_match), or not this version.
            VolumeError: the first failure; the upload is still to be aborted, but if `tried` is
                set it may as well be completed again.

        """
        parts = self.tried if self.tried is not None else await self._arrived()
        if self._upload is None:
            raise RuntimeError("an upload without parts cannot be completed")
        try:
            return await self._upload.complete(
                parts, if_none_match=if_none_match, if_match=if_match
            )
        except VolumeError as exc:
            if exc.keeps_bytes or isinstance(exc, IntegrityError):
                self.tried = parts
            raise

    async def _arrived(self) -> list[Part]:
        parts = []
        for sent in self.parts:
            part = await asyncio.shield(sent.task)
            if isinstance(part, VolumeError):
                raise part
            parts.append(part)
        return parts

    def is_as_tried(self, size: int) -> bool:
        """Whether the file of this size is what `complete` was tried of."""
        numbers = [part.number for part in self.tried or ()]
        same = numbers == [sent.number for sent in self.parts]
        return same and self.covered == size and not any(sent.is_stale for sent in self.parts)

    async def made(self) -> ObjectInfo | None:
        """The object, if a `complete` whose answer was lost has made it and it is still there."""
        if self._upload is None or self.tried is None:
            return None
        return await self._upload.made(self.tried)

    async def abort(self) -> None:
        """Drop all that was sent. An upload being created is waited for, lest it be left."""
        async with self._creating:
            self.cancel()
        while self._running:
            await asyncio.wait(self._running)
        if self._upload is not None:
            await self._upload.abort()

    def cancel(self) -> None:
        """Stop sending; plain code. What the store has of it stays there."""
        for task in self._running:
            task.cancel()

    async def _next(self, held_bytes: int) -> int:
        await self._slot(held_bytes)
        if self._number >= MAX_PARTS:
            self._slots.release()
            self._budget.release(held_bytes)
            raise FileTooLargeError(
                f"{self.key}: more than {MAX_PARTS} parts",
                "give the volume a larger write-part-size",
            )
        self._number += 1
        return self._number

    async def _slot(
        self, held_bytes: int, *, after: "asyncio.Task[Part | VolumeError] | None" = None
    ) -> None:
        try:
            if after is not None:
                await asyncio.wait({after})
            await self._slots.acquire()
        except asyncio.CancelledError:
            self._budget.release(held_bytes)
            raise
        if self._failure is not None:
            self._slots.release()
            self._budget.release(held_bytes)
            raise self._failure

    def _begin(
        self, held_bytes: int, send: Callable[[], Awaitable[Part]]
    ) -> "asyncio.Task[Part | VolumeError]":
        async def sent() -> Part | VolumeError:
            result = await outcome(send)
            if isinstance(result, VolumeError):
                self._failure = self._failure or result
            else:
                self._progress()
            return result

        def ended(task: "asyncio.Task[Part | VolumeError]") -> None:
            self._running.discard(task)
            self._slots.release()
            self._budget.release(held_bytes)

        task = self._group.create_task(sent())
        self._running.add(task)
        task.add_done_callback(ended)
        return task

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
                    self._upload = await self._store.create_upload(self.key, like=self._like)
        return self._upload
