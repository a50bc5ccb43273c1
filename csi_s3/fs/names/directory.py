"""One directory: its listings, and what this mount changed that S3's answers may not show yet.

A LIST or HEAD that was under way when we changed a name must not undo the change: every question
to S3 is an observation that began at some sequence number, and a name changed by us after that
number keeps our state. Listings that are already merged are corrected at once.

Rejected: remembering own changes for a time (either too short for a slow LIST or too long for
somebody else's later change).
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from csi_s3.errors import VolumeError
from csi_s3.fs.base.keys import is_visible, link_name
from csi_s3.fs.base.outcome import outcome
from csi_s3.fs.names.entries import Entries, Entry, Special, SymbolicLink
from csi_s3.fs.names.pages import Pages
from csi_s3.s3.store import ListPage, ObjectInfo, ObjectStore

InodeT = TypeVar("InodeT")


class Directory(Generic[InodeT]):
    """Concurrency: plain code only. Lifetime: as its inode.

    local: the inodes of names that S3 does not have yet.
    """

    def __init__(self) -> None:
        self.local: dict[str, InodeT] = {}
        self.listings: list[Listing] = []  # of open handles, the newest last
        self.hidden_logged = False
        self._snapshot: Listing | None = None
        self._snapshot_until = 0.0
        self._sequence = 0
        self._observers = 0
        self._changed: dict[str, tuple[int, Entry]] = {}
        self._learned: dict[str, tuple[int, ObjectInfo, int]] = {}

    def begin(self) -> int:
        """A question to S3 starts; returns when, for `changed_since`. `end` must follow."""
        self._observers += 1
        return self._sequence

    def end(self) -> None:
        """Its answer was taken over, or dropped."""
        self._observers -= 1
        if self._observers == 0:
            self._changed.clear()
        if not any(x.is_asking for x in self.listings):
            self._learned.clear()

    @contextmanager
    def observe(self) -> Iterator[int]:
        began = self.begin()
        try:
            yield began
        finally:
            self.end()

    def changed_since(self, began: int, name: str) -> Entry | None:
        """What we made of the name after that, or None if we did nothing."""
        sequence, found = self._changed.get(name, (0, Special.ABSENT))
        return found if sequence > began else None

    def learned_since(self, began: int, name: str) -> tuple[ObjectInfo, int] | None:
        """The version that S3 told of in an answer after that, and when it was asked."""
        sequence, info, asked = self._learned.get(name, (0, None, 0))
        return (info, asked) if info is not None and sequence > began else None

    def note(self, name: str, found: Entry) -> None:
        """We changed the name, and S3 has taken the change (or the name is local)."""
        self._sequence += 1
        if self._observers:
            self._changed[name] = (self._sequence, found)
        self.learn(name, found, add=True)

    def learn(self, name: str, found: Entry, *, add: bool = False, asked: int = 0) -> None:
        """S3 told something newer about a name than merged listings may hold, or pages to come."""
        if isinstance(found, ObjectInfo) and any(x.is_asking for x in self.listings):
            self._sequence += 1
            self._learned[name] = self._sequence, found, asked
        for listing in {id(x): x for x in (*self.listings, self._snapshot) if x}.values():
            listing.correct(name, found, add=add, asked=asked)

    def opened(self, listing: "Listing") -> None:
        self.listings.append(listing)

    def closed(self, listing: "Listing", *, valid_until: float) -> None:
        """A handle was closed; its listing answers look-ups for some time if it is the last."""
        self.listings.remove(listing)
        if not self.listings:
            self._snapshot, self._snapshot_until = listing, valid_until

    def drop_snapshot(self, listing: "Listing") -> None:
        """The listing answers no look-ups any more, if it still did."""
        if self._snapshot is listing:
            self._snapshot = None

    def moved(self, key: str) -> None:
        """The directory has another key: the versions listed under the old one are none now."""
        self._snapshot = None
        for listing in self.listings:
            listing.moved(key)

    def from_snapshot(self, name: str, now: float) -> tuple[Entry | None, int]:
        """What the newest valid listing says of a name it has, and as of when; None: ask S3."""
        for listing in reversed(self.listings):
            if name in listing.entries or listing.is_complete:
                return listing.entries.get(name), listing.asked_of(name)
        if self.listings:
            return None, 0
        if self._snapshot is not None and now < self._snapshot_until:
            return self._snapshot.entries.get(name), self._snapshot.asked_of(name)
        self._snapshot = None
        return None, 0


@dataclass(frozen=True, slots=True)
class _Undecided:
    """A name that is hidden if the listing comes to the key of a directory of that name."""

    name: str
    entry: ObjectInfo | SymbolicLink
    directory: bytes


class Listing:
    """The names of one directory as one open handle sees them, page by page.

    names: in the order in which they were first seen, so that an index is a stable position; one
        without entry was removed since.
    Lifetime: from opendir to releasedir, and as a snapshot for a while longer. Concurrency:
    `more` may be called by several tasks and fetches each page once. Cancellation: a cancelled
    `more` leaves the page under way for the next call.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        directory: Directory[Any],
        group: asyncio.TaskGroup,
        *,
        links: bool,
        ask: Callable[[], int],
    ) -> None:
        """links: whether `x.rclonelink` is the symbolic link `x`. ask: counts questions to S3."""
        self.names: list[str] = []
        self.entries = Entries(prefix)
        self.hidden: list[str] = []
        self.is_complete = False
        self._store, self._prefix, self._directory = store, prefix, directory
        self._group, self._links, self._ask = group, links, ask
        self._asked = self._page_asked = 0
        self._corrected: dict[str, int] = {}
        self._undecided: list[_Undecided] = []
        self._pages = Pages(store, prefix)
        self._began = 0
        self._page: asyncio.Task[ListPage | VolumeError] | None = None

    async def more(self) -> None:
        """Merge the next page, and start fetching the one after it.

        Raises:
            VolumeError: what the store answered; the next call asks again.

        """
        if self.is_complete:
            return
        if self._page is None:
            self._start()
        page = self._page
        assert page is not None  # noqa: S101 - for mypy
        try:
            answer = await asyncio.shield(page)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._is_relisted(page) or (task is not None and task.cancelling()):
                raise
            return  # the directory was renamed: the next call begins anew
        if self._page is not page:
            return  # another caller has merged it
        self._page = None
        try:
            if isinstance(answer, VolumeError):
                raise answer
            self._merge(answer)
            self._asked = self._page_asked
        finally:
            self._directory.end()
        if self._pages.is_over:
            self._finish()
        else:
            self._start()

    @property
    def is_asking(self) -> bool:
        return self._page is not None

    def moved(self, prefix: str) -> None:
        """The directory was renamed: what is to come is listed anew, known names are asked for."""
        self.close()
        self._undecided.clear()
        self._prefix, self._pages = prefix, Pages(self._store, prefix)
        self.entries.moved(prefix)

    def _is_relisted(self, page: "asyncio.Task[ListPage | VolumeError]") -> bool:
        return page.cancelled() and self._page is not page

    def asked_of(self, name: str) -> int:
        """When S3 was asked what an entry is, by the count of questions; the youngest page's."""
        return self._corrected.get(name, self._asked)

    def close(self) -> None:
        """End what is under way; plain code."""
        if self._page is not None:
            self._page.cancel()
            self._page = None
            self._directory.end()

    def correct(self, name: str, found: Entry, *, add: bool, asked: int) -> None:
        """Take over what is known of one name since it was listed; asked: 0 of an own change."""
        was_undecided = self._is_undecided(name)
        self._drop_undecided(name)
        if found is Special.ABSENT:
            self.entries.remove(name)
        elif add or was_undecided or name in self.entries:
            self._add(name, found)
            if asked:
                self._corrected[name] = asked

    def _start(self) -> None:
        """The observation lasts until the page is merged: changes meanwhile must be remembered."""
        self._began, self._page_asked = self._directory.begin(), self._ask()
        self._page = self._group.create_task(outcome(self._pages.following))

    def _merge(self, page: ListPage) -> None:
        """Objects and prefixes in key order: `x` sorts before `x-`, and that before `x/`.

        An object is hidden by a prefix of the same name, which may come pages later, so it is held
        back until the listing has passed that place. So a file is still held when the link comes
        that it hides: `x` sorts before `x.rclonelink`, and that before `x/`.
        """
        items = sorted(
            [(o.key.encode(errors="surrogateescape"), o) for o in page.objects]
            + [(p.encode(errors="surrogateescape"), None) for p in page.prefixes],
            key=lambda item: item[0],
        )
        for position, info in items:
            self._pass(position)
            if info is not None:
                self._object(info)
            else:
                self._directory_prefix(position.decode(errors="surrogateescape"))

    def _object(self, info: ObjectInfo) -> None:
        component = info.key[len(self._prefix) :]
        link = link_name(component) if self._links else None
        name = component if link is None else link
        if name == "" or self._directory.changed_since(self._began, name) is not None:
            return  # the directory's own marker, or a name that we know better
        if not is_visible(component):
            self.hidden.append(info.key)
            return
        if link is None:
            learned = self._directory.learned_since(self._began, name)
            if learned is not None:
                info, self._corrected[name] = learned
            self._defer(name, info)
        elif not self._is_undecided(name):
            self._defer(name, SymbolicLink(info))

    def _defer(self, name: str, found: ObjectInfo | SymbolicLink) -> None:
        self._undecided.append(_Undecided(name, found, f"{self._prefix}{name}/".encode()))

    def _is_undecided(self, name: str) -> bool:
        return any(u.name == name for u in self._undecided)

    def _drop_undecided(self, name: str) -> None:
        self._undecided = [u for u in self._undecided if u.name != name]

    def _directory_prefix(self, prefix: str) -> None:
        name = prefix[len(self._prefix) : -1]
        if self._directory.changed_since(self._began, name) is not None:
            return
        self._drop_undecided(name)
        if not is_visible(name):
            self.hidden.append(prefix)
            return
        self._add(name, Special.DIRECTORY)

    def _pass(self, position: bytes) -> None:
        """The listing is at this key: names whose directory would have come before are no such."""
        if not self._undecided:
            return
        for u in self._undecided:
            if u.directory < position:
                self._add(u.name, u.entry)
        self._undecided = [u for u in self._undecided if u.directory >= position]

    def _add(self, name: str, found: Entry) -> None:
        if not self.entries.was_seen(name):  # removed and made again: at its old position
            self.names.append(name)
        self.entries.put(name, found)

    def _finish(self) -> None:
        for u in self._undecided:
            self._add(u.name, u.entry)
        self._undecided = []
        for name in self._directory.local:
            if name not in self.entries:
                self._add(name, Special.LOCAL)
        self.is_complete = True
