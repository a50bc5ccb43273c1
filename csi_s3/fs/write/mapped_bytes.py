"""The bytes of a file being changed that are before its tail: a map of where they are, and a file.

They are those of the stored version (`RemoteObject.base`), of the spool's file, or zeros, or they
are only in parts of an upload. The map has a bound (`has_room`), since a program decides how many
ranges it changes; `SpoolFetch` joins some of them at the bound.
"""

import asyncio
from pathlib import Path
from typing import TypeAlias

from csi_s3.errors import (
    NotFoundError,
    ObjectChangedError,
    SpoolFullError,
    StaleError,
    UnsupportedError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.write.copied_ranges import NO_COPIES, RANGE_BYTES, CopiedRange, CopiedRanges
from csi_s3.fs.write.extents import EXTENT_BYTES, STEP_EXTENTS, Extent, Extents, Origin
from csi_s3.fs.write.parallel_upload import SentPart
from csi_s3.fs.write.remote_object import RemoteObject
from csi_s3.fs.write.spool import Spool, SpoolFile
from csi_s3.fs.write.spool_description import Description
from csi_s3.s3.store import Buffer, ObjectInfo

MOST_EXTENTS = 100_000  # of a file; more are joined, see `SpoolFetch.make_map_room`
COUNTED_EXTENTS = 64  # the memory of a map is counted in such steps

Found: TypeAlias = Buffer | Extent | CopiedRange  # bytes, or where they can be read


class MappedBytes:
    """Lifetime and concurrency: as its `StagedFile`.

    Methods that put bytes in the spool raise SpoolFullError, and the bytes stay where they are.

    extents: the map, from 0 to where the tail starts. copies: where bytes are that are only in
    parts.
    """

    __slots__ = (
        "_context",
        "_counted",
        "_file",
        "_is_unlinked",
        "_remote",
        "_spool",
        "copies",
        "extents",
    )

    def __init__(self, context: MountContext, remote: RemoteObject, spool: Spool) -> None:
        self._remote, self._spool, self._context = remote, spool, context
        self.extents = Extents()
        self._counted = 0  # so many of them; below 0: closed
        self.copies = NO_COPIES
        self._file: SpoolFile | None = None
        self._is_unlinked = False  # no other process may find it
        if remote.base is not None:
            self.extents.put(0, remote.base.size, Origin.BASE)

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
    def has_spool(self) -> bool:
        """There is one that bytes can go to."""
        return self._spool.is_there

    # the map

    def count(self) -> None:
        """Count what has become of the map, in steps; the first extent is in the file's record."""
        if self._counted < 0:
            return  # closed
        n = max(0, len(self.extents) - 1)
        more = -(-n // COUNTED_EXTENTS) * COUNTED_EXTENTS - self._counted
        if more:
            self._counted += more
            self._context.memory.account(MemoryKind.DIRTY_FILES).add(more * EXTENT_BYTES)

    @property
    def has_room(self) -> bool:
        """Whether a change anywhere fits the map."""
        n = len(self.extents) + 2
        if n <= self._counted:
            return True
        free_bytes = self._context.memory.account(MemoryKind.DIRTY_FILES).free_bytes
        return n <= MOST_EXTENTS and free_bytes >= COUNTED_EXTENTS * EXTENT_BYTES

    def stored_range(self, start: int, length: int) -> tuple[ObjectInfo, int] | None:
        """The stored version that has the byte at start, and how many bytes from there.

        None: the store does not have it, or not as a part of an object.
        """
        found = self.extents.within(start, start + length, most=1)
        base = self._remote.base
        if base is None or not found or found[0].origin is not Origin.BASE:
            return None
        return base, found[0].size

    def check_not_sent(self, start: int, end: int) -> None:
        """Bytes that are in parts only cannot be sent again in another part."""
        if self._remote.upload is None or not self.extents.has(Origin.SENT):
            return
        if self.extents.count_within(start, end, Origin.SENT):
            raise SpoolFullError(
                f"{self._remote.key}: a change of bytes that are only in parts of an upload",
                "give the volume a larger spool-size",
            )

    def mark_stored(self, size: int) -> None:
        """Take all bytes from the base, which has this size; a file in memory stays there."""
        self._close_file()
        self._set_copies(NO_COPIES)
        if self.extents.size:
            self.extents.truncate(0)
            self.extents.put(0, size, Origin.BASE)
            self.count()

    def mark_sent_stored(self) -> None:
        """Take bytes that were only in the upload from the base, which it has made."""
        self.extents.replace(Origin.SENT, Origin.BASE)
        self._set_copies(NO_COPIES)

    # what was copied from other objects

    def add_copied(self, source: ObjectInfo, start: int, n: int) -> None:
        """Let n bytes of a source follow, which are in the upload; nothing is in the tail."""
        self.mark_changed()
        at = self.extents.size
        self.extents.put(at, at + n, Origin.SENT)
        self._set_copies(self.copies.added(CopiedRange(at, at + n, source, start)))
        self.count()

    def _set_copies(self, copies: CopiedRanges) -> None:
        more = len(copies.ranges) - len(self.copies.ranges)
        self.copies = copies
        if more:
            self._context.memory.account(MemoryKind.DIRTY_FILES).add(more * RANGE_BYTES)

    def copied_parts(self, start: int, end: int) -> list[SentPart]:
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

    def mark_changed(self) -> None:
        """Note that the copy for the next worker is out of date, if there is one."""
        if self._file is not None and self._file.description.is_whole:
            self._file.describe(Description(key=self._remote.key))

    def put_in_spool(self, start: int, data: Buffer) -> None:
        if not data:
            return
        end = start + len(data)
        self.mark_changed()
        if self._file is None:
            self._file = self._new_file()
        self._file.write(start, data, self.extents)
        self.extents.put(start, end, Origin.SPOOL)
        self.count()

    def _new_file(self) -> SpoolFile:
        file = self._spool.create(self._remote.key)
        if self._is_unlinked:
            file.unlink()
        return file

    def grow(self, size: int) -> None:
        """Let zeros follow up to a size, as a hole."""
        self.extents.put(self.extents.size, size, Origin.ZERO)
        self.count()

    async def zero(self, start: int, end: int) -> None:
        """Let a range be a hole; other tasks get their turn where there are many extents."""
        file, freed_bytes, at = self._file, 0, start
        while at < end:
            upto = self.extents.within(at, end, most=STEP_EXTENTS)[-1].end
            if file is not None:
                freed_bytes += file.punched_bytes(at, upto, self.extents)
            self.extents.put(at, upto, Origin.ZERO)
            at = upto
            if at < end:
                await asyncio.sleep(0)
        self.count()
        if file is None or not freed_bytes:
            return
        is_freed = await file.punch(start, end, self.extents)
        if is_freed and self._file is file:
            file.freed(freed_bytes)

    def cut(self, size: int) -> int:
        """Returns how much of the disk `give_back` gives back."""
        freed_bytes = 0 if self._file is None else self._file.cut_bytes(size, self.extents)
        self.extents.truncate(size)
        self._set_copies(self.copies.cut(size))
        self.count()
        return freed_bytes

    async def give_back(self, n: int, *, behind: int) -> None:
        """Give back what was cut, which is n bytes of the disk; others get their turns.

        If it is cancelled, or the disk refuses, they are counted until the spool's file is closed.
        """
        file = self._file
        if file is not None and n and await file.cut(behind) and self._file is file:
            file.freed(n)

    # reading

    def find(self, start: int, end: int) -> tuple[list[Found], int]:
        """What a range has at this moment, and where that ends if it is of very many pieces.

        Raises:
            UnsupportedError: some bytes are only in parts of an upload.

        """
        found: list[Found] = []
        some = self.extents.within(start, end, most=STEP_EXTENTS)
        for e in some:
            if e.origin is Origin.BASE:
                found.append(e)
            elif e.origin is Origin.ZERO:
                found.append(bytes(e.size))
            elif e.origin is Origin.SPOOL and self._file is not None:
                found.append(self._file.read(e.start, e.size))
            elif copied := self.copies.covering(e.start, e.end):
                found += copied
            else:
                raise UnsupportedError(
                    f"{self._remote.key}: read of bytes that are in an upload not yet complete",
                    "close the file first, or give the volume a larger spool-size",
                )
        return found, some[-1].end if some else end

    async def fetch(self, found: Found) -> Buffer:
        """The bytes of what was found.

        Raises:
            StaleError: another client has replaced or removed the object that has them.

        """
        if isinstance(found, Extent):
            return await self._remote.read(found.start, found.size)
        return await self._read_copied(found) if isinstance(found, CopiedRange) else found

    # the end

    def check_kept(self) -> None:
        """Whether `keep` can keep all of it.

        Raises:
            SpoolFullError: it cannot.

        """
        if not self.copies.has_all(self.extents):
            raise SpoolFullError(
                f"{self._remote.key}: some of it is only in parts of an upload and cannot be kept",
                "give the volume a larger spool-size",
            )

    def keep(self) -> Path:
        """As `StagedFile.keep`, once the tail is here."""
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
        self.count()

    def reset(self) -> None:
        self._set_copies(NO_COPIES)
        self.extents.truncate(0)
        self.count()
        self._close_file()

    def close(self) -> None:
        """Give memory and spool back; what is kept stays in the spool."""
        self._set_copies(NO_COPIES)
        counted, self._counted = max(0, self._counted), -1
        self._context.memory.account(MemoryKind.DIRTY_FILES).add(-counted * EXTENT_BYTES)
        self._close_file(keep=self.is_kept)

    def _close_file(self, *, keep: bool = False) -> None:
        if self._file is not None:
            self._file.close(keep=keep)
            self._file = None
