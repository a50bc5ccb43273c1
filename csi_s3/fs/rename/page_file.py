"""Pages of bytes on the disk: what a large rename has copied, kept out of memory.

    <state dir>/rename-<number>.pages

Each page is its length and its CRC-32 (4 bytes each, little-endian), then its bytes. What a crash
or a full disk has cut off is not read. Nothing is flushed to the disk, as for a `json_file`.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from csi_s3.errors import SpoolFullError

_HEAD = struct.Struct("<II")


@dataclass(slots=True)
class PageSpace:
    """What the page files of one mount may take of the disk together."""

    limit_bytes: int
    used_bytes: int = 0


class PageFile:
    """Lifetime: from the first `append` until `remove`; a worker that ends leaves it.

    Concurrency: plain code; no descriptor stays open.
    """

    def __init__(self, path: Path, space: PageSpace) -> None:
        self.path = path
        self._space, self._bytes = space, 0

    def append(self, page: bytes) -> None:
        """Add a page; the first one replaces what an earlier worker left.

        Raises:
            SpoolFullError: the disk or `PageSpace` refuses; the file is what it was.

        """
        frame = _HEAD.pack(len(page), zlib.crc32(page)) + page
        if self._space.used_bytes + len(frame) > self._space.limit_bytes:
            raise SpoolFullError(
                f"{self.path}: renames have written {self._space.used_bytes} bytes, and spool-size"
                f" is {self._space.limit_bytes}",
                "rename fewer files at once, or give the volume a larger spool-size",
            )
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.path.open("r+b" if self._bytes else "wb") as file:
                file.seek(self._bytes)
                file.write(frame)
        except OSError as exc:
            raise SpoolFullError(
                f"{self.path}: {exc.strerror}",
                "the mount's state directory needs some 50 bytes for each key that is renamed",
            ) from exc
        self._bytes += len(frame)
        self._space.used_bytes += len(frame)

    def __iter__(self) -> Iterator[bytes]:
        """Whole pages from the beginning; those behind a damaged one are not found.

        Raises:
            OSError: the file cannot be read.

        """
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                size, checksum = _HEAD.unpack(head)
                page = file.read(size)
                if len(page) != size or zlib.crc32(page) != checksum:
                    return
                yield page

    def remove(self) -> None:
        """Give the disk space back.

        Raises:
            OSError: the disk refuses.

        """
        self.path.unlink(missing_ok=True)
        self._space.used_bytes -= self._bytes
        self._bytes = 0
