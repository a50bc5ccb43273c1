"""The keys of a made-up bucket: many that are computed, and those that clients have written.

A `Family` costs no memory until one of its keys is deleted or replaced; then a byte for each key.
What clients write is held as usual: some 300 bytes for each small object.
"""

import re
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import takewhile
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from tests.scale.made_up_bodies import Body, Pattern

MADE = 1_767_225_600  # seconds: when the computed objects were made
BEHIND = "\U0010ffff"  # sorts behind every character of a key


class Stored(NamedTuple):
    """One object. etag: with its quotes. modified: seconds since the epoch."""

    body: Body
    etag: str
    modified: int

    @property
    def size(self) -> int:
        return self.body.size


class Family:
    """Computed keys in order: PREFIX + f0000012, or PREFIX + d000012/f0003.

    directories: 0: the files are directly below the prefix. files: in each directory. Numbers have
    as many digits as the largest, so that the order of the keys is that of the numbers.
    """

    def __init__(
        self, prefix: str, *, directories: int = 0, files: int, size_of: Callable[[int], int]
    ) -> None:
        self.prefix, self._files, self._size_of = prefix, files, size_of
        self.n = max(directories, 1) * files
        self._is_deep = directories > 0
        form = f"f%0{max(7 if not directories else 4, len(str(files - 1)))}d"
        if directories:
            form = f"d%0{max(7, len(str(directories - 1)))}d/" + form
        self._form = prefix + form
        self._known = re.compile(re.sub(r"%0(\d+)d", r"(\\d{\1})", self._form))
        self._directory = re.compile(re.sub(r"%0(\d+)d/.*", r"(\\d{\1})/", self._form) + BEHIND)
        self._gone: bytearray | None = None

    def key(self, i: int) -> str:
        return self._form % (divmod(i, self._files) if self._is_deep else i)

    def find(self, key: str) -> int | None:
        """The number of a key that is not gone."""
        found = self._known.fullmatch(key)
        if found is None:
            return None
        last = int(found[found.re.groups])
        i = int(found[1]) * self._files + last if self._is_deep else last
        if last >= self._files or i >= self.n:
            return None
        return None if self._gone is not None and self._gone[i] else i

    def stored(self, i: int) -> Stored:
        return Stored(Pattern(self._size_of(i), i), f'"{i:032x}"', MADE)

    def remove(self, i: int) -> None:
        if self._gone is None:
            self._gone = bytearray(self.n)
        self._gone[i] = 1

    def numbers_from(self, start: str) -> Iterator[int]:
        """The numbers of the keys that are not gone, from the first one at or behind start."""
        behind = self._directory.fullmatch(start) if self._is_deep else None
        if start <= self.prefix:
            i = 0
        elif behind:
            i = (int(behind[1]) + 1) * self._files
        else:
            i = bisect_left(range(self.n), start, key=self.key)
        if self._gone is None:
            yield from range(i, self.n)
            return
        while 0 <= (i := self._gone.find(0, i)) < self.n:
            yield i
            i += 1


_Head: TypeAlias = tuple[str, Family | None, int]  # key; who computes it, from which number


class Keys:
    """All objects of the bucket. Concurrency: plain code."""

    def __init__(self, families: Sequence[Family] = ()) -> None:
        self._families = families
        self._written: dict[str, Stored] = {}
        self._order: list[str] = []

    def find(self, key: str) -> Stored | None:
        found = self._written.get(key)
        if found is None:
            for family in self._families:
                if (i := family.find(key)) is not None:
                    return family.stored(i)
        return found

    def put(self, key: str, stored: Stored) -> None:
        if key not in self._written:
            self.remove(key)
            insort(self._order, key)
        self._written[key] = stored

    def remove(self, key: str) -> None:
        if self._written.pop(key, None) is not None:
            del self._order[bisect_left(self._order, key)]
            return
        for family in self._families:
            if (i := family.find(key)) is not None:
                family.remove(i)

    def page(
        self, prefix: str, *, delimiter: str, after: str, max_keys: int
    ) -> tuple[list[tuple[str, Stored]], list[str], str]:
        """Objects, common prefixes, and behind what the next page begins ("" if this is the last).

        after: only keys, and common prefixes, that sort behind it.
        """
        objects: list[tuple[str, Stored]] = []
        prefixes: list[str] = []
        is_prefix = bool(delimiter) and after.endswith(delimiter) and len(after) > len(prefix)
        behind = after + (BEHIND if is_prefix else "\0") if after else ""
        start: str | None = max(prefix, behind)
        last, free = "", max_keys
        while start is not None:
            keys, start = self._from(prefix, start), None
            for key, family, i in keys:
                if free == 0:
                    return objects, prefixes, last
                free -= 1
                end = key.find(delimiter, len(prefix)) if delimiter else -1
                if end < 0:
                    last = key
                    stored = self._written[key] if family is None else family.stored(i)
                    objects.append((key, stored))
                else:
                    last = key[: end + len(delimiter)]
                    prefixes.append(last)
                    start = last + BEHIND
                    break
        return objects, prefixes, ""

    def _from(self, prefix: str, start: str) -> Iterator[_Head]:
        """The keys with this prefix from start on, in order."""
        streams = [
            _family_from(family, start)
            for family in self._families
            if family.prefix.startswith(prefix) or prefix.startswith(family.prefix)
        ]
        if self._order:
            streams.append(self._written_from(start))
        found = streams[0] if len(streams) == 1 else merge(*streams, key=itemgetter(0))
        return takewhile(lambda head: head[0].startswith(prefix), found)

    def _written_from(self, start: str) -> Iterator[_Head]:
        for at in range(bisect_left(self._order, start), len(self._order)):
            yield self._order[at], None, 0


def _family_from(family: Family, start: str) -> Iterator[_Head]:
    for i in family.numbers_from(start):
        yield family.key(i), family, i
