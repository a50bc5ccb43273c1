"""One directory: its listings, and changes by this mount that S3's answers may not show yet.

A LIST or HEAD that was under way when this mount changed a name must not undo the change. So each
question to S3 is an observation that began at some sequence number, and a name that was changed
after that number keeps this mount's state. Listings that are already merged are corrected at once.

Rejected: remembering own changes for a fixed time (too short for a slow LIST, or too long for a
later change by another client).
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from csi_s3.errors import VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import is_visible, link_name
from csi_s3.fs.base.outcome import outcome
from csi_s3.fs.names.entries import Entries, Entry, Special, SymbolicLink
from csi_s3.fs.names.pages import Pages
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.s3.store import ListPage, ObjectInfo

log = logging.getLogger(__name__)

InodeT = TypeVar("InodeT")


class Directory(Generic[InodeT]):
    """Concurrency: plain code only. Lifetime: as its inode.

    local: the inodes of names that S3 does not have yet.
    listings: those of open handles, the newest last.
    """

    def __init__(self) -> None:
        self.local: dict[str, InodeT] = {}
        self.listings: list[Listing] = []
        self.hidden_logged = False
        self._snapshot: Listing | None = None
        self._snapshot_until = 0.0
        self._sequence = 0
        self._observers = 0
        self._changes: dict[str, tuple[int, Entry]] = {}
        self._answers: dict[str, tuple[int, ObjectInfo, int]] = {}

    def begin(self) -> int:
        """Begin an observation; returns its number, for `change_since`. `end` must follow."""
        self._observers += 1
        return self._sequence

    def end(self) -> None:
        """End an observation: its answer was taken over, or dropped."""
        self._observers -= 1
        if self._observers == 0:
            self._changes.clear()
        if not any(x.is_fetching for x in self.listings):
            self._answers.clear()

    @contextmanager
    def observe(self) -> Iterator[int]:
        start = self.begin()
        try:
            yield start
        finally:
            self.end()

    def change_since(self, start: int, name: str) -> Entry | None:
        """What this mount made of the name since then; None: it did nothing."""
        sequence, entry = self._changes.get(name, (0, Special.ABSENT))
        return entry if sequence > start else None

    def answer_since(self, start: int, name: str) -> tuple[ObjectInfo, int] | None:
        """The version in an answer of S3 since then, and the number of its question."""
        sequence, info, question = self._answers.get(name, (0, None, 0))
        return (info, question) if info is not None and sequence > start else None

    def note(self, name: str, entry: Entry) -> None:
        """Record a change by this mount that S3 has taken (or that is local)."""
        self._sequence += 1
        if self._observers:
            self._changes[name] = (self._sequence, entry)
        self.learn(name, entry, add=True)

    def learn(self, name: str, entry: Entry, *, add: bool = False, question: int = 0) -> None:
        """Correct what listings say of a name, including pages that are still to come."""
        if isinstance(entry, ObjectInfo) and any(x.is_fetching for x in self.listings):
            self._sequence += 1
            self._answers[name] = self._sequence, entry, question
        for listing in {id(x): x for x in (*self.listings, self._snapshot) if x}.values():
            listing.correct(name, entry, add=add, question=question)

    def opened(self, listing: "Listing") -> None:
        self.listings.append(listing)

    def closed(self, listing: "Listing", *, valid_until: float) -> None:
        """A handle was closed; the listing of the last one answers look-ups for some time."""
        self.listings.remove(listing)
        if not self.listings:
            self._snapshot, self._snapshot_until = listing, valid_until

    def drop_snapshot(self, listing: "Listing") -> None:
        """If the listing still answers look-ups, end that."""
        if self._snapshot is listing:
            self._snapshot = None

    def moved(self, key: str) -> None:
        """The directory has another key: versions listed under the old one are not valid."""
        self._snapshot = None
        for listing in self.listings:
            listing.moved(key)

    def from_snapshot(self, name: str, now: float) -> tuple[Entry | None, int]:
        """What the newest valid listing says of a name, and as of which question; None: ask S3."""
        for listing in reversed(self.listings):
            if name in listing.entries or listing.is_complete:
                return listing.entries.get(name), listing.question_of(name)
        if self.listings:
            return None, 0
        if self._snapshot is not None and now < self._snapshot_until:
            return self._snapshot.entries.get(name), self._snapshot.question_of(name)
        self._snapshot = None
        return None, 0


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file or link, unless the listing comes to the key of a directory of its name."""

    name: str
    entry: ObjectInfo | SymbolicLink
    directory: bytes


class Listing:
    """The names of one directory as one open handle sees them, page by page.

    names: in the order in which they were first listed, so that an index is a stable position; one
        without an entry was removed since.
    Lifetime: from opendir to releasedir, and as a snapshot for a while longer. Concurrency:
    `more` may be called by several tasks and fetches each page once. Cancellation: a cancelled
    `more` leaves the page under way for the next call.
    """

    def __init__(
        self,
        context: MountContext,
        prefix: str,
        directory: Directory[Any],
        next_question: Callable[[], int],
    ) -> None:
        """next_question: see `Sizes`."""
        self.names: list[str] = []
        self.entries = Entries(prefix)
        self.hidden_keys: list[str] = []
        self.is_complete = False
        self._context, self._prefix, self._directory = context, prefix, directory
        self._next_question = next_question
        self._question = self._page_question = 0
        self._corrections: dict[str, int] = {}
        self._candidates: list[_Candidate] = []
        self._pages = Pages(context.store, prefix)
        self._start = 0
        self._page: asyncio.Task[ListPage | VolumeError] | None = None

    async def more(self) -> None:
        """Merge the next page, and start fetching the one after it.

        Raises:
            VolumeError: what the store answered; the next call asks again.

        """
        if self.is_complete:
            return
        page = self._page = self._page or self._fetch()
        try:
            answer = await asyncio.shield(page)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            is_relisted = page.cancelled() and self._page is not page
            if not is_relisted or (task is not None and task.cancelling()):
                raise
            return  # the directory was renamed: the next call lists its new key
        if self._page is not page:
            return  # another caller has merged it
        self._page = None
        try:
            if isinstance(answer, VolumeError):
                raise answer
            self._merge(answer)
            self._question = self._page_question
        finally:
            self._directory.end()
        if self._pages.is_over:
            self._finish()
        else:
            self._page = self._fetch()

    @property
    def is_fetching(self) -> bool:
        return self._page is not None

    def moved(self, prefix: str) -> None:
        """The directory was renamed: list the new key; S3 is asked about names already listed."""
        self.close()
        self._candidates.clear()
        self._prefix, self._pages = prefix, Pages(self._context.store, prefix)
        self.entries.moved(prefix)

    def question_of(self, name: str) -> int:
        """The number of the question that an entry answers; without a correction, of its page."""
        return self._corrections.get(name, self._question)

    def close(self) -> None:
        """End what is under way; plain code."""
        if self._page is not None:
            self._page.cancel()
            self._page = None
            self._directory.end()

    def report_hidden(self) -> None:
        """Count keys that cannot be shown; the first time in a directory, log one."""
        if not self.hidden_keys:
            return
        metrics.HIDDEN_NAMES.inc(len(self.hidden_keys))
        if not self._directory.hidden_logged:
            self._directory.hidden_logged = True
            log.info(
                "%d keys in %r cannot be shown as names, the first: %r",
                len(self.hidden_keys),
                self._prefix,
                self.hidden_keys[0],
                extra={"op": "readdir", "code": "hidden-names"},
            )

    def correct(self, name: str, entry: Entry, *, add: bool, question: int) -> None:
        """Take over newer knowledge of one name. question: 0 of a change by this mount."""
        was_candidate = self._is_candidate(name)
        self._drop_candidates(name)
        if entry is Special.ABSENT:
            self.entries.remove(name)
        elif add or was_candidate or name in self.entries:
            self._add(name, entry)
            if question:
                self._corrections[name] = question

    def _fetch(self) -> "asyncio.Task[ListPage | VolumeError]":
        """The observation lasts until the page is merged: changes until then must be remembered."""
        self._start, self._page_question = self._directory.begin(), self._next_question()
        return self._context.group.create_task(outcome(self._pages.following))

    def _merge(self, page: ListPage) -> None:
        """Objects and prefixes in key order: `x` sorts before `x-`, and that before `x/`.

        An object is hidden by a prefix of the same name, which may come pages later, so it stays a
        candidate until the listing has passed that place. So a file is still a candidate when the
        link comes that it hides: `x` sorts before `x.rclonelink`, and that before `x/`.
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
        link = link_name(component) if self._context.config.symlinks else None
        name = component if link is None else link
        if name == "" or self._directory.change_since(self._start, name) is not None:
            return  # the directory's own marker, or a name that this mount has changed
        if not is_visible(component):
            self.hidden_keys.append(info.key)
            return
        if link is None:
            answer = self._directory.answer_since(self._start, name)
            if answer is not None:
                info, self._corrections[name] = answer
            self._add_candidate(name, info)
        elif not self._is_candidate(name):
            self._add_candidate(name, SymbolicLink(info))

    def _add_candidate(self, name: str, entry: ObjectInfo | SymbolicLink) -> None:
        self._candidates.append(_Candidate(name, entry, f"{self._prefix}{name}/".encode()))

    def _is_candidate(self, name: str) -> bool:
        return any(c.name == name for c in self._candidates)

    def _drop_candidates(self, name: str) -> None:
        self._candidates = [c for c in self._candidates if c.name != name]

    def _directory_prefix(self, prefix: str) -> None:
        name = prefix[len(self._prefix) : -1]
        if self._directory.change_since(self._start, name) is not None:
            return
        self._drop_candidates(name)
        if is_visible(name):
            self._add(name, Special.DIRECTORY)
        else:
            self.hidden_keys.append(prefix)

    def _pass(self, position: bytes) -> None:
        """The listing is at this key: candidates whose directory sorts before it are names."""
        if self._candidates:
            for c in self._candidates:
                if c.directory < position:
                    self._add(c.name, c.entry)
            self._candidates = [c for c in self._candidates if c.directory >= position]

    def _add(self, name: str, entry: Entry) -> None:
        if not self.entries.was_seen(name):  # removed and made again: at its old position
            self.names.append(name)
        self.entries.put(name, entry)

    def _finish(self) -> None:
        for c in self._candidates:
            self._add(c.name, c.entry)
        self._candidates = []
        for name in self._directory.local:
            if name not in self.entries:
                self._add(name, Special.LOCAL)
        self.is_complete = True
