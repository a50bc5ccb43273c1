"""The bytes of a file being changed: a tail in memory, and all before it elsewhere.

The tail is the last bytes of the file. What is written in order fills it and leaves from there, as
parts of an upload or for the spool; a file that fits into it may be changed anywhere. Bytes before
it are where `MappedBytes` says; so a change costs what was changed, and not the file.
"""

import asyncio
from pathlib import Path

from csi_s3.errors import FileTooLargeError, OutOfMemoryError, SpoolFullError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.write.extents import Extents, Origin
from csi_s3.fs.write.mapped_bytes import MappedBytes
from csi_s3.fs.write.parallel_upload import largest_part_bytes
from csi_s3.fs.write.remote_object import RemoteObject
from csi_s3.fs.write.spool import Spool
from csi_s3.fs.write.spool_fetch import SpoolFetch
from csi_s3.s3.store import Buffer

# Memory is reserved as the tail grows: the first, then as much again, at most the second at once.
FIRST_GRANULE_BYTES, GRANULE_BYTES = 4 << 10, 256 << 10


class StagedFile:
    """Lifetime: as its `DirtyFile`; `close` gives memory and spool back.

    Concurrency: the file's lock orders changes; `read` may run beside them. While no task has the
    lock, the tail may have to give way to others that need memory: it goes to the spool.
    Cancellation: a cancelled call has changed nothing, or only where bytes are.

    Methods that put bytes in the spool raise SpoolFullError, and the bytes stay where they are.
    Methods that read the base raise StaleError if another client has replaced or removed it.

    mapped: the bytes before the tail.
    """

    __slots__ = ("_context", "_lock", "_remote", "_reserved", "mapped", "tail")

    def __init__(
        self, context: MountContext, remote: RemoteObject, spool: Spool, lock: asyncio.Lock
    ) -> None:
        """lock: the file's."""
        self.tail = bytearray()
        self._reserved = 0  # of the memory budget, for the tail
        self._remote, self._context, self._lock = remote, context, lock
        self.mapped = MappedBytes(context, remote, spool)

    @property
    def extents(self) -> Extents:
        """The map of the bytes before the tail."""
        return self.mapped.extents

    @property
    def fetch(self) -> SpoolFetch:
        """What brings bytes before the tail to the spool."""
        return SpoolFetch(self._context, self._remote, self.mapped)

    @property
    def size(self) -> int:
        """Of the file."""
        return self.mapped.extents.size + len(self.tail)

    @property
    def tail_start(self) -> int:
        return self.mapped.extents.size

    @property
    def is_in_memory(self) -> bool:
        """The whole file is the tail."""
        return self.mapped.extents.size == 0

    @property
    def _part_bytes(self) -> int:
        return self._context.config.write_part_bytes

    @property
    def _least_part_bytes(self) -> int:
        return self._context.store.limits.min_part_bytes

    def layout(self) -> Extents:
        """The map of the whole file; the tail counts as spooled."""
        whole = self.extents.copy()
        whole.put(whole.size, self.size, Origin.SPOOL)
        return whole

    # memory

    def try_append(self, offset: int, data: Buffer) -> bool:
        """Add bytes at the end, if they belong there and nothing is to be waited for."""
        start, tail_bytes = self.extents.size, len(self.tail)
        if offset != start + tail_bytes or tail_bytes + len(data) > self._part_bytes:
            return False
        if 0 < start < self._least_part_bytes and self.extents.has(Origin.BASE):
            return False  # the file may be brought into memory first
        if not self.try_reserve(len(data)):
            return False
        self.append(data)
        return True

    def _missing_for(self, n: int) -> int:
        """How much n more bytes of the tail take from the budget."""
        needed = len(self.tail) + n
        if needed <= self._reserved:
            return 0
        if needed >= GRANULE_BYTES:
            granules = -(-needed // GRANULE_BYTES)
            return granules * GRANULE_BYTES - self._reserved
        return max(FIRST_GRANULE_BYTES, 1 << (needed - 1).bit_length()) - self._reserved

    def try_reserve(self, n: int) -> bool:
        """Take the memory for n more bytes of the tail, if there is room."""
        missing, budget = self._missing_for(n), self._context.memory.buffers
        if missing:
            if not budget.has_room(missing):
                return False
            budget.take(missing)
            self._has_reserved(missing)
        return True

    async def reserve(self, n: int, *, until_stuck: bool = False) -> bool:
        """Wait for the memory for n more bytes of the tail. As `MemoryBudget.reserve`."""
        missing = self._missing_for(n)
        was_served = await self._context.memory.buffers.reserve(
            missing,
            within_s=self._context.progress_timeout.memory_within_s,
            progress=self._remote.progress,
            until_stuck=until_stuck,
        )
        if was_served:
            self._has_reserved(missing)
        return was_served

    def _has_reserved(self, n: int) -> None:
        self._reserved += n
        self._context.memory.buffers.holds(self)

    def give_way(self) -> bool:
        """Let the tail go to the spool, for a file that needs its memory; see `Holder`."""
        if self._lock.locked():
            return False
        self.spill()
        return True

    def append(self, data: Buffer) -> None:
        """Let the tail grow; the memory for it is reserved."""
        self.mapped.mark_changed()
        try:
            self.tail += data
        except BufferError:  # the view that an ended request has of it is not collected yet
            self.tail = self.tail + data

    def take_tail(self) -> bytearray:
        """Hand over the tail and its reserved memory; the spool keeps a copy if it has room."""
        start, end = self.tail_start, self.size
        try:
            self.mapped.put_in_spool(start, self.tail)
        except SpoolFullError:
            self.extents.put(start, end, Origin.SENT)
        tail, self.tail = self.tail, bytearray()
        budget, spare, self._reserved = (
            self._context.memory.buffers,
            self._reserved - len(tail),
            0,
        )
        budget.holds_nothing(self)
        budget.leave(len(tail))
        budget.release(spare)
        return tail

    def spill(self) -> None:
        """Move the tail to the spool."""
        self.mapped.put_in_spool(self.tail_start, self.tail)
        self._drop_tail()

    def append_to_spool(self, data: Buffer) -> None:
        """Let the file grow without memory: the tail and then these bytes go to the spool."""
        self.spill()
        self.mapped.put_in_spool(self.tail_start, data)

    def _drop_tail(self) -> None:
        self.tail = bytearray()  # a request may still have a view of the old one
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self._context.memory.buffers.holds_nothing(self)
            self._context.memory.buffers.release(reserved)

    # changes

    def overwrite(self, offset: int, data: memoryview) -> None:
        """Change bytes that are there, all of them before the file's end."""
        if not data:
            return
        end = offset + len(data)
        self.mapped.check_not_sent(offset, end)
        if self._remote.upload is not None:  # first: a full disk may take some of it
            self._remote.upload.mark_changed(offset, end)
        self.mapped.mark_changed()
        in_front = max(0, min(len(data), self.tail_start - offset))
        self.mapped.put_in_spool(offset, data[:in_front])
        if in_front < len(data):
            at = offset + in_front - self.tail_start
            self.tail[at : at + len(data) - in_front] = data[in_front:]

    async def grow(self, size: int) -> None:
        """Let zeros follow: in memory as long as the file fits one part, else as a hole."""
        zeros = size - self.size
        self._check_zeros(zeros)
        fits = self.is_in_memory and size <= self._part_bytes
        if fits and self.try_reserve(zeros):
            self.append(bytes(zeros))
            return
        self.mapped.mark_changed()
        if self.tail:
            self.spill()
        self.mapped.grow(size)

    def _check_zeros(self, n: int) -> None:
        largest = self._context.store.limits.max_parts * largest_part_bytes(
            self._context, self._part_bytes
        )
        if n > largest:
            raise FileTooLargeError(
                f"{self._remote.key}: a hole of {n} bytes, and holes are sent as zeros",
                f"at most {largest} bytes; a larger write-part-size or memory-target allows more",
            )

    async def zero(self, start: int, end: int) -> None:
        """Let a range that is there be zeros, which take neither memory nor spool.

        Raises:
            FileTooLargeError: they could not be sent.

        """
        self._check_zeros(end - start)
        await self.fetch.copied(start, end)
        self.mapped.check_not_sent(start, end)
        if self._remote.upload is not None:
            self._remote.upload.mark_changed(start, end)
        self.mapped.mark_changed()
        tail_start = self.tail_start
        if end > tail_start:
            first, last = max(0, start - tail_start), end - tail_start
            self.tail[first:last] = bytes(last - first)
        if start < tail_start:
            await self.mapped.zero(start, min(end, tail_start))

    def cut(self, size: int) -> int:
        """Make the file shorter; SpoolFullError if a part that has the only copy would be cut.

        Returns how much of the disk `give_back` gives back.
        """
        freed_bytes = 0
        upload = self._remote.upload
        part = None if upload is None else upload.part_across(size)
        if part is not None:
            self.mapped.check_not_sent(part.start, size)
        self.mapped.mark_changed()
        if size >= self.tail_start:
            self.tail = self.tail[: size - self.tail_start]  # as in `_drop_tail`, a new one
        else:
            freed_bytes = self.mapped.cut(size)
            self._drop_tail()
        if upload is not None:
            upload.cut(size)
        return freed_bytes

    async def give_back(self, n: int) -> None:
        """As `MappedBytes.give_back`, after a cut."""
        await self.mapped.give_back(n, behind=self.tail_start)

    async def load_small(self, *, is_append: bool) -> None:
        """Bring a small file into memory whole, before it is changed, if that is of use.

        Raises:
            OutOfMemoryError: no memory was free in time.

        """
        if not self._is_better_in_memory(is_append=is_append):
            return
        n, start = self.size, self.tail_start
        if not self.try_reserve(start):
            if self.mapped.has_spool:
                return  # it takes the change
            try:
                await self.reserve(start)
            except TimeoutError:
                raise OutOfMemoryError(
                    f"{self._remote.key}: the volume's memory for file contents is in use, and"
                    " there is no spool",
                    "give the volume a larger memory-target",
                ) from None
        data = bytearray(await self.read(0, n))
        self.mapped.reset()
        self.tail = data

    def _is_better_in_memory(self, *, is_append: bool) -> bool:
        is_copied = self.extents.has(Origin.BASE)
        if self.is_in_memory or self._remote.upload is not None or self.extents.has(Origin.SENT):
            return False
        if is_append and not is_copied:
            return False  # the tail grows; it is sent together with what the spool has
        is_copied = is_copied and (is_append or self.mapped.has_spool)
        return self.size <= (self._least_part_bytes - 1 if is_copied else self._part_bytes)

    def try_overwrite(self, offset: int, data: Buffer) -> bool:
        """Change bytes that are there, if nothing is to be waited for."""
        is_load = self._is_better_in_memory(is_append=False)
        if offset + len(data) > self.size or is_load or not self.mapped.has_room:
            return False
        if self.mapped.copies and self.mapped.copied_parts(offset, offset + len(data)):
            return False
        self.overwrite(offset, memoryview(data))
        return True

    def next_data(self, offset: int) -> int | None:
        """Where the first byte from an offset on is that is not in a hole; None: nowhere."""
        data = self.extents.next_but(Origin.ZERO, offset)
        if data is not None:
            return data.start
        return max(offset, self.tail_start) if offset < self.size and self.tail else None

    def next_hole(self, offset: int) -> int:
        """Where the first hole from an offset on begins: the last one is behind the end."""
        hole = self.extents.next_of(Origin.ZERO, offset)
        return self.size if hole is None else hole.start

    def mark_stored(self, size: int) -> None:
        """Take all bytes from the base, which has this size; a file in memory stays there."""
        if not self.is_in_memory:
            self._drop_tail()
        self.mapped.mark_stored(size)

    # reading

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file as it is now, cut at its end.

        Raises:
            UnsupportedError: some are only in parts of an upload.

        """
        at, end = offset, min(offset + length, self.size)
        pieces = []
        while at < end and (data := await self._read_some(at, end - at)):
            pieces.append(data)
            at += len(data)
            if at < end:
                await asyncio.sleep(0)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _read_some(self, offset: int, length: int) -> bytes:
        """As `read`; less, where that is of very many pieces."""
        end, start = min(offset + length, self.size), self.tail_start
        found, reached = self.mapped.find(offset, min(end, start))  # of one moment
        end = reached if reached < min(end, start) else end
        if end > start:
            with memoryview(self.tail) as tail:
                found.append(bytes(tail[max(0, offset - start) : end - start]))
        return b"".join([await self.mapped.fetch(f) for f in found])

    # the end

    def keep(self) -> Path:
        """Have all bytes that are only here in the spool, for the mount's next worker."""
        self.mapped.check_kept()
        self.spill()
        return self.mapped.keep()

    def reset(self) -> None:
        self._drop_tail()
        self.mapped.reset()

    def close(self) -> None:
        """Give memory and spool back; what is kept stays in the spool."""
        self._drop_tail()
        self.mapped.close()
