"""The bytes of a made-up bucket's objects, held compactly: computed, compressed, or in parts."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

PERIOD = 4096
SMALL = 256  # bytes up to which a body is not worth compressing


class Body(Protocol):
    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> bytes: ...


@lru_cache(maxsize=16)
def _period(seed: int) -> bytes:
    line = f"{seed:015d}\n".encode()
    return line * (PERIOD // len(line))


@dataclass(frozen=True, slots=True)
class Pattern:
    """Computed bytes, the same for a seed: its number, again and again."""

    size: int
    seed: int = 0

    def read(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        if end <= start:
            return b""
        period = _period(self.seed)
        first = start % PERIOD
        repeated = period * ((first + end - start) // PERIOD + 1)
        return repeated[first : first + end - start]


@dataclass(frozen=True, slots=True)
class Small:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, end: int) -> bytes:
        return self.data[start:end]


@dataclass(frozen=True, slots=True)
class Packed:
    size: int
    packed: bytes

    def read(self, start: int, end: int) -> bytes:
        return _unpacked(self.packed)[start:end]


@dataclass(frozen=True, slots=True)
class Slice:
    """What UploadPartCopy takes of another object."""

    whole: Body
    start: int
    size: int

    def read(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        return self.whole.read(self.start + start, self.start + end) if start < end else b""


class Parts:
    def __init__(self, parts: Sequence[Body]) -> None:
        self._parts = tuple(parts)
        self.size = sum(part.size for part in parts)

    def read(self, start: int, end: int) -> bytes:
        found, at = [], 0
        for part in self._parts:
            if at < end and start < at + part.size:
                found.append(part.read(max(0, start - at), end - at))
            at += part.size
        return b"".join(found)


@lru_cache(maxsize=4)
def _unpacked(packed: bytes) -> bytes:
    return zlib.decompress(packed)


def body_of(data: bytes) -> Body:
    """data: copied if it is small, else compressed (most test data is zeros or repeated)."""
    return Small(data) if len(data) <= SMALL else Packed(len(data), zlib.compress(data, 1))
