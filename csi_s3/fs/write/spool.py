"""Bytes accepted and not yet in S3 that do not fit memory: files of the mount's state directory.

Each has a description beside it, so that the mount's next worker, or a person, finds what a worker
could not upload before its end; see `spool_directory`. What they take of the disk is counted
against a limit of their own (statvfs shows the node's whole disk), in whole blocks, descriptions
included; see `spool_space`.

Reads and writes are plain calls: they go to the page cache, in microseconds. A large file that is
removed is closed in a thread, because the kernel frees its pages then. What is cut off, or becomes
a hole, is given back in slices instead: a thread cannot be stopped, and would remove what is
written there after it was cancelled.
"""

import asyncio
import os
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from csi_s3.config.volume import SpoolRules
from csi_s3.errors import SpoolFullError
from csi_s3.fs.base.memory import Memory, MemoryKind
from csi_s3.fs.write.extents import Extents
from csi_s3.fs.write.spool_description import Description
from csi_s3.fs.write.spool_descriptors import Descriptors, share_of_limit
from csi_s3.fs.write.spool_directory import SpoolDirectory
from csi_s3.fs.write.spool_errors import disk_errors
from csi_s3.fs.write.spool_leftovers import Leftover, LeftoverTotal, SpoolLeftovers
from csi_s3.fs.write.spool_space import SpoolSpace
from csi_s3.fs.write.waiting_bytes import WaitingBytes, WaitingFile
from csi_s3.kernel.syscalls import punch_hole
from csi_s3.s3.store import Buffer

_HINT = "close other files that are being changed, or give the volume a larger spool-size"
# Of a file in use, besides its key: measured with tracemalloc, 1,000 and 10,000 of them: 290 to 320
RECORD_BYTES = 300
# Of a file that is closed: the kernel frees its pages, 27 to 40 ms for 1 GiB (measured). Also what
# a file is cut by, or a hole is made of, in one step: 3 ms.
LARGE_BYTES = 64 << 20


class SpoolDisk:
    """What all spool files of a mount share. Lifetime: as the worker. Concurrency: plain code."""

    slice_bytes = LARGE_BYTES

    def __init__(
        self,
        directory: Path,
        *,
        limit_bytes: int,
        memory: Memory,
        most_open: int,
        rules: SpoolRules,
    ) -> None:
        self.directory = SpoolDirectory(directory)
        self.space = SpoolSpace(limit_bytes, directory, free_percent=rules.free_percent)
        self.descriptors = Descriptors(most_open)
        self.leftovers = SpoolLeftovers(
            self.directory, self.space, memory.account(MemoryKind.LEFTOVERS), rules.kept_s
        )
        self.live: set[int] = set()  # the numbers of files in use
        self.records = memory.account(MemoryKind.DIRTY_FILES)
        self._waiting = WaitingFile(self.directory.create_unnamed, self.space.add)
        self._next = 1
        with suppress(OSError):  # not there yet
            self.space.measure(directory)

    def take(self, n: int) -> None:
        """Count n more bytes; SpoolFullError: there is no room for them."""
        if not self.space.has_room(n):
            self.leftovers.make_room(n)
        self.space.take(n, _HINT)

    def set_aside(self, data: Buffer) -> WaitingBytes:
        """As `Spool.set_aside`."""
        n = self.space.rounded(len(data))
        self.take(n)
        try:
            return self._waiting.add(data, n)
        except SpoolFullError:
            self.space.add(-n)
            raise

    def make(self, key: str) -> tuple[int, int]:
        """Make a file and its description; returns number and bytes. Raises OSError."""
        while True:
            number = self._next
            try:
                self.descriptors.open(number, self.directory.data(number), is_new=True)
                break
            except FileNotFoundError:
                self.directory.path.mkdir(mode=0o700, parents=True)
                self.space.measure(self.directory.path)
            except FileExistsError:  # of another worker; so few steps find the end of many
                self._next *= 2
        self._next += 1
        try:
            size = self.directory.describe_new(number, key)
        except OSError:
            self.descriptors.close(number)
            self.directory.remove(number)
            raise
        return number, size


class Spool:
    """Lifetime: as the worker. directory None: there is none, every demand is refused.

    SpoolFullError is raised, here and by `SpoolFile`, where the limit is reached or the disk fails.
    most_open: files that may have a descriptor at once; any number may be in use.
    rules: the node's.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        limit_bytes: int,
        memory: Memory,
        most_open: int | None = None,
        rules: SpoolRules = SpoolRules(),  # noqa: B008 - frozen
    ) -> None:
        self.disk: SpoolDisk | None = None
        if directory is not None:
            most_open = most_open or share_of_limit()
            self.disk = SpoolDisk(
                directory,
                limit_bytes=limit_bytes,
                memory=memory,
                most_open=most_open,
                rules=rules,
            )

    @property
    def is_there(self) -> bool:
        return self.disk is not None

    @property
    def used_bytes(self) -> int:
        """Of the disk, by files in use and by what earlier workers left."""
        return 0 if self.disk is None else self.disk.space.used_bytes

    @property
    def limit_bytes(self) -> int:
        return 0 if self.disk is None else self.disk.space.limit_bytes

    def leftover_totals(self) -> dict[str, LeftoverTotal]:
        """By kind: as `SpoolLeftovers.totals`."""
        return {} if self.disk is None else self.disk.leftovers.totals()

    def create(self, key: str) -> "SpoolFile":
        if self.disk is None:
            raise SpoolFullError(f"{key}: no spool to keep changed bytes in", _HINT)
        return SpoolFile.create(self.disk, key)

    def set_aside(self, data: Buffer) -> WaitingBytes:
        """Keep the bytes of a write in a file without a name, as long as the result is there.

        They are in the page cache or on the disk, not in the memory of this process.
        """
        if self.disk is None:
            raise SpoolFullError("no spool to keep bytes of a write in", _HINT)
        return self.disk.set_aside(data)

    async def leftovers(self, now_s: float) -> list[int]:
        """Count what earlier workers left; the whole files, the last first: see `take_over`."""
        return (
            [] if self.disk is None else await self.disk.leftovers.scan(self.disk.live, now_s=now_s)
        )

    def take_over(self, number: int) -> tuple["SpoolFile", Description]:
        """Open a leftover like a file of this worker.

        Raises:
            OSError, ValueError, TypeError: it cannot be read.

        """
        if self.disk is None:
            raise FileNotFoundError(number)
        return SpoolFile.take_over(self.disk, number)

    def give_up(self, file: "SpoolFile") -> None:
        """Keep a leftover that nothing will upload for a person; it was closed and kept."""
        if self.disk is not None:
            self.disk.leftovers.give_up(file.number)

    def supersede(self, key: str, *, is_edit: bool) -> None:
        """As `SpoolLeftovers.supersede`."""
        if self.disk is not None:
            self.disk.leftovers.supersede(key, is_edit=is_edit)


class SpoolFile:
    """One file's bytes. Owned by its `StagedFile`, which has the map of them."""

    __slots__ = (
        "_data_bytes",
        "_description_bytes",
        "_disk",
        "_record_bytes",
        "description",
        "number",
    )

    def __init__(self, disk: SpoolDisk, number: int, description: Description) -> None:
        self._disk, self.number = disk, number
        self._data_bytes = self._description_bytes = self._record_bytes = 0
        self.description = self._remembered(description)
        disk.live.add(number)

    def _remembered(self, description: Description) -> Description:
        """Without the map, and counted."""
        self._count_record(RECORD_BYTES + sys.getsizeof(description.key))
        return description.without_map()

    def _count_record(self, n: int) -> None:
        self._disk.records.add(n - self._record_bytes)
        self._record_bytes = n

    @classmethod
    def create(cls, disk: SpoolDisk, key: str) -> "SpoolFile":
        with disk_errors():
            least = disk.space.block_bytes
            disk.take(least)  # the description's
            try:
                number, size = disk.make(key)
            except OSError:
                disk.space.add(-least)
                raise
        file = cls(disk, number, Description(key=key))
        file._description_bytes = disk.space.rounded(size)
        disk.space.add(file._description_bytes - least)
        return file

    @classmethod
    def take_over(cls, disk: SpoolDisk, number: int) -> tuple["SpoolFile", Description]:
        description = disk.directory.read(number)
        disk.descriptors.open(number, disk.directory.data(number))
        leftover = disk.leftovers.pop(number)
        file = cls(disk, number, description)
        file._data_bytes = disk.directory.size(number) if leftover is None else leftover.size
        return file, description

    @property
    def path(self) -> Path:
        return Path(self._disk.directory.data(self.number))

    @property
    def counted_bytes(self) -> int:
        """Of the disk."""
        return self._data_bytes + self._description_bytes

    def write(self, offset: int, data: Buffer, extents: Extents) -> None:
        """Write bytes. extents: where the file's bytes were before."""
        new_bytes = self._disk.space.new_bytes(extents, offset, offset + len(data))
        self._disk.take(new_bytes)
        view = memoryview(data)
        try:
            with disk_errors():
                fd = self._descriptor()
                while view:
                    n = os.pwrite(fd, view, offset)
                    view, offset = view[n:], offset + n
        except SpoolFullError:
            self._disk.space.add(-new_bytes)
            raise
        self._data_bytes += new_bytes

    def _descriptor(self) -> int:
        """To be used at once: another file's use may close it."""
        fd = self._disk.descriptors.get(self.number)
        if fd is None:
            path = self._disk.directory.data(self.number)
            fd = self._disk.descriptors.open(self.number, path)
        return fd

    def read(self, offset: int, length: int) -> bytes:
        """Read a range that was written."""
        pieces = []
        with disk_errors():
            fd = self._descriptor()
            while length > 0:
                piece = os.pread(fd, length, offset)
                if not piece:
                    raise SpoolFullError(f"{self.path} ends at {offset}", "check what changed it")
                pieces.append(piece)
                offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def cut_bytes(self, size: int, extents: Extents) -> int:
        """What a cut gives back of the disk. extents: where the file's bytes are before."""
        return self._disk.space.freed_bytes(extents, size)

    async def cut(self, size: int) -> bool:
        """Give back what is behind a size, where the map has no byte any more, in slices.

        False: as `punch`.
        """
        try:
            end = os.fstat(self._descriptor()).st_size
            while end > size:
                end = max(size, end - self._disk.slice_bytes)
                os.ftruncate(self._descriptor(), end)
                if end > size:
                    await asyncio.sleep(0)
        except OSError:
            return False
        return True

    def punched_bytes(self, start: int, end: int, extents: Extents) -> int:
        """What a hole in this range gives back. extents: where the file's bytes are before."""
        return self._disk.space.punched_bytes(extents, start, end)

    async def punch(self, start: int, end: int, extents: Extents) -> bool:
        """Give the disk's blocks of a range back that has no byte in the map, in slices.

        False: the disk does not take them back; they are counted until the file is closed.
        """
        at, last = self._disk.space.free_blocks(extents, start, end)
        try:
            while at < last:
                upto = min(last, at + self._disk.slice_bytes)
                punch_hole(self._descriptor(), at, upto - at)
                at = upto
                if at < last:
                    await asyncio.sleep(0)
        except OSError:
            return False
        return True

    def freed(self, n: int) -> None:
        """Count n bytes less of the disk."""
        self._disk.space.add(-n)
        self._data_bytes -= n

    def describe(self, description: Description) -> None:
        """Replace the description, whole or not at all.

        It counts and is not refused: without it, the bytes that it describes would be lost.
        """
        with disk_errors():
            size = self._disk.directory.describe(self.number, description)
        self.description = self._remembered(description)
        self._count_description(self._disk.space.rounded(size))

    def _count_description(self, size: int) -> None:
        self._disk.space.add(size - self._description_bytes)
        self._description_bytes = size

    def unlink(self) -> None:
        """Leave nothing for another worker; it can be used as before."""
        self.description = replace(self.description, is_whole=False)
        self._disk.directory.undescribe(self.number)
        self._count_description(0)

    def close(self, *, keep: bool) -> None:
        """Give it back. keep: the bytes stay for the mount's next worker."""
        disk = self._disk
        is_large = self._data_bytes >= LARGE_BYTES and not keep
        fd = self._opened() if is_large else None
        disk.descriptors.close(self.number)
        disk.live.discard(self.number)
        self._count_record(0)
        if keep:
            was, since_s = self.description, disk.leftovers.described_s(self.number)
            disk.leftovers.add(
                Leftover(
                    self.number, was.key, self.counted_bytes, was.is_whole, was.was_whole, since_s
                )
            )
        else:
            disk.directory.remove(self.number)
            disk.space.add(-self.counted_bytes)
            if fd is not None:
                _close_aside(fd)

    def _opened(self) -> int | None:
        """A descriptor that is the caller's; None: there is none to be had."""
        try:
            self._descriptor()
        except OSError:
            return None
        return self._disk.descriptors.release(self.number)


def _close_aside(fd: int) -> None:
    """Close the last descriptor of a file without a name, which waits until its pages are free."""
    try:
        threading.Thread(target=os.close, args=(fd,), daemon=True).start()
    except RuntimeError:  # no other thread is to be had
        os.close(fd)
