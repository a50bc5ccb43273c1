"""What a rename has copied: bounded memory for any number of keys.

As strings of a dictionary a key cost 300 to 380 bytes; in compressed pages it costs 30 to 50. The
pages of a large rename go to a file, so that memory holds one page; a small rename has one page and
needs no file. Where a mount has no state directory, all pages are in memory, and are counted.
"""

import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeAlias

from csi_s3.errors import IntegrityError, SpoolFullError
from csi_s3.fs.base.memory import Account
from csi_s3.fs.rename.page_file import PageFile
from csi_s3.s3.store import ObjectInfo

# Measured: 87 to 89 in a page of 1,000, without the strings; the tuple, and its place in the list.
COPY_BYTES = 88
PAGE_BYTES = 33 + 8  # of a compressed page, without its bytes

Copied: TypeAlias = tuple[str, str, str]  # a source's key and ETag, and the copy's ETag


class TreeCopy:
    """The copies of a tree that were made, all or some.

    Lifetime: as the rename; `close` gives the memory back, and leaves the file.
    Concurrency: plain code. What was added last may be missing from a `pages` that began before.
    newest: the date of the youngest object that was copied, by the store's clock.
    uncertain: keys that may hold a copy whose answer was lost; as many as copies at a time.
    in_file: how many of the copies are in the file.
    """

    def __init__(self, account: Account, file: PageFile | None, *, page_copies: int) -> None:
        """file: an empty one, or None where there is no state directory."""
        self.newest = 0.0
        self.uncertain: list[str] = []
        self.in_file = 0
        self._account, self._counted = account, 0
        self._file, self._page_copies = file, page_copies
        self._pages: list[bytes] = []  # without a file
        self._page: list[Copied] = []

    def expect(self, source: ObjectInfo) -> int:
        """Make room for one more, before it is copied. Returns the bytes, for `make_room`.

        Raises:
            OutOfMemoryError: there is none.

        """
        n = _bytes_of((source.key, source.etag, source.etag))
        self._account.charge(n, f"rename of {source.key}")
        self._counted += n
        return n

    def release(self, n: int) -> None:
        """What was expected has been added, or was not copied."""
        self._count(-n)

    def add(self, source: ObjectInfo, made: ObjectInfo) -> None:
        """Remember the source's key and version, and the copy's version.

        Raises:
            SpoolFullError: no more can be written down. This one is remembered.

        """
        copied = source.key, source.etag, made.etag
        self._page.append(copied)
        self._count(_bytes_of(copied))
        self.newest = max(self.newest, source.last_modified)
        if len(self._page) >= self._page_copies:
            self._pack()

    def unfiled(self) -> Sequence[Copied]:
        """Those that the file does not hold: none, a page, or a little more if the disk is full.

        A file that has pages gets the last one as well.
        """
        if self.in_file and self._page:
            with suppress(SpoolFullError):  # the journal's record takes it, or says so in the log
                self._pack()
        return self._page

    def pages(self) -> Iterator[Sequence[Copied]]:
        """All of them.

        Raises:
            IntegrityError: what was written down cannot be read.

        """
        yield from map(unpack, self._pages)
        if self._file is not None and self.in_file:
            yield from self._filed(self._file)
        yield self._page

    def _filed(self, file: PageFile) -> Iterator[Sequence[Copied]]:
        found = 0
        for page in _read(file):
            copies = unpack(page)
            found += len(copies)
            yield copies
            if found == self.in_file:
                return
        raise IntegrityError(
            f"{file.path}: {self.in_file - found} of {self.in_file} copied keys cannot be read",
            "check the node's disk",
        )

    def close(self) -> None:
        self._count(-self._counted)
        self._pages, self._page = [], []

    def _pack(self) -> None:
        page, copies = _pack(self._page), self._page
        if self._file is not None:
            self._file.append(page)
            self.in_file += len(copies)
        else:
            self._pages.append(page)
            self._count(PAGE_BYTES + len(page))
        self._page = []
        self._count(-sum(map(_bytes_of, copies)))

    def _count(self, n: int) -> None:
        self._counted += n
        self._account.add(n)


def unpack(page: bytes) -> list[Copied]:
    """Raises ValueError, zlib.error: it is not a page."""
    return [(key, etag, made) for key, etag, made in json.loads(zlib.decompress(page))]


def _pack(copies: Sequence[Copied]) -> bytes:
    return zlib.compress(json.dumps(copies).encode(), level=1)


def _bytes_of(copied: Copied) -> int:
    return COPY_BYTES + sum(map(sys.getsizeof, copied))


def _read(file: PageFile) -> Iterator[bytes]:
    try:
        yield from file
    except OSError as exc:
        raise IntegrityError(f"{file.path}: {exc.strerror}", "check the node's disk") from exc
