"""The one multipart upload of a file: numbers its parts, sends them in parallel, ends it.

Bytes given to it are `leaving`: they count in the memory budget until their part is in the store.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from csi_s3.errors import FileTooLargeError, IntegrityError, ObjectChangedError, VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.outcome import outcome
from csi_s3.fs.write.upload_plan import Piece, copy_part_bytes, cut_piece
from csi_s3.s3.store import Buffer, ObjectInfo, Part, Upload

PARALLEL_PARTS = 16
GROW_EVERY_PARTS = 1000  # the part size doubles, so that 10,000 parts of 8 MiB hold 4 TiB
LARGEST_SHARE = 8  # of the memory budget: the largest part that is sent
COPIED_PART_BYTES = 64 << 20  # of another object: so much is fetched where a byte of it changes
SPARE_NUMBERS = 500  # of parts, for what may yet change in an edited file's beginning
PART_BYTES = 1100  # of one that has arrived; measured with tracemalloc, 100 and 1,000 parts

PartTask = asyncio.Task[Part | VolumeError]


@dataclass(slots=True, eq=False)
class SentPart:
    """A range of the file that is in the upload, or on its way there, under this number.

    is_stale: bytes of it have changed since: it is to be sent again.
    """

    number: int
    start: int
    end: int
    task: PartTask
    is_stale: bool = False


@dataclass(slots=True, eq=False)
class PartRun:
    """Parts without gaps from `start` on, in the file's order.

    last: the number that was used last, max_number the last that may be. None is used again: what
        is on its way under one may still arrive.
    """

    start: int
    last: int
    max_number: int
    parts: list[SentPart] = field(default_factory=list)

    @property
    def covered(self) -> int:
        return self.parts[-1].end if self.parts else self.start

    def add(self, length: int, task: PartTask) -> None:
        self.last += 1
        self.add_numbered(self.last, length, task)

    def add_numbered(self, number: int, length: int, task: PartTask) -> None:
        """Add a part whose number was taken before."""
        self.parts.append(SentPart(number, self.covered, self.covered + length, task))

    def split(self, sent: SentPart, pieces: Sequence[Piece]) -> list[SentPart]:
        """Stale parts in place of one, if there are numbers for them behind it; else that one."""
        at = bisect_right(self.parts, sent.start, key=lambda part: part.end)
        end = self.parts[at + 1].number if at + 1 < len(self.parts) else self.last + 1
        if not 1 < len(pieces) <= end - sent.number:
            return [sent]
        parts = [
            SentPart(sent.number + n, piece.start, piece.end, sent.task, is_stale=True)
            for n, piece in enumerate(pieces)
        ]
        self.parts[at : at + 1] = parts
        return parts

    def within(self, start: int, end: int) -> Iterator[SentPart]:
        """The parts that have bytes of a range."""
        at = bisect_right(self.parts, start, key=lambda sent: sent.end)
        while at < len(self.parts) and self.parts[at].start < end:
            yield self.parts[at]
            at += 1

    def cut(self, size: int) -> list[PartTask]:
        """Drop parts that reach beyond size; returns their tasks."""
        tasks = []
        while self.parts and self.parts[-1].end > size:
            tasks.append(self.parts.pop().task)
        return tasks


class ParallelUpload:
    """Lifetime: from its first part until `complete` succeeds, else to `abort`.

    Concurrency: one owner calls; parts run in the group as tasks that return their failure.
    The first failure is final: `arrived` and later parts raise it.

    body: the parts from `start` on, sent while the file is written. head: those before `start`,
        sent last: an edit's unchanged beginning, which is copied when it is sure to be unchanged.
        Part numbers are reserved for it.
    tried: the parts of a `complete` that got no answer; the next `complete` is of these again.
    """

    def __init__(
        self,
        context: MountContext,
        key: str,
        *,
        part_bytes: int,
        like: ObjectInfo | None = None,
        start: int = 0,
        progress: Callable[[], None] | None = None,
    ) -> None:
        """progress: is called when a part has arrived; None: as a rename's."""
        max_parts = context.store.limits.max_parts
        copies = -(-start // copy_part_bytes(start, context.store.limits))
        reserved = min(copies + SPARE_NUMBERS, max_parts // 2) if start else 0
        self.key = key
        self.head = PartRun(0, last=0, max_number=reserved)
        self.body = PartRun(start, last=reserved, max_number=max_parts)
        self.tried: list[Part] | None = None
        self._store, self._budget, self._group = (
            context.store,
            context.memory.buffers,
            context.group,
        )
        self._progress = progress or context.progress_timeout.made_progress
        self._part_bytes, self._largest_bytes = part_bytes, largest_part_bytes(context, part_bytes)
        self._like = like
        self._upload: Upload | None = None
        self._running: set[PartTask] = set()
        self._slots = asyncio.Semaphore(PARALLEL_PARTS)
        self._creating = asyncio.Lock()
        self._failure: VolumeError | None = None

    @property
    def parts(self) -> list[SentPart]:
        """All, in the file's order."""
        return [*self.head.parts, *self.body.parts]

    @property
    def n_parts(self) -> int:
        return len(self.head.parts) + len(self.body.parts)

    @property
    def has_gap(self) -> bool:
        """Whether bytes before the body are still to be sent."""
        return self.head.covered < self.body.start

    def part_bytes(self, run: PartRun) -> int:
        """The size of the next part: it grows with the file, but not beyond a share of memory."""
        return min(self._part_bytes << (run.last // GROW_EVERY_PARTS), self._largest_bytes)

    async def part(self, run: PartRun, data: Buffer) -> None:
        """Send the next bytes of a run; returns when their request is under way.

        Their share of the budget is released in any case.
        """
        await self._slot(len(data), run=run)
        number = run.last + 1
        run.add(len(data), self._begin(len(data), lambda upload: upload.part(number, data)))

    async def copy(self, run: PartRun, source: ObjectInfo, length: int) -> None:
        """Copy the next bytes inside the store, from the same offset of that version."""
        await self._slot(0, run=run)
        number, start = run.last + 1, run.covered
        task = self._begin(0, lambda upload: upload.part_from(number, source, start, length))
        run.add(length, task)

    async def copy_range(
        self, source: ObjectInfo, start: int, length: int
    ) -> tuple[int, VolumeError | None]:
        """Copy bytes of another object, as the next parts of the body, and wait until they are in.

        Returns how many are, and the first failure, which is not final. Each part takes as many
        numbers as if its bytes were sent, so that they can be, if they change. Not every store
        compares the source's ETag, so it is looked at once more.
        """
        run, limits, part_bytes = self.body, self._store.limits, self.part_bytes(self.body)
        largest = min(COPIED_PART_BYTES, limits.max_copy_part_bytes)
        begun: list[tuple[int, int, PartTask]] = []
        for piece in cut_piece(Piece(start, start + length, is_copy=True), largest, limits):
            number = run.last + 1
            if run.last + -(-piece.size // part_bytes) > run.max_number:
                break
            run.last += -(-piece.size // part_bytes)
            await self._slot(0)
            copy = partial(_copy_part, number, source, piece)
            begun.append((number, piece.size, self._begin(0, copy, is_final=False)))
        if begun:
            await asyncio.wait([task for *_, task in begun])
        checked = await outcome(partial(self._store.head, source.key))
        if isinstance(checked, VolumeError):
            return 0, checked.again()
        if checked.etag != source.etag:
            return 0, ObjectChangedError(f"{source.key!r} is no longer {source.etag}")
        copied = 0
        for number, size, task in begun:
            result = task.result()
            if isinstance(result, VolumeError):
                return copied, result.again()
            run.add_numbered(number, size, task)
            copied += size
        return copied, None

    def split(self, sent: SentPart) -> list[SentPart]:
        """A stale part in pieces of the usual size, where it is larger and numbers are free."""
        run = self.head if sent.end <= self.head.covered else self.body
        piece = Piece(sent.start, sent.end, is_copy=False)
        return run.split(sent, cut_piece(piece, self.part_bytes(run), self._store.limits))

    async def replace(self, sent: SentPart, data: Buffer) -> None:
        """Send a part again, after its first sending has ended. As for `part`."""
        await self._slot(len(data), after=sent.task)
        sent.is_stale = False
        sent.task = self._begin(len(data), lambda upload: upload.part(sent.number, data))

    def mark_changed(self, start: int, end: int) -> None:
        for run in (self.head, self.body):
            for sent in run.within(start, end):
                sent.is_stale = True

    def part_across(self, offset: int) -> SentPart | None:
        """The part that has bytes on both sides of an offset."""
        for run in (self.head, self.body):
            for sent in run.within(offset, offset + 1):
                if sent.start < offset:
                    return sent
        return None

    def cut(self, size: int) -> None:
        """Drop parts that reach beyond the file's new end."""
        tasks = [*self.body.cut(size), *self.head.cut(size)]
        for task in () if self._creating.locked() else tasks:  # `abort` needs the upload's id
            task.cancel()
        if size < self.body.start:
            self.body.start = self.head.covered

    async def complete(
        self, *, if_none_match: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        """Make the object visible, once all parts have arrived.

        Raises:
            PreconditionFailedError: the key holds an object (if_none_match), or not this version.
            VolumeError: the first failure; the upload is still to be aborted, but if `tried` is
                set it may as well be completed again.

        """
        parts = self.tried if self.tried is not None else await self.arrived()
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

    async def arrived(self) -> list[Part]:
        """Wait for all parts; raises the first failure."""
        parts = []
        for sent in self.parts:
            part = await asyncio.shield(sent.task)
            if isinstance(part, VolumeError):
                raise part.again()
            parts.append(part)
        return parts

    def is_whole(self, size: int) -> bool:
        """Whether the object that `complete` makes is the file, which has this size now."""
        parts = self.parts
        if self.tried is not None and [p.number for p in self.tried] != [p.number for p in parts]:
            return False
        return not self.has_gap and self.body.covered == size and not any(p.is_stale for p in parts)

    async def made(self) -> ObjectInfo | None:
        """The object, if a `complete` whose answer was lost has made it and it is still there."""
        if self._upload is None or self.tried is None:
            return None
        return await self._upload.made(self.tried)

    async def abort(self) -> None:
        """Drop all that was sent, also of an upload that is being created."""
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

    async def _slot(
        self, held_bytes: int, *, run: PartRun | None = None, after: PartTask | None = None
    ) -> None:
        """Wait until a part may be sent; if none may be, the memory that it holds is given back."""
        try:
            if after is not None:
                await asyncio.wait({after})
            await self._slots.acquire()
            if self._failure is not None:
                self._slots.release()
                raise self._failure.again()
            if run is not None and run.last >= run.max_number:
                self._slots.release()
                raise FileTooLargeError(
                    f"{self.key}: more than {self.body.max_number} parts",
                    "give the volume a larger write-part-size",
                )
        except (asyncio.CancelledError, VolumeError):
            self._budget.left(held_bytes)
            raise

    def _begin(
        self,
        held_bytes: int,
        send: Callable[[Upload], Awaitable[Part]],
        *,
        is_final: bool = True,
    ) -> PartTask:
        """is_final: the upload cannot do without this part."""

        async def part() -> Part:
            return await send(await self._opened())

        async def sent() -> Part | VolumeError:
            result = await outcome(part)
            if isinstance(result, VolumeError):
                if is_final:
                    self._failure = self._failure or result
            else:
                self._progress()
            return result

        def ended(task: PartTask) -> None:
            self._running.discard(task)
            self._slots.release()
            self._budget.left(held_bytes)

        task = self._group.create_task(sent())
        self._running.add(task)
        task.add_done_callback(ended)
        return task

    async def _opened(self) -> Upload:
        """The upload, created by the first part that needs it; the others wait for that one."""
        if self._upload is None:
            async with self._creating:
                if self._upload is None:
                    self._upload = await self._store.create_upload(self.key, like=self._like)
        return self._upload


async def _copy_part(number: int, source: ObjectInfo, piece: Piece, upload: Upload) -> Part:
    return await upload.part_from(number, source, piece.start, piece.size)


def largest_part_bytes(context: MountContext, part_bytes: int) -> int:
    """How large parts become as a file grows."""
    return max(part_bytes, context.memory.buffers.total_bytes // LARGEST_SHARE)
