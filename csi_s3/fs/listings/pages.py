"""Listings of more than one page, and whether there is any key below a prefix.

S3 may answer LIST with an empty page and a token for the next: it has only passed delete markers.
An empty page is not the end; only a page without a token is.

A store that sends the same token twice, or empty pages only, would be asked without end. S3 passes
a thousand keys or more for each page, so `EMPTY_PAGES` are ten million delete markers in a row; a
look-up reaches its own deadline long before.
"""

from collections.abc import Mapping

from csi_s3.errors import AccessDeniedError, IntegrityError
from csi_s3.s3.store import ListPage, ObjectInfo, ObjectStore

EMPTY_PAGES = 10_000  # in a row
MAX_TOKEN = 8192  # characters: no server takes a longer request line


class Progress:
    """Finds out that a listing has no end. Concurrency: plain code."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._earlier: str | None = None  # after 1, 2, 4, 8, ... pages: it finds any cycle
        self._count = self._empty = 0

    def check(self, page: ListPage) -> None:
        """To be called with each page.

        Raises:
            IntegrityError: the listing makes no progress.

        """
        self._count += 1
        self._empty = 0 if page.objects or page.prefixes else self._empty + 1
        if page.next_token is None:
            return
        if len(page.next_token) > MAX_TOKEN:
            raise self._no_end(f"a continuation token has {len(page.next_token)} characters")
        if page.next_token == self._earlier:
            raise self._no_end("the store repeats a continuation token")
        if self._empty >= EMPTY_PAGES:
            raise self._no_end(f"{self._empty} pages without a key in a row")
        if self._count & (self._count - 1) == 0:
            self._earlier = page.next_token

    def _no_end(self, why: str) -> IntegrityError:
        return IntegrityError(
            f"LIST of {self._prefix!r} has no end: {why}",
            "report it to the vendor of the store; if the bucket is versioned, let a lifecycle rule"
            " remove expired delete markers",
        )


class Pages:
    """The pages under a prefix, in order.

    Concurrency: one `following` at a time. Cancellation: a page that was not returned is fetched
    by the next call.
    """

    def __init__(
        self, store: ObjectStore, prefix: str, *, delimiter: str = "/", max_keys: int = 1000
    ) -> None:
        self.is_over = False
        self._store, self._prefix = store, prefix
        self._delimiter, self._max_keys = delimiter, max_keys
        self._token: str | None = None
        self._progress = Progress(prefix)

    async def following(self) -> ListPage:
        """Ask for the next page; it may be empty. Not to be called when `is_over`.

        Raises:
            IntegrityError: the listing makes no progress.
            VolumeError: the store's answer; the next call asks again.

        """
        page = await self._store.list_page(
            self._prefix, delimiter=self._delimiter, token=self._token, max_keys=self._max_keys
        )
        self._progress.check(page)
        self._token = page.next_token
        self.is_over = page.next_token is None
        return page


async def first_below(store: ObjectStore, prefix: str, n: int) -> Mapping[str, ObjectInfo | None]:
    """The first n keys that begin with prefix, or as many as there are, each with its object.

    Without a delimiter: MinIO lists a prefix under which only delete markers are left, and takes
    five times as long with 3000 of them (19 ms, and 4). A policy may require a delimiter
    (`s3:delimiter`); then there may be prefixes, without an object, among the keys.

    Raises:
        VolumeError: the store's answer; an error is never taken for "nothing there".

    """
    try:
        return await _first(Pages(store, prefix, delimiter="", max_keys=n), n)
    except AccessDeniedError:
        return await _first(Pages(store, prefix, max_keys=n), n)


async def _first(pages: Pages, n: int) -> dict[str, ObjectInfo | None]:
    objects: dict[str, ObjectInfo | None] = {}
    while len(objects) < n and not pages.is_over:
        page = await pages.following()
        objects |= {o.key: o for o in page.objects} | dict.fromkeys(page.prefixes)
    return objects
