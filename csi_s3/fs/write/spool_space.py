"""How much of the disk the spool's files take, against the limit of the volume (`spool-size`).

A disk gives whole blocks: a byte at every 4 KiB of a file takes all of it. Which blocks a file has
follows from the map of its bytes, so no system call is needed to count them. st_blocks would be
another way: XFS adds what it allocates in advance, a network's disk may answer late, and it says
too late that a write was too much.

The disk is the node's, and others fill it as well. So each demand for new blocks also looks at what
is free (statvfs, 2 µs): below a floor none is granted, whatever the volume's own limit says.
"""

import os
from pathlib import Path

from csi_s3.errors import SpoolFullError
from csi_s3.fs.write.extents import Extents, Origin

_LEAST_BLOCK_BYTES, _LARGEST_BLOCK_BYTES = 512, 64 << 10
_STAT_BLOCK_BYTES = 512  # the unit of st_blocks: stat(2)


class SpoolSpace:
    """The one count of a spool's disk space. Concurrency: plain code.

    directory: on the disk whose floor is looked at.
    """

    def __init__(
        self, limit_bytes: int, directory: Path | None = None, *, free_percent: int = 0
    ) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.block_bytes = 4096
        self._directory, self._free_percent = directory, free_percent

    def measure(self, directory: Path) -> None:
        """Take the size of a block from the disk; a network's may call more so. Raises OSError."""
        size = os.statvfs(directory).f_frsize
        self.block_bytes = min(max(size, _LEAST_BLOCK_BYTES), _LARGEST_BLOCK_BYTES)

    def has_room(self, n: int) -> bool:
        return n <= 0 or self.used_bytes + n <= self.limit_bytes

    def take(self, n: int, hint: str) -> None:
        """Count n more bytes, or none if that is beyond the limit or the disk's floor.

        Raises:
            SpoolFullError: it is; beyond the limit with this hint.

        """
        if not self.has_room(n):
            raise SpoolFullError(
                f"the spool's {self.limit_bytes} bytes are in use: {self.used_bytes}", hint
            )
        if n > 0 and self._free_percent and self._directory is not None:
            self._check_floor(self._directory, n)
        self.used_bytes += n

    def _check_floor(self, directory: Path, n: int) -> None:
        try:
            disk = os.statvfs(directory)
        except OSError:  # no directory yet; where the disk fails, the write says how
            return
        least_bytes = disk.f_blocks * disk.f_frsize * self._free_percent // 100
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes - n < least_bytes:
            what = f"{free_bytes} bytes are free, and {least_bytes} of them"
        elif disk.f_favail < disk.f_files * self._free_percent // 100:
            what = f"{disk.f_favail} inodes are free, and {self._free_percent} % of {disk.f_files}"
        else:
            return
        raise SpoolFullError(
            f"the node's disk is nearly full: {what} stay free for the node",
            f"make room on the disk that has {directory}; all volumes of the node get this error",
        )

    def add(self, n: int) -> None:
        """Count what is there already, or fewer bytes, below 0."""
        self.used_bytes += n

    def rounded(self, n: int) -> int:
        """What a file of n bytes without a hole takes."""
        return -(-n // self.block_bytes) * self.block_bytes

    def new_bytes(self, extents: Extents, start: int, end: int) -> int:
        """What a write of this range takes: blocks that no byte of the map is in yet."""
        first = start // self.block_bytes * self.block_bytes
        last = self.rounded(end)
        return last - first - self._touched(extents, first, last)

    def freed_bytes(self, extents: Extents, size: int) -> int:
        """What a file with this map gives back when it is cut to a size."""
        first = size // self.block_bytes * self.block_bytes
        there = self._touched(extents, first, extents.size)
        return there - self._touched(extents, first, size)

    def punched_bytes(self, extents: Extents, start: int, end: int) -> int:
        """What a file with this map gives back when this range becomes a hole."""
        first, last = start // self.block_bytes * self.block_bytes, self.rounded(end)
        before, after = self._touched(extents, first, start), self._touched(extents, end, last)
        both = bool(before and after and last - first == self.block_bytes)
        beside = before + after - both * self.block_bytes
        return self._touched(extents, first, last) - beside

    def free_blocks(self, extents: Extents, start: int, end: int) -> tuple[int, int]:
        """The blocks of a range without a byte, as start and end; there may be none."""
        first, last = start // self.block_bytes * self.block_bytes, self.rounded(end)
        if self._touched(extents, first, start):
            first += self.block_bytes
        if self._touched(extents, end, last):
            last -= self.block_bytes
        return first, last

    def _touched(self, extents: Extents, start: int, end: int) -> int:
        blocks = extents.blocks_within(start, end, Origin.SPOOL, block_bytes=self.block_bytes)
        return blocks * self.block_bytes


def size_on_disk(*paths: str) -> int:
    """What files of ended workers take, as far as they are there."""
    total = 0
    for path in paths:
        try:
            total += os.lstat(path).st_blocks * _STAT_BLOCK_BYTES
        except OSError:
            continue
    return total
