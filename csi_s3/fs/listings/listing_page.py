"""One page of a listing, packed, and the mark by which it can be asked for again.

The names of a listing have one order: that of `sort_key`. S3 lists a file `x`, then `x-`, then the
directory `x/`, which hides the file. So a file is only known to be shown when the listing has
passed `x/`, and that is its place. A page has the names of one interval of this order.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from csi_s3.fs.listings.entries import Entry, Packer, Special, SymbolicLink

# Measured, with 1000 and 4000 names of 12 characters, and held by the test of a page.
PAGE_BYTES = 1300  # without its names, with its place in the cache
_CHANGE_BYTES = 95  # and the entry's: of a name whose entry has another length than before
_QUESTION_BYTES = 75  # of an entry that is not of the page's question
_ADDED_BYTES = 95  # and name and entry: of a name that was not there
_ODD_BYTES = 500  # and the strings': an entry that cannot be packed
_STEP, _STEP_BYTES = 16, 45  # of each 16th name, which `find` begins with
_MARK_BYTES = 320
MAX_PAGE_NAMES = 1 << 12  # S3 sends 1000; more would be a long step
MAX_ADDED = 1000  # names; further ones are shown to the next listing only
_CHANGED = 1 << 7
_DIGEST_BITS = (1 << 62) - 1
OTHER_NAMES = -1  # a digest that no page has


def sort_key(name: str) -> str:
    return name + "/"


@dataclass(slots=True, eq=False)
class Mark:
    """Where a page begins.

    number: of the page. low: the names up to it are in pages before; "" at the beginning.
    token: of the LIST that has the first name behind `low`; None: the first.
    pending: lengths of names that begin `low` and belong behind it, in ascending order.
    moves: of the directory's key for which the store gave the token; see `Listing.moves`.
    """

    number: int
    low: str = ""
    token: str | None = None
    pending: bytes = b""
    moves: int = 0

    @property
    def size_bytes(self) -> int:
        return _MARK_BYTES + len(self.low) + len(self.token or "") + len(self.pending)

    def pending_names(self) -> list[str]:
        return [self.low[:length] for length in self.pending]


class PageOwner(Protocol):
    def page_dropped(self, page: "ListingPage") -> None:
        """The cache has dropped it."""


# What is known of a name: its entry, and the number of the question that it answers; see `Sizes`.
Known: TypeAlias = tuple[Entry, int]


class ListingPage:
    """Concurrency: plain code. Lifetime: while it is in the cache, or a call reads it.

    listed: how many names S3 has listed; names that were added come behind them.
    mark, next: where it begins, and where the next one does; None: it is the last one.
    The index of a name in the page stays what it is: a removed name keeps its place, and names that
    are added come behind all others.
    """

    def __init__(
        self,
        owner: PageOwner,
        packer: Packer,
        prefix: str,
        mark: Mark,
        following: Mark | None,
        *,
        moves: int = 0,
    ) -> None:
        """prefix: the directory's key. moves: of that key, as `Listing.moves`."""
        self.owner, self.mark, self.next, self.moves = owner, mark, following, moves
        self.digest = self.question = self.listed = 0
        self.size_bytes = PAGE_BYTES + mark.size_bytes
        self._packer, self._prefix = packer, prefix
        self._blob, self._starts = bytearray(), array("I")
        self._steps: list[bytes] = []  # each 16th key
        self._others: dict[int, bytes | Entry] = {}
        self._questions: dict[int, int] = {}
        self._added: dict[str, int] = {}
        self._added_names: list[str] = []
        self._removed = 0
        self._found = -1  # the index that `find` has found last

    def fill(self, names: Sequence[tuple[str, Entry, int]], *, question: int) -> None:
        """Take over what S3 has listed, in the order of `sort_key`: name, entry, question.

        question: of the page; an entry's own is 0, or that of a later answer.
        """
        self.question = question
        blob: list[bytes] = []
        at, starts, pack, prefix = 0, self._starts, self._packer.pack, self._prefix
        for index, (name, entry, later) in enumerate(names):
            packed = pack(prefix, name, entry)
            if packed is None:
                packed = bytes([_CHANGED])
                self._set_other(index, entry)
            raw = name.encode()
            item = b"%c%b/%b" % (len(raw), raw, packed)
            starts.append(at)
            at += len(item)
            blob.append(item)
            if index % _STEP == 0:
                self._steps.append(raw + b"/")
            if later:
                self._set_question(index, later)
        self._blob = bytearray(b"".join(blob))
        starts.append(at)
        self.listed = len(names)
        self.digest = hash(tuple([n for n, _, _ in names])) & _DIGEST_BITS or 1
        self.size_bytes += at + len(starts) * starts.itemsize
        self.size_bytes += sum(map(len, self._steps)) + _STEP_BYTES * len(self._steps)

    def __len__(self) -> int:
        return self.listed + len(self._added_names)

    @property
    def is_gone(self) -> bool:
        """Whether it had names, and all were removed."""
        return self._removed > 0 and self._removed == len(self)

    def covers(self, key: str) -> bool:
        """Whether a name with this `sort_key` belongs here."""
        return self.mark.low < key and (self.next is None or key <= self.next.low)

    def overlaps(self, low: str, high: str | None) -> bool:
        is_above = high is not None and self.mark.low >= high
        return not is_above and (self.next is None or self.next.low > low)

    def index_behind(self, name: str) -> int:
        """The index of the first name that S3 has listed behind this one."""
        key = sort_key(name).encode()
        index = self._place(key)
        return index + (index < self.listed and self._key_at(index) == key)

    def at(self, index: int) -> tuple[str, Entry, int] | None:
        """A name, and what is known of it. None: it was removed."""
        name = self._name(index)
        known = self._known(index, name)
        return None if known is None else (name, *known)

    def find(self, name: str) -> Known | None:
        """None: it is not there, or was removed."""
        index = self._index(name)
        return None if index is None else self._known(index, name)

    def _known(self, index: int, name: str) -> Known | None:
        entry = self._entry(index, name)
        if entry is Special.ABSENT:
            return None
        return entry, self._questions.get(index, self.question)

    def correct(self, name: str, entry: Entry, *, add: bool, question: int) -> bool:
        """Take over newer knowledge. Returns whether the name is one that was not there before.

        add: also if it was not there. question: 0 of a change by this mount.
        """
        index, is_new = self._index(name), False
        if index is None:
            if not add or entry is Special.ABSENT:
                return False
            is_new = True
            if len(self._added_names) == MAX_ADDED:
                return is_new
            index = len(self)
            self._added[name] = index
            self._added_names.append(name)
            self.size_bytes += _ADDED_BYTES + len(name)
        elif not add and self._entry(index, name) is Special.ABSENT:
            return False
        else:
            self._removed -= self._entry(index, name) is Special.ABSENT
        self._removed += entry is Special.ABSENT
        self._put(index, name, entry)
        if question:
            self._set_question(index, question)
        return is_new

    def _put(self, index: int, name: str, entry: Entry) -> None:
        packed = self._packer.pack(self._prefix, name, entry)
        self._drop_other(index)
        if index < self.listed:
            start, end = self._entry_bounds(index)
            if isinstance(entry, Special) and packed is not None:
                end = start + len(packed)
            if packed is not None and len(packed) == end - start:
                self._blob[start:end] = packed
                return
            self._blob[start] = _CHANGED
        self._set_other(index, entry if packed is None else packed)

    def _set_other(self, index: int, other: bytes | Entry) -> None:
        self._others[index] = other
        self.size_bytes += _other_bytes(other)

    def _drop_other(self, index: int) -> None:
        if index in self._others:
            self.size_bytes -= _other_bytes(self._others.pop(index))

    def _set_question(self, index: int, question: int) -> None:
        if index not in self._questions:
            self.size_bytes += _QUESTION_BYTES
        self._questions[index] = question

    def _entry(self, index: int, name: str) -> Entry:
        if index < self.listed:
            blob, starts = self._blob, self._starts
            start = starts[index]
            start += blob[start] + 2
            if blob[start] != _CHANGED:
                return self._packer.unpack(self._prefix, name, blob, start, starts[index + 1])
        other = self._others[index]
        if isinstance(other, bytes):
            return self._packer.unpack(self._prefix, name, other)
        return other

    def _entry_bounds(self, index: int) -> tuple[int, int]:
        start = self._starts[index]
        return start + self._blob[start] + 2, self._starts[index + 1]

    def _name(self, index: int) -> str:
        if index >= self.listed:
            return self._added_names[index - self.listed]
        start = self._starts[index]
        return self._blob[start + 1 : start + 1 + self._blob[start]].decode()

    def _key_at(self, index: int) -> bytearray:
        start = self._starts[index]
        return self._blob[start + 1 : start + 2 + self._blob[start]]

    def _index(self, name: str) -> int | None:
        key, index = f"{name}/".encode(errors="surrogateescape"), self._found + 1
        # Programs often look names up in their order. No name has a slash: it is this key, or none.
        if index >= self.listed or not self._blob.startswith(key, self._starts[index] + 1):
            index = self._place(key)
            if index >= self.listed or self._key_at(index) != key:
                return self._added.get(name)
        self._found = index
        return index

    def _place(self, key: bytes) -> int:
        """The index of the first name that S3 has listed and that is not before this key."""
        step = bisect_right(self._steps, key)
        blob, starts, low = self._blob, self._starts, max(0, step - 1) * _STEP
        high = min(step * _STEP, self.listed)
        while low < high:
            middle = (low + high) >> 1
            start = starts[middle]
            if blob[start + 1 : start + 2 + blob[start]] < key:
                low = middle + 1
            else:
                high = middle
        return low


def _other_bytes(other: bytes | Entry) -> int:
    if isinstance(other, bytes):
        return _CHANGE_BYTES + len(other)
    if isinstance(other, Special):
        return _CHANGE_BYTES
    info = other.info if isinstance(other, SymbolicLink) else other
    return _ODD_BYTES + len(info.key) + len(info.etag) + len(info.storage_class)
