"""Turns one answer to LIST into names: plain code, without what is known of earlier pages.

Objects and prefixes come in key order: `x` sorts before `x-`, and that before `x/`. An object is
hidden by a prefix of the same name, which may come pages later, so it is pending until the listing
has passed that place. So a file is still pending when the link comes that it hides: `x` sorts
before `x.rclonelink`, and that before `x/`. Every pending name begins the key at which the listing
is: there are at most 255.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from csi_s3.fs.base.keys import is_visible, link_name
from csi_s3.fs.listings.changes import Change
from csi_s3.fs.listings.entries import Entry, Special, SymbolicLink
from csi_s3.fs.listings.listing_page import sort_key
from csi_s3.s3.store import ListPage, ObjectInfo

Pending = dict[str, tuple[Entry, int]]  # by length; with the question, as in `Merge.names`


class Relevant:
    """Of the changes since a page was asked for, those that decide which names it has.

    A program may change a hundred thousand names while a LIST is under way; few are of one page. Of
    names that the answer lacks, the first are enough: the others come behind the end of the page.
    """

    def __init__(self, merge: "Merge", answer: ListPage, *, at_most: int) -> None:
        """at_most: names of a page."""
        cut, low = len(merge.prefix), merge.low or ""
        keys = [o.key[cut:] for o in answer.objects] + [p[cut:] for p in answer.prefixes]
        self._low = low
        self._high = None if answer.next_token is None else max([low, *keys])
        names = (key.removesuffix("/") for key in keys)
        self._known = {link_name(n) or n for n in names} | set(keys) | set(merge.pending)
        self._listed: dict[str, Change] = {}
        self._new: dict[str, Change] = {}
        self._at_most = at_most + 1

    def add(self, name: str, change: Change) -> None:
        """The latest of a name counts."""
        if name in self._known:
            self._listed[name] = change
        elif not change.is_own or change.entry is Special.ABSENT:
            self._new.pop(name, None)
        elif self._is_inside(name):
            self._new[name] = change
            if len(self._new) > 2 * self._at_most:
                self._new = self._first()

    def changes(self) -> Mapping[str, Change]:
        return self._listed | self._first()

    def _is_inside(self, name: str) -> bool:
        key, high = sort_key(name), self._high
        return key > self._low and (high is None or key <= high or high.startswith(name))

    def _first(self) -> dict[str, Change]:
        if len(self._new) <= self._at_most:
            return self._new
        return {n: self._new[n] for n in sorted(self._new, key=sort_key)[: self._at_most]}


@dataclass(slots=True)
class Merge:
    """What a listing has behind `low`.

    low: where the listing was; afterwards, where it is. None: at its end.
    pending: names that begin `low`, and are shown if no directory has the name.
    names: in the order of `sort_key`, with the question of an entry that is not LIST's (else 0).
    hidden: keys that cannot be shown, and the first of them.
    """

    prefix: str
    low: str | None
    pending: Pending
    has_links: bool
    names: list[tuple[str, Entry, int]] = field(default_factory=list)
    hidden: int = 0
    first_hidden: str = ""

    def take(self, answer: ListPage, changes: Mapping[str, Change]) -> None:
        """Merge an answer. changes: since it was asked for, those that are `Relevant`.

        Names up to `low` were merged before: the answer may begin earlier.
        """
        cut, low = len(self.prefix), self.low or ""
        own = {n: c for n, c in changes.items() if c.is_own}
        for name in own.keys() & self.pending.keys():
            del self.pending[name]
        items: list[tuple[str, ObjectInfo | None]] = [(o.key[cut:], o) for o in answer.objects]
        items += [(p[cut:], None) for p in answer.prefixes]
        items.sort(key=itemgetter(0))
        for position, info in items:
            if position <= low:
                continue
            if self.pending:
                self._pass(position)
            if info is None:
                self._directory(position, own)
            else:
                self._object(position, info, changes)
        if answer.next_token is None:
            self._pass(None)
            self.low = None
        elif items:
            self.low = max(low, items[-1][0])
        if own:
            self._add_own(low, own)

    def add_local(self, names: Iterable[str]) -> None:
        """Add names of this mount that S3 does not list."""
        listed = {name for name, _, _ in self.names} if names else set()
        missing = [(name, Special.LOCAL, 0) for name in names if name not in listed]
        if missing:
            self.names += missing
            self._sort()

    def cut(self, at_most: int) -> bool:
        """Leave all but the first names to the next page. Returns whether there were more."""
        if len(self.names) <= at_most:
            return False
        self.names, rest = self.names[:at_most], self.names[at_most:]
        self.low = low = sort_key(self.names[-1][0])
        # What S3 has listed before `low`, to be shown behind:
        self.pending = {n: entry for n, entry in self.pending.items() if low.startswith(n)}
        for name, entry, question in rest:
            if low.startswith(name):
                self._suspend(name, entry, question)
        return True

    def _pass(self, position: str | None) -> None:
        """The listing is at this key: pending names whose directory sorts before it are names."""
        while self.pending:
            name = next(reversed(self.pending))
            if position is not None and position.startswith(name) and position <= sort_key(name):
                return
            self.names.append((name, *self.pending.pop(name)))

    def _object(self, component: str, info: ObjectInfo, changes: Mapping[str, Change]) -> None:
        link = link_name(component) if self.has_links else None
        name = component if link is None else link
        change = changes.get(name) if changes else None
        if name == "" or (change is not None and change.is_own):
            return  # the directory's own marker, or a name that this mount has changed
        if not is_visible(component):
            self._hide(component)
        elif link is not None:
            if name not in self.pending:
                self._suspend(name, SymbolicLink(info), 0)
        elif change is not None:
            self._suspend(name, change.entry, change.question)
        else:
            self._suspend(name, info, 0)

    def _directory(self, component: str, own: Mapping[str, Change]) -> None:
        name = component[:-1]
        if name in own:
            return
        self.pending.pop(name, None)
        if is_visible(name):
            self.names.append((name, Special.DIRECTORY, 0))
        else:
            self._hide(component)

    def _hide(self, component: str) -> None:
        self.first_hidden = self.first_hidden or f"{self.prefix}{component}"
        self.hidden += 1

    def _suspend(self, name: str, entry: Entry, question: int) -> None:
        is_last = not self.pending or len(next(reversed(self.pending))) < len(name)
        self.pending[name] = entry, question
        if not is_last:
            self.pending = dict(sorted(self.pending.items(), key=lambda item: len(item[0])))

    def _add_own(self, low: str, own: Mapping[str, Change]) -> None:
        """Names of this interval that this mount has made since the answer was asked for."""
        count = len(self.names)
        for name, change in own.items():
            if change.entry is Special.ABSENT or (key := sort_key(name)) <= low:
                continue
            if self.low is None or key <= self.low:
                self.names.append((name, change.entry, change.question))
            elif self.low.startswith(name):
                self._suspend(name, change.entry, change.question)
        if len(self.names) > count:
            self._sort()

    def _sort(self) -> None:
        self.names.sort(key=lambda item: sort_key(item[0]))
