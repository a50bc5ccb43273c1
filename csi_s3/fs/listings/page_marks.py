"""Where pages of a listing begin: of many pages, some; the others are found by walking on."""

from csi_s3.fs.base.memory import Account
from csi_s3.fs.listings.listing_page import Mark

MAX_MARKS_BYTES = 16 << 10  # of a listing


class PageMarks:
    """Concurrency: plain code.

    account: counts their memory.
    """

    __slots__ = ("_account", "_bytes", "_marks", "_stride")

    def __init__(self, account: Account) -> None:
        self._account = account
        self._marks: dict[int, Mark] = {}
        self._stride, self._bytes = 1, 0

    def nearest(self, number: int) -> Mark:
        """The last one up to this page, or the beginning."""
        nearest = self._marks.get(number)
        if nearest is not None:
            return nearest
        return max(
            (m for n, m in self._marks.items() if n < number), key=_number_of, default=Mark(0)
        )

    def remember(self, mark: Mark) -> None:
        """Remember where a page begins; with every second mark, if there are too many."""
        if mark.number % self._stride or mark.number in self._marks:
            return
        self._marks[mark.number] = mark
        before, self._bytes = self._bytes, self._bytes + mark.size_bytes
        while self._bytes > MAX_MARKS_BYTES:
            self._stride *= 2
            self._marks = {n: m for n, m in self._marks.items() if n % self._stride == 0}
            self._bytes = sum(m.size_bytes for m in self._marks.values())
        self._account.add(self._bytes - before)

    def drop(self) -> None:
        self._account.add(-self._bytes)
        self._marks, self._bytes, self._stride = {}, 0, 1


def _number_of(mark: Mark) -> int:
    return mark.number
