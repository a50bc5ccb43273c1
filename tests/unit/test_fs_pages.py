"""Listings of many pages: empty ones in between, and stores whose listing has no end."""

import asyncio

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    ExistsError,
    IntegrityError,
    NotEmptyError,
    NotFoundError,
)
from csi_s3.fs.listings.pages import Pages, first_below
from csi_s3.s3.memory_store import MemoryStore
from csi_s3.s3.store import ListPage
from tests.unit.fs_mount import mount, mounts, paged

__all__ = ["mount", "mounts"]


class Endless(MemoryStore):
    """Names a next page each time: tokens from `name`, objects of the real page with `is_full`."""

    def __init__(self, name, *, is_full=False):
        super().__init__()
        self._name, self._is_full = name, is_full

    async def list_page(self, prefix, **asked):
        asked.pop("token")
        page = await super().list_page(prefix, **asked)
        objects = page.objects if self._is_full else []
        return ListPage(objects=objects, prefixes=[], next_token=self._name(self.requests["LIST"]))


@pytest.fixture
def sparse(mount):
    """A bucket whose listings begin with an empty page, and go on with one after each other one."""
    mount.store.is_sparse = True
    paged(mount.store, 2)
    return mount


def test_an_empty_page_is_not_the_end_of_a_directory(sparse):
    """Promise: A page of a listing that is empty and not the last (S3 sends such pages where delete
    markers sort first) is not the end: nothing is considered absent or empty because of it.
    """
    for key in ("d/x", "d/y", "d/z", "e/sub/f", "h", "h/x"):
        sparse.put(key, b"x")
    assert sparse.ls() == ["d", "e", "h"]
    assert sparse.ls("d") == ["x", "y", "z"]
    sparse.time.now_s += 2
    for path in ("d", "e", "e/sub", "h"):
        assert sparse.stat(path).mode & 0o40000, path
        with pytest.raises(ExistsError):
            sparse.mkdir(path)


def test_rmdir_sees_what_comes_after_an_empty_page(sparse):
    sparse.put("d/")
    sparse.put("d/x", b"precious")
    with pytest.raises(NotEmptyError):
        sparse.rmdir("d")
    assert sparse.data("d/x") == b"precious"
    sparse.delete("d/x")
    sparse.rmdir("d")
    assert sparse.store.objects == {}


def test_rename_goes_over_no_directory_that_holds_something(sparse):
    sparse.put("new/f", b"other")
    sparse.put("old/f", b"precious")
    with pytest.raises(NotEmptyError):
        sparse.rename("new", "old")
    assert sparse.data("old/f") == b"precious"
    sparse.put("empty/")
    sparse.rename("new", "empty")
    assert sparse.data("empty/f") == b"other"
    assert not sparse.exists("new")


def test_rename_moves_every_page_of_a_tree(sparse):
    for n in range(9):
        sparse.put(f"d/{n}", b"%d" % n)
    sparse.rename("d", "e")
    assert {key: sparse.data(key) for key in sparse.store.objects} == {
        f"e/{n}": b"%d" % n for n in range(9)
    }


def test_nothing_below_is_found_out_in_one_round(mount):
    mount.put("d/x")
    with mount.requests(LIST=1):
        assert list(mount.run(first_below(mount.store, "d/", 2))) == ["d/x"]
    with mount.requests(LIST=1):
        assert mount.run(first_below(mount.store, "nothing/", 2)) == {}


def test_a_policy_that_demands_a_delimiter_is_enough(mount):
    """As the one of AWS's walk-through that lets users see the first levels of a bucket."""
    for key in ("d/", "d/sub/x", "e/"):
        mount.put(key)
    whole = mount.store.list_page

    async def with_delimiter(prefix, *, delimiter="/", **asked):
        if not delimiter:
            raise AccessDeniedError(f"LIST {prefix}: 403")
        return await whole(prefix, delimiter=delimiter, **asked)

    mount.store.list_page = with_delimiter
    assert mount.tree() == {"d": None, "d/sub": None, "d/sub/x": b"", "e": None}
    with pytest.raises(NotEmptyError):
        mount.rmdir("d")
    mount.rmdir("e")
    assert set(mount.store.objects) == {"d/", "d/sub/x"}


def ask_all(store):
    async def all_pages():
        found = Pages(store, "d/")
        while not found.is_over:
            await found.following()

    asyncio.run(asyncio.wait_for(all_pages(), 60))


@pytest.mark.parametrize("circle", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("is_full", [True, False])
def test_a_page_that_is_named_twice_is_an_integrity_error(circle, is_full):
    """Promise: A listing that refers to a page that was already sent, or has 10,000 pages in a row
    without a key, gives EIO and is not followed further.
    """
    store = Endless(lambda n: f"t{n % circle}", is_full=is_full)
    store.put_now("d/x")
    with pytest.raises(IntegrityError, match="LIST of 'd/' has no end"):
        ask_all(store)
    assert store.requests["LIST"] <= 4 * circle


def test_a_listing_without_keys_ends_after_a_number_of_pages():
    store = Endless(str)
    with pytest.raises(IntegrityError, match="10000 pages without a key"):
        ask_all(store)
    assert store.requests["LIST"] == 10_000


def test_empty_pages_between_pages_with_keys_have_no_limit():
    store, last = MemoryStore(), 3 * 10_000
    info = store.put_now("d/x")

    async def every_third_has_keys(_prefix, *, token, **_):
        n = int(token or 0) + 1
        objects = [] if n % 3 else [info]
        return ListPage(objects=objects, prefixes=[], next_token=None if n == last else str(n))

    store.list_page = every_third_has_keys
    ask_all(store)


def test_no_directory_operation_waits_for_a_listing_without_end(mount):
    mount.put("d/", b"")
    mount.put("d/x", b"x")
    directory = mount.ino("d")
    whole = mount.store.list_page

    async def endless(prefix, **asked):
        await whole(prefix, **asked)
        return ListPage(objects=[], prefixes=[], next_token=f"{mount.store.requests['LIST']}")

    mount.store.list_page = endless
    operations = {
        "look-up": mount.fs.lookup(1, b"new"),
        "mkdir": mount.fs.mkdir(1, b"new"),
        "rmdir": mount.fs.rmdir(1, b"d"),
        "rename": mount.fs.rename(1, b"d", 1, b"e", may_replace=True),
        "readdir": mount.names(directory),
    }
    for name, operation in operations.items():
        with pytest.raises(IntegrityError):
            mount.wait(mount.start(operation))
        assert mount.data("d/x") == b"x", name
    mount.store.list_page = whole
    mount.rename("d", "e")
    assert mount.tree() == {"e": None, "e/x": b"x"}
    with pytest.raises(NotFoundError):
        mount.lookup("d")
