"""Where the pages of a listing begin, and whether they have the names that they had before.

A position is the number of a page and an index in it. It means the same name as before only if all
pages of this number began, ended and were named alike. So there is a check value for each number. A
mark is needed for some numbers only: a page is found by walking from the last mark before it.

Rejected: to keep this as long as the pages. A program that goes back after they were dropped would
get names by an index among other names, and miss some.
"""

from array import array

from csi_s3.fs.base.memory import Account
from csi_s3.fs.listings.listing_page import ListingPage, Mark

MAX_MARKS_BYTES = 16 << 10  # of a listing
MAX_CHECKS = 1 << 18  # pages, 4 bytes for each; pages behind count as changed
_UNKNOWN, _CHANGED, _FIRST_VALUE = 0, 1, 2


class PageMarks:
    """Concurrency: plain code. Lifetime: while handles read the listing.

    has_changed: a page that was asked for again had other names, or another end.
    """

    __slots__ = ("_account", "_bytes", "_checks", "_marks", "_stride", "has_changed")

    def __init__(self, account: Account) -> None:
        """account: of `MemoryKind.HANDLES`."""
        self.has_changed = False
        self._account, self._bytes = account, 0  # bytes: of marks
        self._marks: dict[int, Mark] = {}
        self._stride = 1
        self._checks = array("I")

    def note(self, page: ListingPage) -> None:
        """A page has come from the store, for the first time or again."""
        before = self._size_bytes
        self._check(page)
        self._remember(page.mark)
        self._account.add(self._size_bytes - before)

    def is_same(self, number: int) -> bool:
        """Whether all pages of this number had the same beginning, end and names."""
        return number < len(self._checks) and self._checks[number] >= _FIRST_VALUE

    def before(self, number: int) -> Mark:
        """The last mark that is remembered up to this page.

        Of several marks of one number it is the first by name: nothing is missed from there on.
        """
        mark = self._marks.get(number)
        if mark is None:
            earlier = (n for n in self._marks if n < number)
            mark = self._marks.get(max(earlier, default=0), Mark(0))
        return mark

    def give_back(self) -> None:
        """No handle reads the listing: it is no longer counted, and is not to be used."""
        self._account.add(-self._size_bytes)

    @property
    def _size_bytes(self) -> int:
        return self._bytes + len(self._checks) * self._checks.itemsize

    def _check(self, page: ListingPage) -> None:
        number, checks = page.mark.number, self._checks
        if number >= MAX_CHECKS:
            return
        missing = number + 1 - len(checks)
        if missing > 0:
            checks.extend([_UNKNOWN] * missing)
        end = None if page.next is None else page.next.low
        value = max(_FIRST_VALUE, hash((page.mark.low, page.digest, end)) & 0xFFFFFFFF)
        if checks[number] == _UNKNOWN:
            checks[number] = value
        elif checks[number] != value:
            checks[number], self.has_changed = _CHANGED, True

    def _remember(self, mark: Mark) -> None:
        """Remember where a page begins; with every second mark, if there are too many."""
        number = mark.number
        known = self._marks.get(number)
        if number % self._stride or (known is not None and known.low < mark.low):
            return
        self._marks[number] = mark
        self._bytes += mark.size_bytes - (0 if known is None else known.size_bytes)
        while self._bytes > MAX_MARKS_BYTES and len(self._marks) > 1:
            self._stride *= 2
            self._marks = {n: m for n, m in self._marks.items() if n % self._stride == 0}
            self._bytes = sum(m.size_bytes for m in self._marks.values())
