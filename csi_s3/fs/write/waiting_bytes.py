"""The bytes of writes that wait, where memory does not take them: in one file without a name.

They are read back in pieces, when they are accepted. Rejected: to map them, because a disk that
fails would then kill the process (SIGBUS); a file for each, because thousands may wait, and a
process has few descriptors.
"""

import heapq
import os
import weakref
from collections.abc import Callable
from contextlib import suppress

from csi_s3.errors import SpoolFullError
from csi_s3.fs.write.spool_errors import disk_errors
from csi_s3.kernel.syscalls import punch_hole
from csi_s3.s3.store import Buffer

SLOT_BYTES = 1 << 20  # the largest write of the kernel: `negotiation.MAX_WRITE_BYTES`


class WaitingBytes:
    """Those of one write. They are given back when this is no longer referred to."""

    __slots__ = ("__weakref__", "_at", "_file", "_length")

    def __init__(self, file: "WaitingFile", at: int, length: int) -> None:
        self._file, self._at, self._length = file, at, length

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, length: int) -> bytes:
        """Raises SpoolFullError: the disk does not return them."""
        return self._file.read(self._at + start, min(length, self._length - start))


class WaitingFile:
    """Lifetime: as the worker; on the disk as long as any write waits. Concurrency: plain code."""

    def __init__(self, create: Callable[[], int], count: Callable[[int], None]) -> None:
        """create: makes the file, returns a descriptor. count: gets bytes, below 0 given back."""
        self._create, self._count = create, count
        self._fd = -1
        self._free: list[int] = []  # slots before the last one
        self._slots = 0

    def add(self, data: Buffer, counted_bytes: int) -> WaitingBytes:
        """Keep the bytes of a write, at most SLOT_BYTES. counted_bytes: of the disk, at the end.

        Raises:
            SpoolFullError: the disk does not take them.

        """
        slot = self._take()
        at, view = slot * SLOT_BYTES, memoryview(data)
        try:
            with disk_errors():
                if self._fd < 0:
                    self._fd = self._create()
                while view:
                    n = os.pwrite(self._fd, view, at)
                    view, at = view[n:], at + n
        except SpoolFullError:
            self._give_back(slot, len(data))
            raise
        found = WaitingBytes(self, slot * SLOT_BYTES, len(data))
        weakref.finalize(found, self._end, slot, len(data), counted_bytes)
        return found

    def read(self, at: int, length: int) -> bytes:
        """Raises SpoolFullError: the disk does not return them."""
        pieces = []
        with disk_errors():
            while length > 0:
                piece = os.pread(self._fd, length, at)
                if not piece:
                    raise SpoolFullError(
                        f"the spool's disk: {length} bytes of a waiting write are missing at {at}",
                        "see the node's kernel log for this disk",
                    )
                pieces.append(piece)
                at, length = at + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self._slots += 1
        return self._slots - 1

    def _end(self, slot: int, length: int, counted_bytes: int) -> None:
        self._give_back(slot, length)
        self._count(-counted_bytes)

    def _give_back(self, slot: int, length: int) -> None:
        heapq.heappush(self._free, slot)
        if len(self._free) < self._slots:
            with suppress(OSError):  # the disk cannot: the slot is used again
                punch_hole(self._fd, slot * SLOT_BYTES, length)
            return
        self._free, self._slots = [], 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
