"""The bytes of a file being changed: a tail in memory, and a map of where all before it are.

The tail is the last bytes of the file. What is written in order fills it and leaves from there, as
parts of an upload or for the spool; a file that fits into it may be changed anywhere. Bytes before
it are those of the stored version (`base`), of the spool's file, or zeros; so a change costs what
was changed, and not the file.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from csi_s3.errors import (
    NotFoundError,
    ObjectChangedError,
    SpoolFullError,
    StaleError,
    UnsupportedError,
)
from csi_s3.fs.base.budget import MemoryBudget
from csi_s3.fs.read.reader import BaseReader
from csi_s3.fs.write.extents import Extents, Origin
from csi_s3.fs.write.spool import Description, Spool, SpoolFile, as_lists
from csi_s3.s3.store import Buffer, ObjectInfo

GRANULE_BYTES = 256 << 10  # memory is reserved in such pieces as a file grows
COPY_BYTES = 1 << 20  # read from the base at a time, when its bytes are brought here


class StagedFile:
    """Lifetime: as its writer; `close` gives memory and spool back.

    Concurrency: its writer's lock orders changes; `read` may run beside them.
    Cancellation: a cancelled call has changed nothing, or only where bytes are.

    settle: finds out whether we have replaced the base ourselves without knowing; set by
        `FileSender`.
    base: the stored version that BASE extents are of. size: of the file. is_kept: see `keep`.
    """

    def __init__(
        self,
        *,
        base: ObjectInfo | None,
        read_base: BaseReader,
        spool: Spool,
        budget: MemoryBudget,
        key: Callable[[], str],
    ) -> None:
        self.base = base
        self.settle: Callable[[], Awaitable[object]]
        self.tail = bytearray()
        self.extents = Extents()  # from 0 to where the tail starts
        self._read_base, self._spool, self._budget, self._key = read_base, spool, budget, key
        self._reserved = 0
        self._file: SpoolFile | None = None
        self.is_kept = False
        self._is_abandoned = False  # nobody but us may ever see it
        if base is not None:
            self.extents.put(0, base.size, Origin.BASE)

    @property
    def size(self) -> int:
        return self.extents.size + len(self.tail)

    @property
    def tail_start(self) -> int:
        return self.extents.size

    @property
    def is_in_memory(self) -> bool:
        """The whole file is the tail."""
        return self.extents.size == 0

    def layout(self) -> Extents:
        """The map of the whole file; the tail counts as spooled."""
        whole = Extents()
        for e in self.extents:
            whole.put(e.start, e.end, e.origin)
        whole.put(whole.size, self.size, Origin.SPOOL)
        return whole

    # memory

    def has_room(self, n: int) -> bool:
        """Whether the tail may grow by n without asking."""
        return len(self.tail) + n <= self._reserved

    def missing_for(self, n: int) -> int:
        """What is to be reserved before the tail grows by n."""
        missing = len(self.tail) + n - self._reserved
        return -(-missing // GRANULE_BYTES) * GRANULE_BYTES if missing > 0 else 0

    def reserved(self, n: int) -> None:
        """The budget gave n more."""
        self._reserved += n

    def append(self, data: Buffer) -> None:
        """Let the tail grow; the room for it is reserved."""
        self._changed()
        try:
            self.tail += data
        except BufferError:  # an ended request's view of it is not collected yet
            self.tail = self.tail + data

    def take_tail(self) -> bytearray:
        """Hand over the tail and its reserved bytes; a copy is in the spool, if it takes one."""
        data, start = self.tail, self.tail_start
        end = start + len(data)
        try:
            self._spooled(start, data)
        except SpoolFullError:
            self.extents.put(start, end, Origin.SENT)
        self.tail = bytearray()
        spare, self._reserved = self._reserved - len(data), 0
        self._budget.release(spare)
        return data

    def spill(self) -> None:
        """Move the tail to the spool.

        Raises:
            SpoolFullError: it stays where it is.

        """
        self._spooled(self.tail_start, self.tail)
        self._drop_tail()

    def _drop_tail(self) -> None:
        self.tail = bytearray()
        self._budget.release(self._reserved)
        self._reserved = 0

    def _spooled(self, start: int, data: Buffer) -> None:
        if not data:
            return
        end = start + len(data)
        self._changed()
        if self._file is None:
            self._file = self._spooling()
        known = sum(e.size for e in self.extents.within(start, end) if e.origin is Origin.SPOOL)
        self._file.write(start, data, new_bytes=len(data) - known)
        self.extents.put(start, end, Origin.SPOOL)

    def _spooling(self) -> SpoolFile:
        file = self._spool.create(self._key())
        if self._is_abandoned:
            file.unlink()
        return file

    # changes

    def _changed(self) -> None:
        """What was kept is not what the file is now."""
        if self.is_kept and self._file is not None:
            self._file.describe(Description(key=self._key()))
        self.is_kept = False

    def overwrite(self, offset: int, data: Buffer) -> None:
        """Change bytes that are there, all of them before the file's end.

        Raises:
            SpoolFullError: bytes before the tail, and the spool does not take them.

        """
        self._changed()
        in_front = max(0, min(len(data), self.tail_start - offset))
        view = memoryview(data)
        self._spooled(offset, view[:in_front])
        if in_front < len(data):
            at = offset + in_front - self.tail_start
            self.tail[at : at + len(data) - in_front] = view[in_front:]

    def extend(self, size: int) -> None:
        """Let the file grow to size with zeros that cost nothing.

        Raises:
            SpoolFullError: the tail must leave for it, and cannot.

        """
        self._changed()
        if self.tail:
            self.spill()
        self.extents.put(self.tail_start, size, Origin.ZERO)

    def cut(self, size: int) -> None:
        """Make the file shorter."""
        self._changed()
        if size >= self.tail_start:
            self.tail = self.tail[: size - self.tail_start]  # a request may still look at it
            return
        self._drop_tail()
        self.extents.truncate(size)
        if self._file is not None:
            self._file.cut(size, left_bytes=self.extents.count(Origin.SPOOL))

    async def load(self) -> None:
        """Bring a small file into memory whole, room for which is reserved.

        Raises:
            StaleError: its base is gone.

        """
        data = bytearray(await self.read(0, self.size))
        self.extents.truncate(0)
        self._forget_file()
        self.tail = data

    async def localise(self, limit_bytes: int, progress: Callable[[], None]) -> None:
        """Bring the base's bytes here, before the object is deleted.

        Raises:
            SpoolFullError: they are more than limit_bytes, or the spool is full.

        """
        if self.extents.count(Origin.BASE) > limit_bytes:
            raise SpoolFullError(
                f"{self._key()}: more than {limit_bytes} bytes are in S3 only",
                "raise unlinked-open-limit",
            )
        for e in self.extents:
            at = e.start
            while e.origin is Origin.BASE and at < e.end:
                data = await self._base_bytes(at, min(e.end - at, COPY_BYTES))
                self._spooled(at, data)
                at += len(data)
                progress()

    def stored(self, info: ObjectInfo) -> None:
        """All bytes are those of this version now; a tail that is the whole file stays."""
        self.base = info
        self._forget_file()
        if self.is_in_memory:
            return
        self._drop_tail()
        self.extents.truncate(0)
        self.extents.put(0, info.size, Origin.BASE)

    def sent(self, info: ObjectInfo) -> None:
        """This version has all bytes that had left; those that have changed since are here."""
        self.base = info
        for e in self.extents:
            if e.origin is Origin.SENT:
                self.extents.put(e.start, e.end, Origin.BASE)

    def _forget_file(self, *, keep: bool = False) -> None:
        self.is_kept = False
        if self._file is not None:
            self._file.close(keep=keep)
            self._file = None

    # reading

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file as it is now, cut at its end.

        Raises:
            UnsupportedError: some left in parts of an upload, and the spool had no room for them.
            StaleError: the base was replaced or removed by somebody else.

        """
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        if offset >= self.tail_start:
            return bytes(self.tail[offset - self.tail_start : end - self.tail_start])
        pieces: list[Buffer | tuple[int, int]] = []
        for e in self.extents.within(offset, min(end, self.tail_start)):
            if e.origin is Origin.BASE:
                pieces.append((e.start, e.size))
            elif e.origin is Origin.ZERO:
                pieces.append(bytes(e.size))
            elif e.origin is Origin.SPOOL and self._file is not None:
                pieces.append(self._file.read(e.start, e.size))
            else:
                raise UnsupportedError(
                    f"{self._key()}: read of bytes that are in an upload not yet complete",
                    "close the file first, or give the volume a larger spool-size",
                )
        if end > self.tail_start:
            pieces.append(bytes(self.tail[: end - self.tail_start]))
        return b"".join([await self._base_bytes(*p) if isinstance(p, tuple) else p for p in pieces])

    async def _base_bytes(self, start: int, length: int) -> Buffer:
        base = self.base
        if base is None:
            raise StaleError(f"{self._key()}: its stored bytes are gone")
        try:
            data = await self._read_base(base, start, length)
        except (NotFoundError, ObjectChangedError, StaleError) as exc:
            if self.base is base:
                await self.settle()
            if self.base is not None and self.base is not base:  # stored anew meanwhile, by us
                return await self._base_bytes(start, length)
            raise StaleError(f"{base.key}: replaced or deleted while it was changed") from exc
        if len(data) != length:
            raise StaleError(f"{base.key}: shorter than what was written")
        return data

    # the end

    def keep(self, *, replaces: ObjectInfo | None) -> Path:
        """Have all bytes that are only here in the spool, for the mount's next worker.

        replaces: the version in whose place it may put them.

        Raises:
            SpoolFullError: there is no room, or was none for what left in parts.

        """
        if self.extents.has(Origin.SENT):
            raise SpoolFullError(
                f"{self._key()}: some of it left in parts of an upload, without room to keep it",
                "give the volume a larger spool-size",
            )
        self._spooled(self.tail_start, self.tail)
        self._drop_tail()
        if self._file is None:  # nothing but zeros and base
            self._file = self._spooling()
        self._file.describe(
            Description(
                key=self._key(),
                is_whole=True,
                base_etag="" if replaces is None else replaces.etag,
                base_size=0 if replaces is None else replaces.size,
                extents=as_lists(list(self.extents)),
            )
        )
        self.is_kept = True
        return self._file.path

    def abandon(self) -> None:
        """The file has no name any more: nothing of it is left for a next worker."""
        self._is_abandoned, self.is_kept = True, False
        if self._file is not None:
            self._file.unlink()

    def adopt(self, file: SpoolFile, description: Description) -> None:
        """Go on with what an earlier worker kept; base is the version it changes."""
        self.extents.truncate(0)
        for start, end, origin in description.extents:
            self.extents.put(start, end, Origin(origin))
        self._file, self.is_kept = file, True

    def reset(self) -> None:
        """An empty file."""
        self._drop_tail()
        self.extents.truncate(0)
        self._forget_file()

    def close(self) -> None:
        self._drop_tail()
        self._forget_file(keep=self.is_kept)
        self._read_base.close()
