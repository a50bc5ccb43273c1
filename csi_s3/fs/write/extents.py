"""Where each byte of a file being changed is, and which parts an upload of it is made of.

Plain code, no I/O: `staging` moves bytes, `file_sender` sends them, as these two decide.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from csi_s3.s3.store import Limits


class Origin(Enum):
    """BASE and SPOOL: at the same offset of the stored version, or of the spool's file."""

    BASE = "base"
    SPOOL = "spool"
    ZERO = "zero"  # a hole, or behind a smaller base
    SENT = "sent"  # only in parts of an upload that is not complete: cannot be read


@dataclass(frozen=True, slots=True)
class Extent:
    start: int
    end: int
    origin: Origin

    @property
    def size(self) -> int:
        return self.end - self.start


class Extents:
    """A map without gaps from 0 to `size`; neighbours of one origin are one extent."""

    def __init__(self) -> None:
        self._items: list[Extent] = []

    @property
    def size(self) -> int:
        return self._items[-1].end if self._items else 0

    def __iter__(self) -> Iterator[Extent]:
        return iter(list(self._items))

    def count(self, origin: Origin) -> int:
        return sum(e.size for e in self._items if e.origin is origin)

    def has(self, origin: Origin) -> bool:
        return any(e.origin is origin for e in self._items)

    def within(self, start: int, end: int) -> list[Extent]:
        """The extents of a range, cut to it."""
        extents = []
        for at in range(self._index(start), len(self._items)):
            e = self._items[at]
            if e.start >= end:
                break
            extents.append(Extent(max(e.start, start), min(e.end, end), e.origin))
        return extents

    def put(self, start: int, end: int, origin: Origin) -> None:
        """Set a range, which begins at `size` or before."""
        if start > self.size:
            raise ValueError(f"a gap from {self.size} to {start}")
        if start >= end:
            return
        low = high = self._index(start)
        new = Extent(start, end, origin)
        before: list[Extent] = []
        after: list[Extent] = []
        while high < len(self._items) and self._items[high].start < end:
            e = self._items[high]
            if e.start < start:
                before.append(Extent(e.start, start, e.origin))
            if e.end > end:
                after.append(Extent(end, e.end, e.origin))
            high += 1
        if low > 0 and not before:
            low -= 1
            before.append(self._items[low])
        if high < len(self._items) and not after:
            after.append(self._items[high])
            high += 1
        self._items[low:high] = _merged([*before, new, *after])

    def truncate(self, size: int) -> None:
        """Cut to a size that is not above the present one."""
        at = self._index(size)
        cut = self._items[at:][:1]
        self._items = self._items[:at]
        self._items += [Extent(e.start, size, e.origin) for e in cut if e.start < size]

    def _index(self, offset: int) -> int:
        """Of the extent that holds offset, or the number of extents if none does."""
        at = bisect_right(self._items, offset, key=lambda e: e.start) - 1
        if at >= 0 and offset < self._items[at].end:
            return at
        return at + 1


def _merged(items: list[Extent]) -> list[Extent]:
    merged: list[Extent] = []
    for e in items:
        if merged and merged[-1].origin is e.origin and merged[-1].end == e.start:
            merged[-1] = Extent(merged[-1].start, e.end, e.origin)
        else:
            merged.append(e)
    return merged


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of an upload: a range to be copied inside the store from the base, or sent."""

    start: int
    end: int
    is_copy: bool

    @property
    def size(self) -> int:
        return self.end - self.start


def plan(
    extents: Extents, start: int, *, part_bytes: int, limits: Limits, is_end: bool = True
) -> list[Piece]:
    """Cut [start, size) into the parts of an upload, with as few bytes sent as S3 allows.

    Every part but the last has at least min_part_bytes, so a changed range that is smaller includes
    unchanged bytes after it. A file in more than max_parts pieces is sent in larger ones, if
    possible.

    part_bytes: the size of parts that are sent. is_end: whether the last piece is the upload's
    last.
    """
    min_part_bytes = min_copy_bytes = limits.min_part_bytes
    copy_bytes = copy_part_bytes(extents.size - start, limits)
    while True:
        runs = _runs(extents, start, min_copy_bytes=min_copy_bytes, min_part_bytes=min_part_bytes)
        pieces = [
            piece
            for run in runs
            for piece in _cut(run, copy_bytes if run.is_copy else part_bytes, limits)
        ]
        if not is_end:
            pieces = _filled_up(pieces, min_part_bytes)
        if len(pieces) <= limits.max_parts or min_copy_bytes > extents.size:
            return pieces
        min_copy_bytes *= 2


def copy_part_bytes(size: int, limits: Limits) -> int:
    """How large copied parts are: larger than usual only where that would be too many."""
    copy_bytes = limits.max_copy_part_bytes
    while copy_bytes < limits.max_put_bytes and size > copy_bytes * (limits.max_parts * 9 // 10):
        copy_bytes = min(2 * copy_bytes, limits.max_put_bytes)
    return copy_bytes


def _runs(extents: Extents, start: int, *, min_copy_bytes: int, min_part_bytes: int) -> list[Piece]:
    """Ranges in turn copied and sent, each large enough to be a part; only the last may be less."""
    size = extents.size
    runs: list[Piece] = []
    for e in extents.within(start, size):
        is_copy = e.origin is Origin.BASE and (
            e.size >= min_copy_bytes or (e.end == size and not runs)
        )
        at = e.start
        last = runs[-1] if runs else None
        if last is not None and not last.is_copy and is_copy and last.size < min_part_bytes:
            at = min(e.end, last.start + min_part_bytes)  # the sent run borrows what it lacks
            if e.end - at < min_part_bytes and e.end < size:
                at = e.end
            runs[-1] = last = Piece(last.start, at, is_copy=False)
        if at >= e.end:
            continue
        if last is not None and last.is_copy == is_copy:
            runs[-1] = Piece(last.start, e.end, is_copy=is_copy)
        else:
            runs.append(Piece(at, e.end, is_copy=is_copy))
    return runs


def _cut(run: Piece, piece_bytes: int, limits: Limits) -> list[Piece]:
    pieces, least = [], limits.min_part_bytes
    at = run.start
    while at < run.end:
        end = min(at + piece_bytes, run.end)
        if 0 < run.end - end < least:
            end = run.end if run.end - at <= limits.max_copy_part_bytes else run.end - least
        pieces.append(Piece(at, end, is_copy=run.is_copy))
        at = end
    return pieces


def _filled_up(pieces: list[Piece], min_part_bytes: int) -> list[Piece]:
    """Let the last piece be large enough as well: it takes what it lacks from those before."""
    while len(pieces) > 1 and pieces[-1].size < min_part_bytes:
        *rest, before, last = pieces
        at = last.end - min_part_bytes
        if at - before.start < min_part_bytes:
            at = before.start
        else:
            rest.append(Piece(before.start, at, is_copy=before.is_copy))
        pieces = [*rest, Piece(at, last.end, is_copy=False)]
    return pieces
