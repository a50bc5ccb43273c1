"""One directory: the names that only this mount has, its changes, and its listings.

Listings that are already merged are corrected at once; see `changes` for those that are not.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from csi_s3.fs.base.memory import Account
from csi_s3.fs.listings.changes import Changes, NameObservation
from csi_s3.fs.listings.entries import Entry
from csi_s3.fs.listings.listing_page import Known, sort_key
from csi_s3.s3.store import ObjectInfo

MAX_LISTINGS = 32  # that keep pages; a change corrects each of them

InodeT = TypeVar("InodeT")


class KnownListing(Protocol):
    """What a directory needs of a listing."""

    valid_until: float | None  # None: a handle is open

    def find(self, name: str) -> Known | None:
        """What its pages say of a name, if they say anything."""

    def correct(self, name: str, entry: Entry, *, add: bool, question: int) -> None:
        """As `ListingPage.correct`."""

    def drop_pages(self) -> None:
        """Give its pages up; it asks for them again."""


class Directory(Generic[InodeT]):
    """Concurrency: plain code only. Lifetime: as its inode.

    local: the inodes of names that S3 does not have yet.
    changes: for requests that are under way.
    listings: those that have pages, the newest last.
    newest: the listing that was begun last, if a handle reads it.
    moved_at: the number of its last rename, by the count of `DirectoryMoves`; 0: there was none.
    """

    def __init__(self, account: Account) -> None:
        """account: of `MemoryKind.CHANGES`."""
        self.local: dict[str, InodeT] = {}
        self.changes = Changes(account)
        self.listings: list[KnownListing] = []
        self.newest: KnownListing | None = None
        self.hidden_logged = False
        self.moved_at = 0
        self._local_order: list[str] = []

    # names that S3 does not have

    def add_local(self, name: str, inode: InodeT) -> None:
        if name not in self.local:
            insort(self._local_order, name, key=sort_key)
        self.local[name] = inode

    def drop_local(self, name: str) -> None:
        if self.local.pop(name, None) is not None:
            del self._local_order[bisect_left(self._local_order, sort_key(name), key=sort_key)]

    def local_between(self, low: str, high: str | None, *, at_most: int) -> Sequence[str]:
        """The first behind `low`, up to `high` (None: to the end), in the order of `sort_key`."""
        order = self._local_order
        if not order:
            return ()
        first = bisect_right(order, low, key=sort_key)
        end = len(order) if high is None else bisect_right(order, high, key=sort_key)
        return order[first : min(end, first + at_most)]

    # what this mount does, and what S3 answers

    def observe(self, name: str) -> NameObservation:
        """While S3 is asked about a name: to be entered."""
        return self.changes.observe(name)

    def note(self, name: str, entry: Entry) -> None:
        """Record a change by this mount that S3 has taken (or that is local)."""
        self.changes.note(name, entry)
        for listing in self.listings:
            listing.correct(name, entry, add=True, question=0)

    def learn(self, name: str, entry: Entry, *, question: int) -> None:
        """Correct what listings say of a name, including pages that are still to come."""
        if isinstance(entry, ObjectInfo):
            self.changes.learn(name, entry, question=question)
        for listing in self.listings:
            listing.correct(name, entry, add=False, question=question)

    # listings

    def has_pages(self, listing: KnownListing) -> None:
        """It has some from now on; above the limit, the one that was begun first loses its own."""
        if listing not in self.listings:
            self.listings.append(listing)
            if len(self.listings) > MAX_LISTINGS:
                self.listings[0].drop_pages()

    def has_no_pages(self, listing: KnownListing) -> None:
        if listing in self.listings:
            self.listings.remove(listing)

    def opened(self, listing: KnownListing) -> None:
        """A handle was opened: what was listed for closed ones answers no look-ups any more."""
        self.newest = listing
        for closed in [x for x in self.listings if x.valid_until is not None]:
            closed.drop_pages()

    def closed(self, listing: KnownListing) -> None:
        """No handle reads it. Its pages answer look-ups, if no newer listing does."""
        if self.newest is listing:
            self.newest = None
        if self.newest is not None:
            listing.drop_pages()

    def from_listing(self, name: str, now: float) -> tuple[Entry | None, int]:
        """What the newest valid listing says of a name, and as of which question; None: ask S3."""
        for listing in reversed(self.listings):
            if listing.valid_until is None or now < listing.valid_until:
                found = listing.find(name)
                if found is not None:
                    return found
        return None, 0
