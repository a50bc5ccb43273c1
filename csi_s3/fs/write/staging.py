"""The bytes of a file being changed: a tail in memory, and a map of where all before it are.

The tail is the last bytes of the file. What is written in order fills it and leaves from there, as
parts of an upload or for the spool; a file that fits into it may be changed anywhere. Bytes before
it are those of the stored version (`RemoteObject.base`), of the spool's file, or zeros; so a change
costs what was changed, and not the file.
"""

import asyncio
from pathlib import Path

from csi_s3.errors import (
    FileTooLargeError,
    NotFoundError,
    ObjectChangedError,
    OutOfMemoryError,
    SpoolFullError,
    StaleError,
    UnsupportedError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.write.copied_ranges import NO_COPIES, RANGE_BYTES, CopiedRange, CopiedRanges
from csi_s3.fs.write.extents import EXTENT_BYTES, STEP_EXTENTS, Extent, Extents, Origin
from csi_s3.fs.write.parallel_upload import SentPart, largest_part_bytes
from csi_s3.fs.write.remote_object import RemoteObject
from csi_s3.fs.write.spool import Spool, SpoolFile
from csi_s3.fs.write.spool_description import Description
from csi_s3.s3.store import Buffer, ObjectInfo

# Memory is reserved as the tail grows: the first, then as much again, at most the second at once.
FIRST_GRANULE_BYTES, GRANULE_BYTES = 4 << 10, 256 << 10
COPY_BYTES = 1 << 20  # read from the base at a time, when its bytes are brought here
MOST_EXTENTS = 100_000  # of a file; more are joined, see `StagedFile.make_map_room`
JOINED_SHARE = 16  # of them: as many fewer there are then
COUNTED_EXTENTS = 64  # the memory of a map is counted in such steps


class StagedFile:
    """Lifetime: as its `DirtyFile`; `close` gives memory and spool back.

    Concurrency: the file's lock orders changes; `read` may run beside them. While no task has the
    lock, the tail may have to give way to others that need memory: it goes to the spool.
    Cancellation: a cancelled call has changed nothing, or only where bytes are.

    Methods that put bytes in the spool raise SpoolFullError, and the bytes stay where they are.
    Methods that read the base raise StaleError if another client has replaced or removed it.
    """

    __slots__ = (
        "_context",
        "_counted",
        "_file",
        "_is_unlinked",
        "_lock",
        "_remote",
        "_reserved",
        "_spool",
        "copies",
        "extents",
        "tail",
    )

    def __init__(
        self, context: MountContext, remote: RemoteObject, spool: Spool, lock: asyncio.Lock
    ) -> None:
        """lock: the file's."""
        self.tail = bytearray()
        self._reserved = 0  # of the memory budget, for the tail
        self.extents = Extents()  # from 0 to where the tail starts
        self._counted = 0  # so many of them; below 0: closed
        self.copies = NO_COPIES  # where bytes are that are only in parts
        self._remote, self._spool, self._context, self._lock = remote, spool, context, lock
        self._file: SpoolFile | None = None
        self._is_unlinked = False  # no other process may find it
        if remote.base is not None:
            self.extents.put(0, remote.base.size, Origin.BASE)

    @property
    def size(self) -> int:
        """Of the file."""
        return self.extents.size + len(self.tail)

    @property
    def tail_start(self) -> int:
        return self.extents.size

    @property
    def is_in_memory(self) -> bool:
        """The whole file is the tail."""
        return self.extents.size == 0

    @property
    def is_kept(self) -> bool:
        """The spool has it for the mount's next worker, as it is now; see `keep`."""
        return self._file is not None and self._file.description.is_whole

    @property
    def has_lost_bytes(self) -> bool:
        """Bytes were in parts of an upload alone, and the upload is gone."""
        is_sent = self._remote.upload is None and self.extents.has(Origin.SENT)
        return is_sent and not self.copies.has_all(self.extents)

    @property
    def _part_bytes(self) -> int:
        return self._context.config.write_part_bytes

    @property
    def _least_part_bytes(self) -> int:
        return self._context.store.limits.min_part_bytes

    @property
    def part_bytes(self) -> int:
        """How long the tail may become before it leaves."""
        upload = self._remote.upload
        return self._part_bytes if upload is None else upload.part_bytes(upload.body)

    @property
    def part_start(self) -> int | None:
        """Where the next part can begin: the spool has all from there to the tail, if not the tail.

        None: the file cannot be sent in order. Parts are sent when it is stored.
        """
        upload, start, end = self._remote.upload, 0, self.tail_start
        if upload is not None:
            start = upload.body.covered
            if upload.tried is not None or start > end:
                return None
        elif end > 0:
            base = self.extents.next_of(Origin.BASE, 0)
            if base is not None and base.start == 0:
                start = base.end
                if start < self._least_part_bytes:
                    return None
        is_whole = start == end or self.extents.next_of(Origin.SPOOL, start) == (
            start,
            end,
            Origin.SPOOL,
        )
        return start if is_whole else None

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
        self._mark_changed()
        try:
            self.tail += data
        except BufferError:  # the view that an ended request has of it is not collected yet
            self.tail = self.tail + data

    def take_tail(self) -> bytearray:
        """Hand over the tail and its reserved memory; the spool keeps a copy if it has room."""
        start, end = self.tail_start, self.size
        try:
            self._put_in_spool(start, self.tail)
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
        self._put_in_spool(self.tail_start, self.tail)
        self._drop_tail()

    def append_to_spool(self, data: Buffer) -> None:
        """Let the file grow without memory: the tail and then these bytes go to the spool."""
        self.spill()
        self._put_in_spool(self.tail_start, data)

    def _drop_tail(self) -> None:
        self.tail = bytearray()  # a request may still have a view of the old one
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self._context.memory.buffers.holds_nothing(self)
            self._context.memory.buffers.release(reserved)

    def _put_in_spool(self, start: int, data: Buffer) -> None:
        if not data:
            return
        end = start + len(data)
        self._mark_changed()
        if self._file is None:
            self._file = self._new_file()
        self._file.write(start, data, self.extents)
        self.extents.put(start, end, Origin.SPOOL)
        self._count_extents()

    def _new_file(self) -> SpoolFile:
        file = self._spool.create(self._remote.key)
        if self._is_unlinked:
            file.unlink()
        return file

    # the map

    def _count_extents(self) -> None:
        """Count what has become of the map, in steps; the first extent is in the file's record."""
        if self._counted < 0:
            return  # closed
        n = max(0, len(self.extents) - 1)
        more = -(-n // COUNTED_EXTENTS) * COUNTED_EXTENTS - self._counted
        if more:
            self._counted += more
            self._context.memory.account(MemoryKind.DIRTY_FILES).add(more * EXTENT_BYTES)

    @property
    def has_map_room(self) -> bool:
        """Whether a change anywhere fits the map."""
        n = len(self.extents) + 2
        if n <= self._counted:
            return True
        free_bytes = self._context.memory.account(MemoryKind.DIRTY_FILES).free_bytes
        return n <= MOST_EXTENTS and free_bytes >= COUNTED_EXTENTS * EXTENT_BYTES

    async def make_map_room(self) -> None:
        """Have room in the map for one more change: what is between changes goes to the spool.

        The smallest gaps go first. They would have to be read and sent in any case.

        Raises:
            OutOfMemoryError: the volume's memory for such maps is in use.

        """
        if self.has_map_room:
            return
        for start, end in await self._smallest_gaps(max(2, len(self.extents) // JOINED_SHARE)):
            at = start
            while at < end:
                data = await self.read(at, min(end - at, COPY_BYTES))
                self._put_in_spool(at, data)
                at += len(data)
            await asyncio.sleep(0)
            self._remote.progress.made()
        if not self.has_map_room:
            raise OutOfMemoryError(
                f"{self._remote.key}: the volume's memory for maps of changed files is in use",
                "close files that are being changed, or give the volume a larger memory-target",
            )

    async def _smallest_gaps(self, most: int) -> list[tuple[int, int]]:
        """Up to so many extents that lie between two of the spool, in their order."""
        gaps: list[tuple[int, int]] = []
        at, end = 0, self.tail_start
        while at < end:
            some = self.extents.within(at, end, most=STEP_EXTENTS)
            gaps += [(e.start, e.end) for e in some if e.origin in (Origin.BASE, Origin.ZERO)]
            at = some[-1].end
            await asyncio.sleep(0)
        inner = [g for g in gaps if g[0] > 0 and g[1] < end]
        if not inner:
            return []
        sizes = sorted(g[1] - g[0] for g in inner)
        largest = sizes[min(most, len(sizes)) - 1]
        return [g for g in inner if g[1] - g[0] <= largest][:most]

    # what was copied from other objects

    def stored_range(self, start: int, length: int) -> tuple[ObjectInfo, int] | None:
        """The stored version that has the byte at start, and how many bytes from there.

        None: the store does not have it, or not as a part of an object.
        """
        found = self.extents.within(start, start + length, most=1)
        base = self._remote.base
        if base is None or not found or found[0].origin is not Origin.BASE:
            return None
        return base, found[0].size

    def missing_for_copy(self) -> int | None:
        """How many bytes must follow before a copy may: what is before it must be a part.

        None: no copy can follow.
        """
        start, size = self.part_start, self.size
        if start is None or self.tail_start - start > self.part_bytes or self.copies.is_full:
            return None
        return 0 if start == size else max(0, self._least_part_bytes - (size - start))

    def add_copied(self, source: ObjectInfo, start: int, n: int) -> None:
        """Let n bytes of a source follow, which are in the upload; nothing is in the tail."""
        self._mark_changed()
        at = self.tail_start
        self.extents.put(at, at + n, Origin.SENT)
        self._set_copies(self.copies.added(CopiedRange(at, at + n, source, start)))
        self._count_extents()

    def _set_copies(self, copies: CopiedRanges) -> None:
        more = len(copies.ranges) - len(self.copies.ranges)
        self.copies = copies
        if more:
            self._context.memory.account(MemoryKind.DIRTY_FILES).add(more * RANGE_BYTES)

    def _copied_parts(self, start: int, end: int) -> list[SentPart]:
        """The parts of the upload that were copied, of a range, and are not here."""
        upload = self._remote.upload
        if not self.copies or upload is None:
            return []
        return [
            p
            for p in (*upload.head.within(start, end), *upload.body.within(start, end))
            if self.extents.count_within(p.start, p.end, Origin.SENT)
            and self.copies.covering(p.start, p.end)
        ]

    async def fetch_copied(self, start: int, end: int) -> None:
        """Bring bytes that were copied inside S3 to the spool before some of a range change.

        Their part is to be sent then, so it must be here whole.

        Raises:
            SpoolFullError: there is no room, or the source is not what it was.

        """
        for part in self._copied_parts(start, end):
            await self._fetch(part.start, part.end)

    async def fetch_copied_before(self, size: int) -> None:
        """As `fetch_copied`, before the file is cut within a part."""
        for part in self._copied_parts(size, size + 1):
            await self._fetch(part.start, min(part.end, size))

    async def _fetch(self, start: int, end: int) -> None:
        for e in self.extents.within(start, end):
            at = e.start
            while e.origin is Origin.SENT and at < e.end:
                try:
                    data = await self.read(at, min(e.end - at, COPY_BYTES))
                except StaleError as exc:
                    raise SpoolFullError(
                        f"{self._remote.key}: a change of bytes that were copied inside S3, and"
                        " what they were copied from has changed",
                        "close the file first",
                    ) from exc
                self._put_in_spool(at, data)
                at += len(data)
                self._remote.progress.made()

    async def _read_copied(self, copied: CopiedRange) -> Buffer:
        """Read from the source, as long as it is what it was."""
        budget, source = self._context.memory.buffers, copied.source
        budget.take(copied.size)
        try:
            chunk = await self._context.store.read_range(
                source.key, copied.source_start, copied.size, etag=source.etag
            )
        except (NotFoundError, ObjectChangedError) as exc:
            raise StaleError(
                f"{self._remote.key}: {source.key}, from which it was copied, has changed",
                "bytes of it can be read once the file is stored",
            ) from exc
        finally:
            budget.release(copied.size)
        return chunk.data

    # changes

    def _mark_changed(self) -> None:
        """Note that the copy for the next worker is out of date, if there is one."""
        if self._file is not None and self._file.description.is_whole:
            self._file.describe(Description(key=self._remote.key))

    def overwrite(self, offset: int, data: memoryview) -> None:
        """Change bytes that are there, all of them before the file's end."""
        if not data:
            return
        end = offset + len(data)
        self._check_not_sent(offset, end)
        if self._remote.upload is not None:  # first: a full disk may take some of it
            self._remote.upload.mark_changed(offset, end)
        self._mark_changed()
        in_front = max(0, min(len(data), self.tail_start - offset))
        self._put_in_spool(offset, data[:in_front])
        if in_front < len(data):
            at = offset + in_front - self.tail_start
            self.tail[at : at + len(data) - in_front] = data[in_front:]

    def _check_not_sent(self, start: int, end: int) -> None:
        """Bytes that are in parts only cannot be sent again in another part."""
        if self._remote.upload is None or not self.extents.has(Origin.SENT):
            return
        if self.extents.count_within(start, end, Origin.SENT):
            raise SpoolFullError(
                f"{self._remote.key}: a change of bytes that are only in parts of an upload",
                "give the volume a larger spool-size",
            )

    async def grow(self, size: int) -> None:
        """Let zeros follow: in memory as long as the file fits one part, else as a hole."""
        zeros = size - self.size
        self._check_zeros(zeros)
        fits = self.is_in_memory and size <= self._part_bytes
        if fits and self.try_reserve(zeros):
            self.append(bytes(zeros))
            return
        self._mark_changed()
        if self.tail:
            self.spill()
        self.extents.put(self.tail_start, size, Origin.ZERO)
        self._count_extents()

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
        await self.fetch_copied(start, end)
        self._check_not_sent(start, end)
        if self._remote.upload is not None:
            self._remote.upload.mark_changed(start, end)
        self._mark_changed()
        tail_start = self.tail_start
        if end > tail_start:
            first, last = max(0, start - tail_start), end - tail_start
            self.tail[first:last] = bytes(last - first)
        if start < tail_start:
            await self._zero_mapped(start, min(end, tail_start))

    async def _zero_mapped(self, start: int, end: int) -> None:
        """As `zero`, before the tail; other tasks get their turn where there are many extents."""
        file, freed_bytes, at = self._file, 0, start
        while at < end:
            upto = self.extents.within(at, end, most=STEP_EXTENTS)[-1].end
            if file is not None:
                freed_bytes += file.punched_bytes(at, upto, self.extents)
            self.extents.put(at, upto, Origin.ZERO)
            at = upto
            if at < end:
                await asyncio.sleep(0)
        self._count_extents()
        if file is None or not freed_bytes:
            return
        is_freed = await file.punch(start, end, self.extents)
        if is_freed and self._file is file:
            file.freed(freed_bytes)

    def cut(self, size: int) -> int:
        """Make the file shorter; SpoolFullError if a part that has the only copy would be cut.

        Returns how much of the disk `give_back` gives back.
        """
        freed_bytes = 0
        upload = self._remote.upload
        part = None if upload is None else upload.part_across(size)
        if part is not None:
            self._check_not_sent(part.start, size)
        self._mark_changed()
        if size >= self.tail_start:
            self.tail = self.tail[: size - self.tail_start]  # as in `_drop_tail`, a new one
        else:
            if self._file is not None:
                freed_bytes = self._file.cut_bytes(size, self.extents)
            self._drop_tail()
            self.extents.truncate(size)
            self._set_copies(self.copies.cut(size))
            self._count_extents()
        if upload is not None:
            upload.cut(size)
        return freed_bytes

    async def give_back(self, n: int) -> None:
        """Give back what was cut, which is n bytes of the disk; others get their turns.

        If it is cancelled, or the disk refuses, they are counted until the spool's file is closed.
        """
        file = self._file
        if file is not None and n and await file.cut(self.tail_start) and self._file is file:
            file.freed(n)

    async def load_small(self, *, is_append: bool) -> None:
        """Bring a small file into memory whole, before it is changed, if that is of use.

        Raises as `MemoryBudget.reserve`.
        """
        if not self._is_better_in_memory(is_append=is_append):
            return
        n, start = self.size, self.tail_start
        if not self.try_reserve(start):
            if self._spool.is_there:
                return  # it takes the change
            await self.reserve(start)
        data = bytearray(await self.read(0, n))
        self.extents.truncate(0)
        self._count_extents()
        self._close_file()
        self.tail = data

    def _is_better_in_memory(self, *, is_append: bool) -> bool:
        is_copied = self.extents.has(Origin.BASE)
        if self.is_in_memory or self._remote.upload is not None or self.extents.has(Origin.SENT):
            return False
        if is_append and not is_copied:
            return False  # the tail grows; it is sent together with what the spool has
        is_copied = is_copied and (is_append or self._spool.is_there)
        return self.size <= (self._least_part_bytes - 1 if is_copied else self._part_bytes)

    def try_overwrite(self, offset: int, data: Buffer) -> bool:
        """Change bytes that are there, if nothing is to be waited for."""
        is_load = self._is_better_in_memory(is_append=False)
        if offset + len(data) > self.size or is_load or not self.has_map_room:
            return False
        if self.copies and self._copied_parts(offset, offset + len(data)):
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

    async def localise(self, limit_bytes: int) -> None:
        """Copy what only S3 has to the spool, up to limit_bytes, before the object is deleted."""
        copied = sum(r.size for r in self.copies.ranges)
        if self.extents.count(Origin.BASE) + copied > limit_bytes:
            raise SpoolFullError(
                f"{self._remote.key}: more than {limit_bytes} bytes are in S3 only",
                "raise unlinked-open-limit",
            )
        at = 0
        while (e := self.extents.next_of(Origin.BASE, at)) is not None:
            data = await self._remote.read(e.start, min(e.size, COPY_BYTES))
            self._put_in_spool(e.start, data)
            at = e.start + len(data)
            self._context.progress_timeout.made_progress()
        for r in self.copies.ranges:
            await self._fetch(r.start, r.end)

    def mark_stored(self, size: int) -> None:
        """Take all bytes from the base, which has this size; a file in memory stays there."""
        self._close_file()
        self._set_copies(NO_COPIES)
        if not self.is_in_memory:
            self._drop_tail()
            self.extents.truncate(0)
            self.extents.put(0, size, Origin.BASE)
            self._count_extents()

    def mark_sent_stored(self) -> None:
        """Take bytes that were only in the upload from the base, which it has made."""
        self.extents.replace(Origin.SENT, Origin.BASE)
        self._set_copies(NO_COPIES)

    def _close_file(self, *, keep: bool = False) -> None:
        if self._file is not None:
            self._file.close(keep=keep)
            self._file = None

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
        pieces: list[Buffer | Extent | CopiedRange] = []  # of one moment; what is in S3 follows
        some = self.extents.within(offset, min(end, start), most=STEP_EXTENTS)
        if some and some[-1].end < min(end, start):
            end = some[-1].end
        for e in some:
            if e.origin is Origin.BASE:
                pieces.append(e)
            elif e.origin is Origin.ZERO:
                pieces.append(bytes(e.size))
            elif e.origin is Origin.SPOOL and self._file is not None:
                pieces.append(self._file.read(e.start, e.size))
            elif copied := self.copies.covering(e.start, e.end):
                pieces += copied
            else:
                raise UnsupportedError(
                    f"{self._remote.key}: read of bytes that are in an upload not yet complete",
                    "close the file first, or give the volume a larger spool-size",
                )
        if end > start:
            with memoryview(self.tail) as tail:
                pieces.append(bytes(tail[max(0, offset - start) : end - start]))
        return b"".join([await self._read_piece(p) for p in pieces])

    async def _read_piece(self, piece: Buffer | Extent | CopiedRange) -> Buffer:
        if isinstance(piece, Extent):
            return await self._remote.read(piece.start, piece.size)
        return await self._read_copied(piece) if isinstance(piece, CopiedRange) else piece

    # the end

    def keep(self) -> Path:
        """Have all bytes that are only here in the spool, for the mount's next worker."""
        if not self.copies.has_all(self.extents):
            raise SpoolFullError(
                f"{self._remote.key}: some of it is only in parts of an upload and cannot be kept",
                "give the volume a larger spool-size",
            )
        self.spill()
        if self._file is None:  # nothing but zeros and base
            self._file = self._new_file()
        remote = self._remote
        description = Description.whole(remote.key, remote.replaces, self.extents, self.copies)
        if self._file.description != description.without_map():  # any change makes it not whole
            self._file.describe(description)
        return self._file.path

    def unlink(self) -> None:
        """Leave nothing for a next worker: the file has no name any more."""
        self._is_unlinked = True
        if self._file is not None:
            self._file.unlink()

    def adopt(self, file: SpoolFile, description: Description) -> None:
        """Go on with what an earlier worker kept: changes of the base."""
        self.extents, self._file = description.map(), file
        self._set_copies(description.copies)
        self._count_extents()

    def reset(self) -> None:
        self._drop_tail()
        self._set_copies(NO_COPIES)
        self.extents.truncate(0)
        self._count_extents()
        self._close_file()

    def close(self) -> None:
        """Give memory and spool back; what is kept stays in the spool."""
        self._drop_tail()
        self._set_copies(NO_COPIES)
        counted, self._counted = max(0, self._counted), -1
        self._context.memory.account(MemoryKind.DIRTY_FILES).add(-counted * EXTENT_BYTES)
        self._close_file(keep=self.is_kept)
