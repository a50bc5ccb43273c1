"""What this mount made of a directory's names while requests that may not show it are under way.

A LIST or HEAD that was under way when this mount changed a name must not undo the change. So each
question to S3 is an observation. A look-up observes one name. A page of a listing observes all
names of its directory, for as long as its LIST takes, and a change is remembered until the pages
that were asked for before it have come.

Rejected: remembering own changes for a fixed time (too short for a slow LIST, or too long for a
later change by another client).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from csi_s3.fs.base.memory import Account
from csi_s3.fs.listings.entries import Entry
from csi_s3.s3.store import ObjectInfo

STEP = 4000  # names, in one step of the event loop
RECORD_BYTES = 400  # and the name's; measured: 390 for 7,000 names, with their entries


class NameObservation:
    """Lasts for a block. Not a generator: each look-up takes one.

    change: what this mount made of the name since; None: it did nothing.
    """

    __slots__ = ("_changes", "change", "name")

    def __init__(self, changes: "Changes", name: str) -> None:
        self._changes, self.name = changes, name
        self.change: Entry | None = None

    def __enter__(self) -> Self:
        self._changes.begin_name(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._changes.end_name(self)


class PageObservation:
    """Lasts for a block. Not a generator: each page of each directory takes one.

    start: of the changes' count.
    is_void: there was no room for the changes since: the answer must be asked for again.
    """

    __slots__ = ("_changes", "is_void", "start")

    def __init__(self, changes: "Changes") -> None:
        self._changes, self.start, self.is_void = changes, 0, False

    def __enter__(self) -> Self:
        self._changes.begin(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._changes.end(self)


@dataclass(slots=True)
class Change:
    """question: of the answer of S3 that it was; 0: it was a change by this mount.

    is_own: this mount changed the name, whether or not S3 has answered since.
    """

    sequence: int
    entry: Entry
    question: int
    is_own: bool


class Changes:
    """Concurrency: plain code. Lifetime: as the directory's inode."""

    def __init__(self, account: Account) -> None:
        """account: of `MemoryKind.CHANGES`."""
        self._account = account
        self._sequence = self._bytes = 0  # bytes: of all records
        self._names: dict[str, list[NameObservation]] = {}
        self._pages: OrderedDict[PageObservation, None] = OrderedDict()  # the oldest first
        self._records: OrderedDict[str, Change] = OrderedDict()  # the oldest first

    @property
    def is_observed(self) -> bool:
        return bool(self._names or self._pages)

    def observe(self, name: str) -> NameObservation:
        """While S3 is asked about one name: to be entered."""
        return NameObservation(self, name)

    def begin_name(self, observation: NameObservation) -> None:
        """For `NameObservation`, as `end_name`."""
        self._names.setdefault(observation.name, []).append(observation)

    def end_name(self, observation: NameObservation) -> None:
        observers = self._names[observation.name]
        observers.remove(observation)
        if not observers:
            del self._names[observation.name]

    def observe_page(self) -> PageObservation:
        """While a page is asked for: to be entered."""
        return PageObservation(self)

    def begin(self, observation: PageObservation) -> None:
        """For `PageObservation`."""
        observation.start = self._sequence
        self._pages[observation] = None

    def has_any_since(self, observation: PageObservation) -> bool:
        return self._sequence > observation.start

    async def each_since(
        self, observation: PageObservation, take: Callable[[str, Change], None]
    ) -> None:
        """Call `take` for each name that changed since then, the oldest first.

        Other tasks run between two steps, and a name that they change comes once more. None runs
        between the last name and the return.
        """
        seen, names = observation.start, list(self._records)
        while names:
            before, seen = seen, self._sequence
            for at in range(0, len(names), STEP):
                if at:
                    await asyncio.sleep(0)
                for name in names[at : at + STEP]:
                    change = self._records.get(name)
                    if change is not None and change.sequence > before:
                        take(name, change)
            names = self._newer(seen)

    def _newer(self, sequence: int) -> list[str]:
        """Names that changed after that; few."""
        newer = []
        for name, change in reversed(self._records.items()):
            if change.sequence <= sequence:
                break
            newer.append(name)
        newer.reverse()
        return newer

    def note(self, name: str, entry: Entry) -> None:
        """This mount has changed a name."""
        for observation in self._names.get(name, ()):
            observation.change = entry
        self._record(name, entry, question=0)

    def learn(self, name: str, info: ObjectInfo, *, question: int) -> None:
        """S3 has answered what a name stands for, maybe later than it lists the name."""
        self._record(name, info, question=question)

    def _record(self, name: str, entry: Entry, *, question: int) -> None:
        if not self._pages:
            return
        before = self._records.pop(name, None)
        if before is not None:
            self._count(-_record_bytes(name))
        while self._pages and self._account.free_bytes < _record_bytes(name):
            oldest = next(iter(self._pages))
            oldest.is_void = True
            self.end(oldest)
        if not self._pages:
            return
        self._sequence += 1
        is_own = question == 0 or (before is not None and before.is_own)
        self._records[name] = Change(self._sequence, entry, question, is_own)
        self._count(_record_bytes(name))

    def _count(self, n: int) -> None:
        self._bytes += n
        self._account.add(n)

    def end(self, observation: PageObservation) -> None:
        """Forget what no page that is still under way can miss; some of it later, if it is much."""
        self._pages.pop(observation, None)
        if not self._records:
            return
        oldest = next(iter(self._pages), None)
        before = self._bytes
        if oldest is None:
            self._records.clear()
            self._bytes = 0
        for _ in range(min(STEP, len(self._records))):
            name, change = next(iter(self._records.items()))
            if oldest is not None and change.sequence > oldest.start:
                break
            del self._records[name]
            self._bytes -= _record_bytes(name)
        self._account.add(self._bytes - before)


def _record_bytes(name: str) -> int:
    return RECORD_BYTES + len(name)
