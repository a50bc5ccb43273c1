"""Where each byte of a file being changed is. No I/O: `staging` moves bytes as this map says."""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from enum import Enum
from itertools import chain, compress, islice, pairwise, repeat
from operator import eq, floordiv, lt, sub
from typing import NamedTuple, Self

STEP_EXTENTS = 1000  # are handled before other tasks get their turn
EXTENT_BYTES = 10  # measured with tracemalloc, 1,000 to 100,000 extents: 9.1 to 10.2 each


class Origin(Enum):
    """BASE and SPOOL: at the same offset of the stored version, or of the spool's file."""

    BASE = "base"
    SPOOL = "spool"
    ZERO = "zero"  # a hole, or behind a smaller base
    SENT = "sent"  # only in parts of an upload that is not complete: cannot be read

    code: int


_ORIGINS = tuple(Origin)
for _code, _origin in enumerate(_ORIGINS):
    _origin.code = _code


class Extent(NamedTuple):
    start: int
    end: int
    origin: Origin

    @property
    def size(self) -> int:
        return self.end - self.start


LETTERS = {Origin.BASE: "b", Origin.SPOOL: "s", Origin.ZERO: "z", Origin.SENT: "-"}
_TO_LETTERS = bytes.maketrans(bytes(o.code for o in LETTERS), "".join(LETTERS.values()).encode())
_TO_CODES = bytes.maketrans("".join(LETTERS.values()).encode(), bytes(o.code for o in LETTERS))
_IS_CODE = [bytes(code == o.code for code in range(256)) for o in _ORIGINS]


class PackedExtents(NamedTuple):
    """A map as it is stored.

    Its methods have no loop of their own: there may be 100,000 extents.

    ends: of each extent, 8 bytes, the lowest first. origins: of each, one of LETTERS.
    """

    ends: bytes
    origins: str

    @classmethod
    def of(cls, ends: "array[int]", origins: str) -> Self:
        return cls(_little_endian(ends).tobytes(), origins)

    def array(self) -> "array[int]":
        """The ends. Raises ValueError: there is a part of one."""
        return _little_endian(array("Q", self.ends))

    def check(self, *, has_copies: bool = False) -> None:
        """Whether it is the map of a file whose bytes can all be read.

        has_copies: what is only in parts of an upload may be somewhere else.

        Raises:
            ValueError: it is not.

        """
        ends, origins, readable = self.array(), self.origins, "bsz-" if has_copies else "bsz"
        if len(ends) != len(origins) or origins.strip(readable):
            raise ValueError(f"{len(ends)} ends, and the origins {origins[:100]!r}")
        if not all(map(lt, chain((0,), ends), ends)):
            raise ValueError("the ends of extents are not in their order")
        if any(2 * letter in origins for letter in readable):
            raise ValueError("two neighbours of one origin are two extents")


_NO_ENDS, _NO_ORIGINS, _NO_BYTES = array("Q"), bytearray(), [0] * 4  # shared, never changed


class Extents:
    """A map without gaps from 0 to `size`; neighbours of one origin are one extent.

    A file that is written at random has very many, hence the two arrays: an end and an origin for
    each, EXTENT_BYTES in all. `put` finds its place by bisection and moves what is behind it in one
    copy of memory. What counts a range has no loop of its own, as in `PackedExtents`.
    """

    __slots__ = ("_bytes", "_ends", "_origins")

    def __init__(self) -> None:
        self._ends, self._origins = _NO_ENDS, _NO_ORIGINS
        self._bytes = _NO_BYTES  # by origin

    @property
    def size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Extent]:
        """As they are now."""
        start = 0
        for end, code in zip(self._ends[:], self._origins[:], strict=True):
            yield Extent(start, end, _ORIGINS[code])
            start = end

    def copy(self) -> "Extents":
        copy = Extents()
        copy._ends, copy._origins = self._ends[:], self._origins[:]
        copy._bytes = self._bytes[:]
        return copy

    def packed(self) -> PackedExtents:
        return PackedExtents.of(self._ends, self._origins.translate(_TO_LETTERS).decode())

    @classmethod
    def of(cls, packed: PackedExtents) -> "Extents":
        """The map that was packed."""
        extents = cls()
        if packed.origins:
            extents._ends = packed.array()
            extents._origins = bytearray(packed.origins.encode().translate(_TO_CODES))
            sizes = list(map(sub, extents._ends, chain((0,), extents._ends)))
            extents._bytes = [
                sum(compress(sizes, extents._origins.translate(is_code))) for is_code in _IS_CODE
            ]
        return extents

    def count(self, origin: Origin) -> int:
        """Bytes of an origin."""
        return self._bytes[origin.code]

    def has(self, origin: Origin) -> bool:
        return self._bytes[origin.code] > 0

    def count_within(self, start: int, end: int, origin: Origin) -> int:
        """Bytes of an origin in a range."""
        return self._bytes_within(start, end)[origin.code]

    def blocks_within(self, start: int, end: int, origin: Origin, *, block_bytes: int) -> int:
        """How many blocks of a disk have bytes of an origin that are in a range."""
        end = min(end, self.size)
        if start >= end:
            return 0
        first, last = bisect_right(self._ends, start), bisect_left(self._ends, end)
        if first == last:
            is_there = self._origins[first] == origin.code
            return (end - 1) // block_bytes - start // block_bytes + 1 if is_there else 0
        is_code = self._origins[first : last + 1].translate(_IS_CODE[origin.code])
        ends = self._ends[first:last]
        starts = list(compress(chain((start,), ends), is_code))
        ends.append(end)
        lasts: list[int] = list(
            map(floordiv, map(sub, compress(ends, is_code), repeat(1)), repeat(block_bytes))
        )
        firsts: list[int] = list(map(floordiv, starts, repeat(block_bytes)))
        shared: int = sum(map(eq, lasts, islice(firsts, 1, None)))
        return sum(lasts) - sum(firsts) + len(firsts) - shared

    def within(self, start: int, end: int, *, most: int | None = None) -> list[Extent]:
        """The extents of a range, cut to it; the first ones, if there are more than `most`."""
        extents: list[Extent] = []
        end = min(end, self.size)
        at = bisect_right(self._ends, start)
        while start < end and len(extents) != most:
            stop = min(self._ends[at], end)
            extents.append(Extent(start, stop, _ORIGINS[self._origins[at]]))
            start, at = stop, at + 1
        return extents

    def next_of(self, origin: Origin, at: int) -> Extent | None:
        """The first extent of an origin that ends behind `at`, cut to begin there."""
        found = self._origins.find(origin.code, bisect_right(self._ends, at))
        if found < 0:
            return None
        return Extent(max(at, self._start(found)), self._ends[found], origin)

    def next_but(self, origin: Origin, at: int) -> Extent | None:
        """The first extent of another origin that ends behind `at`, cut to begin there."""
        found = bisect_right(self._ends, at)
        if found < len(self._ends) and self._origins[found] == origin.code:
            found += 1
        if found >= len(self._ends):
            return None
        start = max(at, self._start(found))
        return Extent(start, self._ends[found], _ORIGINS[self._origins[found]])

    def large(self, origin: Origin, start: int, *, least_bytes: int) -> list[tuple[int, int]]:
        """The extents of an origin behind start, cut to it, that are not smaller."""
        first = bisect_right(self._ends, start)
        ends = self._ends[first:]
        return [
            (begin, end)
            for begin, end, code in zip(
                chain((start,), ends), ends, self._origins[first:], strict=False
            )
            if end - begin >= least_bytes and code == origin.code
        ]

    def put(self, start: int, end: int, origin: Origin) -> None:
        """Set a range, which begins at `size` or before."""
        ends, origins, code = self._ends, self._origins, origin.code
        n = len(ends)
        if start > self.size:
            raise ValueError(f"a gap from {self.size} to {start}")
        if start >= end:
            return
        if not n:
            self._ends, self._origins, self._bytes = array("Q", [end]), bytearray([code]), [0] * 4
            self._bytes[code] = end
            return
        low = bisect_right(ends, start)
        if low < n and origins[low] == code and end <= ends[low]:
            return
        if low < n and end <= ends[low]:
            self._bytes[origins[low]] -= end - start
        else:
            self._bytes[:] = map(sub, self._bytes, self._bytes_within(start, end))
        self._bytes[code] += end - start
        if low == n and origins[-1] == code:
            ends[-1] = end
            return
        self._splice(low, start, end, code)

    def _splice(self, low: int, start: int, end: int, code: int) -> None:
        """Put a range into the arrays. low: the extent that holds start, or their number."""
        ends, origins = self._ends, self._origins
        n, high = len(ends), bisect_left(ends, end, low)  # of the extent with the byte before end
        items: list[tuple[int, int]] = []
        if self._start(low) < start:
            items.append((start, origins[low]))
        elif low > 0:
            low -= 1
            items.append((ends[low], origins[low]))
        items.append((end, code))
        if high < n and ends[high] == end:
            high += 1
        if high < n:
            items.append((ends[high], origins[high]))
        # of neighbours with one origin, the last end is that of both
        kept = [a for a, b in pairwise(items) if a[1] != b[1]] + items[-1:]
        ends[low : high + 1] = array("Q", [e for e, _ in kept])
        origins[low : high + 1] = bytes([o for _, o in kept])

    def truncate(self, size: int) -> None:
        """Cut to a size that is not above the present one."""
        self._bytes[:] = map(sub, self._bytes, self._bytes_within(size, self.size))
        at = bisect_left(self._ends, size) + 1 if size else 0  # so many are left
        del self._ends[at:], self._origins[at:]
        if at:
            self._ends[-1] = size

    def replace(self, old: Origin, new: Origin) -> None:
        """Let all bytes of one origin have another."""
        at = 0
        while (e := self.next_of(old, at)) is not None:
            self.put(e.start, e.end, new)
            at = e.end

    def _start(self, at: int) -> int:
        return self._ends[at - 1] if at else 0

    def _bytes_within(self, start: int, end: int) -> list[int]:
        """The bytes of each origin in a range, by code."""
        ends, origins = self._ends, self._origins
        found, end = [0] * 4, min(end, self.size)
        if start >= end:
            return found
        first, last = bisect_right(ends, start), bisect_left(ends, end)
        if first == last:
            found[origins[first]] = end - start
            return found
        if last - first > 1:
            inner = origins[first + 1 : last]
            sizes = list(map(sub, ends[first + 1 : last], ends[first : last - 1]))
            for code in range(4):
                if code in inner:
                    found[code] = sum(compress(sizes, inner.translate(_IS_CODE[code])))
        found[origins[first]] += ends[first] - start
        found[origins[last]] += end - ends[last - 1]
        return found


def _little_endian(ends: "array[int]") -> "array[int]":
    if sys.byteorder == "little":
        return ends
    swapped = ends[:]
    swapped.byteswap()
    return swapped
