"""The names of one directory, page by page, for all handles that read it at about the same time.

A listing is a chain of pages. Each page says where the next one begins (`Mark`), so a reader needs
no page but the one it is at. Pages are a cache (`PageCache`): one that was dropped is asked for
again by its mark. Then it may have other names, and may end elsewhere; the reader goes on behind
the last name that it has given.

Rejected: keeping all names of an open listing (a directory of ten million names needs 2.5 GB);
marks of all pages (only seekdir needs old ones: see `page_marks`).
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from csi_s3.errors import (
    IntegrityError,
    InvalidNameError,
    StoreRefusedError,
    VolumeError,
)
from csi_s3.fs.base.outcome import outcome
from csi_s3.fs.listings.changes import Change
from csi_s3.fs.listings.directory import Directory
from csi_s3.fs.listings.entries import Entry, Special
from csi_s3.fs.listings.lister import Lister
from csi_s3.fs.listings.listing_page import MAX_PAGE_NAMES, Known, ListingPage, Mark, sort_key
from csi_s3.fs.listings.merging import Merge, Pending, Relevant
from csi_s3.fs.listings.page_marks import PageMarks
from csi_s3.fs.listings.pages import Progress
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.s3.store import ListPage

log = logging.getLogger(__name__)

# Measured with a page and a handle, which are counted elsewhere: 3,660 for an empty directory.
LISTING_BYTES = 1300
READER_BYTES = 400  # of each handle that reads it, without its marks


class Listing:
    """Lifetime: from opendir to the last releasedir, and as long as it has pages after that.

    Concurrency: `page` may be called by several tasks; each page is asked for once. Cancellation: a
    cancelled `page` leaves the request under way for the next call.

    readers: how many handles are open. valid_until: of a closed one, for look-ups.
    has_additions: names were added that not every position shows.
    """

    def __init__(self, lister: Lister, directory: Directory[Any], ino: int) -> None:
        """ino: of the directory."""
        self.readers = 0
        self.valid_until: float | None = None
        self.begun_s: float | None = None  # on the monotonic clock: the first question
        self.has_additions = False
        self.hidden, self.first_hidden = 0, ""
        self._lister, self._cache = lister, lister.cache
        self._directory, self._ino = directory, ino
        self._moves, self._seen_moves = 0, -1  # of it, and of all directories: it is as of then
        self._pages: list[ListingPage] = []  # disjoint, in order, and all of one key
        self._found: ListingPage | None = None  # one of them, in which `find` has looked last
        self._marks: PageMarks | None = PageMarks(lister.handles)  # None: it is closed
        self._furthest = self._merged = -1  # numbers of pages: the last one asked for, and merged
        self._held: dict[ListingPage, int] = {}  # pages that calls read now
        self._pending: Pending = {}
        self._pending_mark = Mark(0)
        self._tasks: dict[tuple[int, str], asyncio.Task[ListingPage | VolumeError]] = {}

    @property
    def prefix(self) -> str:
        """The directory's present key."""
        return self._lister.key_of(self._ino)

    @property
    def moves(self) -> int:
        """The number of the rename that gave the directory its key: older pages are not valid."""
        moves = self._lister.moves
        if self._seen_moves != moves.latest:
            self._moves, self._seen_moves = moves.last_of(self._ino), moves.latest
        return self._moves

    @property
    def _is_moved(self) -> bool:
        """Whether the pages have been listed under another key."""
        return bool(self._pages) and self._pages[0].moves != self.moves

    def _drop_moved(self) -> None:
        if self._is_moved:
            self.drop_pages()

    def is_joinable(self, since_s: float) -> bool:
        """Whether another handle may read it: it has all names, and was begun after that time.

        Nor have pages changed that were asked for again: positions in them are not exact.
        """
        is_new = self.begun_s is None or self.begun_s > since_s
        if self._marks is None or self._marks.has_changed or self.has_additions:
            return False
        return self.readers > 0 and is_new

    def close(self, *, valid_until: float) -> None:
        """No handle needs it any more; its pages may answer look-ups until then."""
        self.valid_until = valid_until
        self.stop()
        if self._marks is not None:
            self._marks.give_back()
            self._marks = None
        self._report_hidden()
        if self._pages:
            self._cache.closed(self, valid_until=valid_until)

    def _report_hidden(self) -> None:
        """Count keys that cannot be shown; the first time in a directory, log one."""
        if not self.hidden:
            return
        metrics.HIDDEN_NAMES.inc(self.hidden)
        if not self._directory.hidden_logged:
            self._directory.hidden_logged = True
            log.info(
                "%d keys in %r cannot be shown as names, the first: %r",
                self.hidden,
                self.prefix,
                self.first_hidden,
                extra={"op": "readdir", "code": "hidden-names"},
            )

    def stop(self) -> None:
        """End what is under way; plain code."""
        for task in [*self._tasks.values()]:
            task.cancel()
        self._tasks.clear()

    # pages

    async def page(self, mark: Mark) -> ListingPage:
        """The page at a mark; the next one is asked for ahead, the first time.

        Raises:
            VolumeError: what the store answered; the next call asks again.

        """
        page = self.page_now(mark)
        if page is None:
            answer = await asyncio.shield(self._task(mark))
            if isinstance(answer, VolumeError):
                raise answer
            page = answer
            self._ask_ahead(page)
        return page

    def page_now(self, mark: Mark) -> ListingPage | None:
        """As `page`, if the page is in the cache."""
        page = self.cached(mark)
        if page is not None:
            self._cache.touch(page)
            self._ask_ahead(page)
        return page

    def _ask_ahead(self, page: ListingPage) -> None:
        ahead = page.next
        if ahead is not None and ahead.number > self._furthest and self._cache.has_room(page):
            _ = self._task(ahead)

    def cached(self, mark: Mark) -> ListingPage | None:
        self._drop_moved()
        at = bisect_left(self._pages, mark.number, key=_number)
        if at == len(self._pages):
            return None
        page = self._pages[at]  # may have no names, as of an empty directory
        return page if (page.mark.number, page.mark.low) == (mark.number, mark.low) else None

    def mark_near(self, number: int) -> Mark:
        """The last mark that is known up to this page, and from which nothing is missed."""
        self._drop_moved()
        nearest = Mark(0) if self._marks is None else self._marks.before(number)
        at = bisect_left(self._pages, number, key=_number)
        for page in self._pages[max(0, at - 1) : at + 1]:
            if self.is_same(page.mark.number):
                for mark in (page.mark, page.next):
                    if mark is not None and nearest.number < mark.number <= number:
                        nearest = mark
        return nearest

    def is_same(self, number: int) -> bool:
        """Whether a page has the names that it had whenever it was asked for before."""
        return self._marks is not None and self._marks.is_same(number)

    def hold(self, page: ListingPage) -> None:
        """A call reads it: it is corrected, even if the cache drops it. `let_go` must follow."""
        self._held[page] = self._held.get(page, 0) + 1
        self._directory.has_pages(self)

    def let_go(self, page: ListingPage) -> None:
        self._held[page] -= 1
        if not self._held[page]:
            del self._held[page]
            self._rest()

    # what is known of names

    def find(self, name: str) -> Known | None:
        if self._is_moved:
            return None
        before = self._found
        if before is not None and (known := before.find(name)) is not None:
            return known
        page = self._page_of(sort_key(name))
        if page is None or page is before:
            return None
        self._found = page
        return page.find(name)

    def correct(self, name: str, entry: Entry, *, add: bool, question: int) -> None:
        """Take over newer knowledge of one name, as `ListingPage.correct`."""
        key = sort_key(name)
        page = self._page_of(key)
        for known in (page, *[p for p in self._held if p is not page and p.covers(key)]):
            if known is not None:
                before = known.size_bytes
                self.has_additions |= known.correct(name, entry, add=add, question=question)
                self._cache.grown(known, known.size_bytes - before)
        if name in self._pending:
            if entry is Special.ABSENT:
                del self._pending[name]
            else:
                self._pending[name] = entry, question
        elif add and entry is not Special.ABSENT and self._is_just_passed(name, key):
            self._pending[name] = entry, question
            self._pending = dict(sorted(self._pending.items(), key=lambda item: len(item[0])))
            self.has_additions = True

    def _is_just_passed(self, name: str, key: str) -> bool:
        """Whether S3 would have listed it before the end of the last page, to be shown behind."""
        low = self._pending_mark.low
        return low.startswith(name) and name != low and low < key

    def _page_of(self, key: str) -> ListingPage | None:
        at = bisect_left(self._pages, key, key=_low) - 1
        return self._pages[at] if at >= 0 and self._pages[at].covers(key) else None

    # the cache

    def drop_pages(self) -> None:
        for page in [*self._pages]:
            self._cache.drop(page)

    def page_dropped(self, page: ListingPage) -> None:
        """By the cache."""
        self._found = None
        self._pages.remove(page)
        if not self._pages:
            self._cache.forget(self)
            self._rest()

    def _rest(self) -> None:
        """Without pages it gets no corrections, so it cannot know entries either."""
        if not self._pages and not self._held:
            self._pending, self._pending_mark = {}, Mark(0)
            self._directory.has_no_pages(self)

    def _store(self, page: ListingPage) -> None:
        self._drop_moved()
        high = None if page.next is None else page.next.low
        at = bisect_left(self._pages, page.mark.number, key=_number)
        while at < len(self._pages) and (
            self._pages[at].mark.number == page.mark.number
            or self._pages[at].overlaps(page.mark.low, high)
        ):
            self._cache.drop(self._pages[at])
        while at > 0 and self._pages[at - 1].overlaps(page.mark.low, high):
            at -= 1
            self._cache.drop(self._pages[at])
        self._pages.insert(at, page)
        self._directory.has_pages(self)
        self._cache.add(page)

    # asking

    def _task(self, mark: Mark) -> "asyncio.Task[ListingPage | VolumeError]":
        """The task that asks for a page: the one under way, or a new one."""
        key = mark.number, mark.low
        task = self._tasks.get(key)
        if task is None:
            self._furthest = max(self._furthest, mark.number)
            context = self._lister.context
            if self.begun_s is None:
                self.begun_s = context.clock.monotonic_s()

            async def work() -> ListingPage | VolumeError:
                try:
                    return await outcome(lambda: self._fetch(mark))
                finally:
                    if self._tasks.get(key) is task:
                        del self._tasks[key]

            task = self._tasks[key] = context.group.create_task(work())
        return task

    async def _fetch(self, mark: Mark) -> ListingPage:
        """Ask for the page at a mark; from the beginning, if the store refuses the old token."""
        is_valid = mark.moves == self.moves
        try:
            return await self._walk(mark, mark.token if is_valid else None)
        except (StoreRefusedError, InvalidNameError):
            if mark.token is None or not is_valid:
                raise
            return await self._walk(mark, None)

    async def _walk(self, mark: Mark, token: str | None) -> ListingPage:
        """Ask until there is a key behind the mark, or the end."""
        progress, moves = Progress(self.prefix), self.moves
        while True:
            if self.moves != moves:  # renamed: all tokens are of the old key
                progress, moves, token = Progress(self.prefix), self.moves, None
            prefix, question = self.prefix, self._lister.next_question()
            with self._directory.changes.observe_page() as observation:
                answer = await self._lister.context.store.list_page(prefix, token=token)
                if self.moves != moves or observation.is_void:
                    continue
                progress.check(answer)
                _check_size(answer, prefix)
                changes: Mapping[str, Change] = {}
                if self._directory.changes.has_any_since(observation):
                    relevant = Relevant(self._begin(mark, prefix), answer, at_most=MAX_PAGE_NAMES)
                    await self._directory.changes.each_since(observation, relevant.add)
                    if self.moves != moves or observation.is_void:
                        continue
                    changes = relevant.changes()
                merge = self._begin(mark, prefix)
                merge.take(answer, changes)
            if merge.low is None or merge.low > mark.low:
                return self._page(mark, answer.next_token, merge, question, token)
            token = answer.next_token

    def _begin(self, mark: Mark, prefix: str) -> Merge:
        """What is pending behind other marks than the newest is asked for by name, as if local."""
        if mark is self._pending_mark:
            pending = dict(self._pending)
        else:
            pending = dict.fromkeys(mark.pending_names(), (Special.LOCAL, 0))
        has_links = self._lister.context.config.symlinks
        return Merge(prefix, mark.low, pending, has_links)

    def _page(
        self, mark: Mark, next_token: str | None, merge: Merge, question: int, token: str | None
    ) -> ListingPage:
        """Store what was merged. token: of the answer."""
        names = self._directory.local_between(mark.low, merge.low, at_most=MAX_PAGE_NAMES + 1)
        merge.add_local(names)
        if merge.cut(MAX_PAGE_NAMES):
            next_token = token
        ahead = None
        if merge.low is not None:
            pending = bytes(len(name) for name in merge.pending)
            ahead = Mark(mark.number + 1, merge.low, next_token, pending, self.moves)
            self._pending_mark, self._pending = ahead, merge.pending
        if mark.number > self._merged:
            self._merged = mark.number
            self.hidden += merge.hidden
            self.first_hidden = self.first_hidden or merge.first_hidden
        page = ListingPage(self, self._lister.packer, merge.prefix, mark, ahead, moves=self.moves)
        page.fill(merge.names, question=question)
        if self._marks is not None:
            self._marks.note(page)
        self._store(page)
        return page


def _number(page: ListingPage) -> int:
    return page.mark.number


def _low(page: ListingPage) -> str:
    return page.mark.low


def _check_size(answer: ListPage, prefix: str) -> None:
    n = len(answer.objects) + len(answer.prefixes)
    if n > MAX_PAGE_NAMES:
        raise IntegrityError(
            f"LIST of {prefix!r} was answered with {n} keys, where 1000 were asked for",
            "the store does not follow the S3 API: report it to the store's vendor",
        )
