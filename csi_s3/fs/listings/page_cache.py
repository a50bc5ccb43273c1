"""The pages of all listings of a mount: a cache, whose oldest pages give way.

A page that was dropped is asked for again when it is needed. Closed listings stay for
`metadata-ttl`, to answer the look-ups that follow (`ls -l`, `find -size`).
"""

from collections import OrderedDict
from typing import Protocol

from csi_s3.fs.base.memory import Account, Memory, MemoryKind
from csi_s3.fs.listings.listing_page import ListingPage


class ClosedListing(Protocol):
    def drop_pages(self) -> None:
        """Let the cache have the room."""


class PageCache:
    """Concurrency: plain code. Lifetime: as the mount."""

    def __init__(self, memory: Memory) -> None:
        self.account: Account = memory.cache(MemoryKind.LISTINGS, self._shrink)
        self._pages: OrderedDict[ListingPage, None] = OrderedDict()  # the oldest first
        self._closed: OrderedDict[ClosedListing, float] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._pages)

    def add(self, page: ListingPage) -> None:
        """It may be dropped at once, if there is no room at all."""
        self._pages[page] = None
        self.account.add(page.size_bytes)
        self._keep_limit()

    def touch(self, page: ListingPage) -> None:
        """It was used: it is the newest now."""
        if page in self._pages:
            self._pages.move_to_end(page)

    def grown(self, page: ListingPage, n: int) -> None:
        """It has n more bytes, or fewer."""
        if n and page in self._pages:
            self.account.add(n)
            self._keep_limit()

    def drop(self, page: ListingPage) -> None:
        if page in self._pages:
            del self._pages[page]
            self.account.add(-page.size_bytes)
            page.owner.page_dropped(page)

    def has_room(self, page: ListingPage) -> bool:
        """Whether a page like this one can be asked for ahead without harm to its neighbours."""
        return 4 * page.size_bytes <= self.account.free_bytes + self.account.used_bytes

    def closed(self, listing: ClosedListing, *, valid_until: float) -> None:
        """No handle needs it; it may answer look-ups until then (on the monotonic clock)."""
        self._closed[listing] = valid_until

    def forget(self, listing: ClosedListing) -> None:
        """It has no pages any more."""
        self._closed.pop(listing, None)

    def expire(self, now_s: float) -> None:
        """Drop closed listings that are too old to answer."""
        while self._closed:
            listing, valid_until = next(iter(self._closed.items()))
            if now_s < valid_until:
                return
            del self._closed[listing]
            listing.drop_pages()

    def _keep_limit(self) -> None:
        if self.account.free_bytes < 0:
            self._shrink(-self.account.free_bytes)

    def _shrink(self, n: int) -> None:
        enough = self.account.used_bytes - n
        while self._pages and self.account.used_bytes > enough:
            self.drop(next(iter(self._pages)))
