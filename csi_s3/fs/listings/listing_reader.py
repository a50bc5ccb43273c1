"""Where an open directory handle reads in a listing.

A position, which the kernel keeps for telldir and seekdir, is the number of a page and an index in
it. Positions of 262,144 pages fit the 31 bits of a 32-bit program.
"""

import asyncio
from typing import TypeAlias

from csi_s3.fs.listings.entries import Entry
from csi_s3.fs.listings.lister import Lister
from csi_s3.fs.listings.listing import LISTING_BYTES, READER_BYTES, Listing
from csi_s3.fs.listings.listing_page import (
    MAX_ADDED,
    MAX_PAGE_NAMES,
    OTHER_NAMES,
    ListingPage,
    Mark,
    sort_key,
)

INDEX_BITS = 13
MAX_INDEX = (1 << INDEX_BITS) - 1
assert MAX_PAGE_NAMES + MAX_ADDED <= MAX_INDEX  # noqa: S101 - two constants

# A position; the mark of its page; the digest of the page's names, as they were (0: at the page's
# beginning); the last name before it that S3 had listed in the page; by how much the index in the
# position is more than that in the page.
_Place: TypeAlias = tuple[int, Mark, int, str | None, int]
_UNKNOWN = -2  # a digest: the position is all that is known


class DirectoryReader:
    """One open handle's. Lifetime: from opendir, or rewinddir, to releasedir.

    Concurrency: any number of calls. is_begun: names were given. highest_index: of a position that
    was given.
    """

    def __init__(self, lister: Lister, listing: Listing, *, is_new: bool = True) -> None:
        """Join the listing. is_new: False for a handle that had another reader before.

        Raises:
            TooManyOpenFilesError: there is no memory for a new one.

        """
        is_first = listing.readers == 0
        n = READER_BYTES + is_first * LISTING_BYTES
        if is_new:
            lister.handles.charge(n, "opendir")
        else:
            lister.handles.add(n)
        listing.readers += 1
        self.listing, self.is_begun, self._is_closed = listing, False, False
        self.highest_index = 0
        self._handles = lister.handles
        self._places: tuple[_Place, ...] = ()
        self._places_bytes = 0

    def read(self, start: int) -> "Reading":
        """Begin a call. start: a position, 0 for the beginning. `Reading.end` must follow."""
        for place in self._places:
            if place[0] == start:
                return Reading(self, place)
        number = start >> INDEX_BITS
        return Reading(self, (start, self.listing.mark_near(number), _UNKNOWN, None, 0))

    def note(self, places: tuple[_Place, ...]) -> None:
        """Remember where a call began and ended, unless the handle was closed before the call."""
        if self._is_closed:
            return
        self._places = places
        before, self._places_bytes = self._places_bytes, _marks_bytes(places)
        if self._places_bytes != before:
            self._handles.add(self._places_bytes - before)

    def close(self, *, valid_until: float) -> None:
        """Leave the listing. valid_until: as long its pages may answer look-ups."""
        n, self._places, self._places_bytes = READER_BYTES + self._places_bytes, (), 0
        self._is_closed = True
        self.listing.readers -= 1
        is_last = self.listing.readers == 0
        self._handles.add(-n - is_last * LISTING_BYTES)
        if is_last:
            self.listing.close(valid_until=valid_until)


def _marks_bytes(places: tuple[_Place, ...]) -> int:
    n, seen = 0, None
    for _, mark, *_ in places:  # in the order of pages, or all alike
        if mark is not seen:
            n, seen = n + mark.size_bytes, mark
    return n


class Reading:
    """One call that reads names, from a position on. Concurrency: one task.

    is_over: there are no more names.
    """

    def __init__(self, reader: DirectoryReader, place: _Place) -> None:
        position, self._mark, self._digest, self._last, self._shift = place
        self.is_over = False
        self._reader, self._listing = reader, reader.listing
        self._number = position >> INDEX_BITS
        self._index = position % (1 << INDEX_BITS) - self._shift
        self._page: ListingPage | None = None
        self._has_loaded = False
        self._first = self._before = self._now = place

    def next(self) -> tuple[str, Entry, int] | None:
        """The next name, its entry, and the question that this answers.

        None: `is_over`, or `load` must be called.
        """
        page = self._page
        if page is None or page.moves != self._listing.moves:
            return None
        count = len(page)
        if page.is_gone:
            self._index = count
        while self._index < count:
            index, self._index = self._index, self._index + 1
            found = page.at(index)
            if found is not None:
                if index < page.listed:
                    self._last = found[0]
                return found
        if page.next is None:
            self.is_over = True
        else:
            self._release()
            self._number, self._index = page.next.number, 0
            _, self._mark, self._digest, self._last, self._shift = self._place_ahead(page.next)
        return None

    def _place_ahead(self, mark: Mark) -> _Place:
        """The beginning of the next page, without names that were given when pages were others."""
        position, last = mark.number << INDEX_BITS, self._last
        if last is not None and sort_key(last) > mark.low:
            return position, mark, OTHER_NAMES, last, 0
        return position, mark, 0, None, 0

    def give(self) -> int:
        """The name that `next` returned is given to the kernel. Returns the position behind it."""
        page = self._page
        if page is not None and page.next is not None and self._index == len(page):
            place = self._place_ahead(page.next)
        else:
            index = self._index + self._shift
            self._reader.highest_index = max(self._reader.highest_index, index)
            position = self._number << INDEX_BITS | index
            place = position, self._mark, self._digest, self._last, self._shift
        self._reader.is_begun = True
        self._before, self._now = self._now, place
        return place[0]

    def load_now(self) -> bool:
        """Have the page here that is to be read, if that needs no wait: as `load`, the first time.

        Further pages of one call are left to `load`, which lets other tasks run.
        """
        if self._has_loaded or self._mark.number != self._number:
            return False
        page = self._listing.page_now(self._mark)
        if page is None:
            return False
        self._begin(page)
        return True

    async def load(self) -> None:
        """Have the page here that is to be read.

        Raises:
            VolumeError: the store's answer; the next call asks again.

        """
        self._release()
        if self._has_loaded:
            await asyncio.sleep(0)  # pages in the cache need no other wait
        listing = self._listing
        while self._mark.number < self._number:  # after seekdir: from the last mark before it
            await asyncio.sleep(0)
            page = await listing.page(self._mark)
            if page.next is not None and listing.is_same(page.mark.number):
                self._mark = page.next
            else:  # it cannot be known where the next ones began: no name is missed from here on
                self._number, self._index, self._shift = page.mark.number, len(page), 0
        self._begin(await listing.page(self._mark))

    def _begin(self, page: ListingPage) -> None:
        """Go on in this page."""
        self._has_loaded = True
        if self._digest == _UNKNOWN:
            if not self._listing.is_same(self._number):  # names twice rather than not at all
                self._move(page, 0, above=self._reader.highest_index)
        elif self._digest not in (0, page.digest):  # it was asked for again, and has other names
            index = 0 if self._last is None else page.index_behind(self._last)
            self._move(page, index, above=self._index + self._shift)
        self._page, self._digest = page, page.digest
        self._listing.hold(page)

    def _move(self, page: ListingPage, index: int, *, above: int) -> None:
        """Go on at another index. Positions are above those given, so that none has two names."""
        shift = max(0, above - index)
        has_room = shift + len(page) + MAX_ADDED <= MAX_INDEX
        self._index, self._shift = index, shift if has_room else 0

    def end(self) -> None:
        """The call is over; a call that goes on where it began or ended finds its place."""
        self._release()
        self._reader.note((self._now, self._before, self._first))

    def _release(self) -> None:
        if self._page is not None:
            self._listing.let_go(self._page)
            self._page = None
