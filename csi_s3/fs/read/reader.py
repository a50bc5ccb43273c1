"""Reading one version of one object: the first bytes that came with open, a stream, or one range.

For a sequential reader, parts are requested ahead in parallel, in a window that grows with the
stream. A random read is exactly one GET of the range that was asked for. The kernel's own
read-ahead sends its requests slightly out of order, hence the slack. A cache of blocks would be an
`ObjectStore` in front of the bucket, below this module.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from csi_s3.errors import NotFoundError, StaleError, VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.outcome import outcome
from csi_s3.s3.store import Buffer, ObjectInfo

SLACK_BYTES = 2 << 20  # kept behind the reader; as far ahead is no jump
JUMP_BYTES = 128 << 10  # without a stream: the kernel's smallest read-ahead
FIRST_PART_BYTES = 1 << 20
MAX_WINDOW_BYTES = 64 << 20  # per handle: 8 parts of 8 MiB fill 312 MB/s at 25 ms and 90 MB/s each


def plan_window(
    head: int, end: int, *, stream_bytes: int, size: int, max_part: int
) -> Sequence[tuple[int, int]]:
    """The parts to ask for now, as (start, end): those between the window's head and its new end.

    The window reaches ahead of a reader that is at `end` by twice the bytes that it has streamed,
    up to MAX_WINDOW_BYTES, in about eight parts; it grows once there is room for a whole part.
    None where the reader has jumped ahead of the head: there is nothing to stream from yet.
    """
    if head + SLACK_BYTES < end:
        return ()
    ahead = min(2 * max(FIRST_PART_BYTES, stream_bytes), MAX_WINDOW_BYTES)
    part = min(max(FIRST_PART_BYTES, ahead // 8), max_part)
    starts = range(head, min(end + ahead - part, size), part)
    return [(start, min(start + part, size)) for start in starts]


@dataclass(slots=True, eq=False)
class PartRequest:
    start: int
    end: int
    task: "asyncio.Task[Buffer | VolumeError]"


class Reader:
    """Lifetime: open to release; `close` ends what is under way and gives memory back.

    Concurrency: `read` may run many times at once; the window changes only between awaits.
    Cancellation: a cancelled `read` leaves its part under way for the next one.
    """

    __slots__ = (
        "_budget",
        "_closed",
        "_expected",
        "_first",
        "_group",
        "_head",
        "_max_part",
        "_store",
        "_stream_start",
        "_window",
        "info",
    )

    def __init__(self, context: MountContext, info: ObjectInfo, *, first: Buffer = b"") -> None:
        """first: the object's first bytes, if they are here."""
        self.info = info
        self._store, self._budget, self._group = (
            context.store,
            context.memory.buffers,
            context.group,
        )
        self._first: Buffer = first if self._budget.try_reserve(len(first)) else b""
        self._max_part = context.config.read_part_bytes
        self._window: list[PartRequest] = []
        self._head = len(self._first)  # bytes up to here are in memory or requested
        self._expected = 0  # where a sequential reader reads next
        self._stream_start = 0
        self._closed = False

    async def read(self, offset: int, length: int) -> Sequence[Buffer]:
        """Bytes [offset, offset + length), cut at the end of the object, in pieces.

        Raises:
            StaleError, ObjectChangedError: this version is gone.
            VolumeError: what the store answered.

        """
        end = min(offset + length, self.info.size)
        if offset >= end:
            return ()
        if end <= len(self._first):
            if end > len(self._first) // 2 and self._is_next(offset):
                self._stream_from(end)
            self._expected = end
            return (memoryview(self._first)[offset:end],)
        if not self._is_next(offset) and not self._covers(offset, end):
            self._drop()
            self._expected = self._head = end
            self._stream_start = offset
            return (await self._fetch_now(offset, end),)
        if self._covers(offset, end) or self._expected > 0 or offset == 0:
            self._expected = max(self._expected, end)
            self._stream_from(end)
        return await self._collect(offset, end)

    def close(self) -> None:
        self._closed = True
        self._drop()
        self._budget.release(len(self._first))
        self._first = b""

    def _is_next(self, offset: int) -> bool:
        slack = SLACK_BYTES if self._window else JUMP_BYTES
        return self._expected - slack <= offset <= self._expected + slack

    def _covers(self, offset: int, end: int) -> bool:
        """Whether all of it is in memory or requested."""
        at = max(offset, len(self._first))
        for request in self._window:
            if request.start <= at < request.end:
                at = request.end
        return at >= end

    def _stream_from(self, end: int) -> None:
        """Request parts from the window's head to beyond end."""
        self._trim()
        if self._closed:
            return
        for start, stop in plan_window(
            self._head,
            end,
            stream_bytes=end - self._stream_start,
            size=self.info.size,
            max_part=self._max_part,
        ):
            if not self._budget.try_reserve(stop - start):
                self._head = max(start, end)  # only what the kernel waits for is fetched
                return
            task = self._group.create_task(outcome(partial(self._fetch, start, stop)))
            self._window.append(PartRequest(start, stop, task))
            self._head = stop

    def _trim(self) -> None:
        keep_from = self._expected - SLACK_BYTES
        while self._window and self._window[0].end <= keep_from:
            self._discard(self._window.pop(0))

    def _drop(self) -> None:
        while self._window:
            self._discard(self._window.pop())

    def _discard(self, request: PartRequest) -> None:
        request.task.cancel()
        self._budget.release(request.end - request.start)

    async def _collect(self, offset: int, end: int) -> Sequence[Buffer]:
        """The answer, from the first bytes, the window, and GETs for any gap."""
        pieces: list[Buffer] = []
        at = offset
        while at < end:
            if at < len(self._first):
                piece: Buffer = memoryview(self._first)[at:end]
            else:
                piece = await self._piece(at, end)
            pieces.append(piece)
            at += len(piece)
        return pieces

    async def _piece(self, at: int, end: int) -> Buffer:
        request = next((f for f in self._window if f.start <= at < f.end), None)
        if request is None:
            ahead = [f.start for f in self._window if at < f.start < end]
            return await self._fetch_now(at, min([end, *ahead]))
        try:
            data = await asyncio.shield(request.task)
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if not request.task.cancelled() or (task is not None and task.cancelling()):
                raise  # this read was cancelled, not the part
            if self._closed:
                raise StaleError(f"{self.info.key}: closed while it was read") from exc
            return await self._fetch_now(at, end)  # discarded by a jump of another reader
        if isinstance(data, VolumeError):
            if request in self._window:
                self._window.remove(request)
                self._budget.release(request.end - request.start)
            raise data.again()
        return memoryview(data)[at - request.start : min(end, request.end) - request.start]

    async def _fetch_now(self, start: int, end: int) -> Buffer:
        """Fetch what the kernel waits for: it counts in the budget but never waits for it."""
        self._budget.take(end - start)
        try:
            return await self._fetch(start, end)
        finally:
            self._budget.release(end - start)

    async def _fetch(self, start: int, end: int) -> Buffer:
        try:
            chunk = await self._store.read_range(
                self.info.key, start, end - start, etag=self.info.etag
            )
        except NotFoundError as exc:
            raise StaleError(f"{self.info.key}: deleted while open") from exc
        if len(chunk.data) != end - start:
            raise StaleError(f"{self.info.key}: shorter than when it was opened")
        return chunk.data
