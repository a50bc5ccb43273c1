"""What listings hold: bounded, whatever the directory's size and the number of handles."""

import tracemalloc
from dataclasses import replace

import pytest

from csi_s3.errors import IntegrityError, StoreRefusedError, TooManyOpenFilesError
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.listings.directory import MAX_LISTINGS
from csi_s3.fs.listings.listing import LISTING_BYTES, READER_BYTES
from csi_s3.fs.listings.page_marks import MAX_MARKS_BYTES
from tests.unit.fs_mount import mount, mounts, paged
from tests.unit.listing_case import count, listings, make_up, name, used

__all__ = ["mount", "mounts"]


@pytest.mark.parametrize("names", [2000, 20_000])
def test_a_long_directory_costs_its_pages_once_and_a_bounded_cache(mount, names):
    asked = make_up(mount.store, names)
    cache = mount.fs._context.memory.account(MemoryKind.LISTINGS)
    cache.limit_bytes = 1 << 18
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    tracemalloc.start()
    mount.fs.releasedir(fh)
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    del asked[:]
    assert mount.run(count(mount, fh))[0] == names
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert asked == list(range(names // 1000))
    assert cache.used_bytes <= cache.limit_bytes
    assert cache.used_bytes > min(50 * names, cache.limit_bytes - 120_000)
    assert held < 1.25 * cache.used_bytes + 150_000  # and what else this is the first use of
    assert peak < held + (3 << 20)
    mount.fs.releasedir(fh)


@pytest.mark.parametrize("readers", [1, 3])
def test_readers_one_after_the_other_cost_what_they_need(mount, readers):
    """A page that both have is asked for once; so is each, where the cache cannot hold them."""
    asked = make_up(mount.store, 5000)
    ino = mount.ino("d")
    del asked[:]
    handles = [mount.run(mount.fs.opendir(ino)) for _ in range(readers)]
    for fh in handles:
        assert mount.run(count(mount, fh))[0] == 5000
    assert asked == list(range(5))
    for fh in handles:
        mount.fs.releasedir(fh)


def test_a_page_that_was_dropped_is_asked_for_once_by_its_mark(mount):
    asked = make_up(mount.store, 10_000)
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    _, end = mount.run(count(mount, fh))
    mount.fs._tree.listings._cache._shrink(1 << 40)
    assert used(mount, MemoryKind.LISTINGS) == 0
    del asked[:]
    assert mount.run(count(mount, fh, end)) == (0, end)
    assert asked == [9]
    mount.fs.releasedir(fh)


def test_seekdir_far_back_asks_for_the_page_and_for_a_few_before_it(mount):
    asked = make_up(mount.store, 10_000, in_page=100)
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    mount.run(count(mount, fh))
    listing = mount.fs._handles.directory(fh).reader.listing
    marks = listing._marks
    assert marks._stride > 1
    cache = mount.fs._tree.listings._cache
    cache._shrink(cache.account.used_bytes - 10_000)
    del asked[:]

    async def one(position):
        entries = mount.fs.readdir(fh, position)
        entry = await anext(entries)
        await entries.aclose()
        return entry.name.decode()

    assert mount.run(one((42 << 13) + 7)) == name(4206)  # the page begins with 4199
    assert asked[-1] == 42
    assert len(asked) <= marks._stride
    mount.fs.releasedir(fh)


def test_a_hundred_handles_of_one_directory_share_a_listing(mount):
    """Promise: opendir joins a listing that another handle of the directory began less than
    `metadata-ttl` ago, so names may be as old as that.
    """
    make_up(mount.store, 2000)
    ino = mount.ino("d")
    before = used(mount, MemoryKind.HANDLES)
    with mount.requests(LIST=2):
        handles = [mount.run(mount.fs.opendir(ino)) for _ in range(100)]
        for fh in handles:
            assert mount.run(count(mount, fh))[0] == 2000
    assert len(listings(mount)) == 1
    held = used(mount, MemoryKind.HANDLES) - before
    assert held < 100 * (READER_BYTES + 1500) + LISTING_BYTES
    for fh in handles:
        mount.fs.releasedir(fh)
    assert used(mount, MemoryKind.HANDLES) == before


@pytest.mark.parametrize("handles", [50, 300])
def test_handles_opened_over_hours_are_corrected_by_a_bounded_number_of_steps(mount, handles):
    for n in range(3):
        mount.put(f"d/{n}")
    ino, fhs = mount.ino("d"), []
    for _ in range(handles):
        mount.time.now_s += 60
        fhs.append(mount.run(mount.fs.opendir(ino)))
        mount.run(mount.entries(fhs[-1]))
    assert len(listings(mount)) == MAX_LISTINGS
    mount.unlink("d/1")
    for fh in fhs[-2:]:
        assert mount.run(mount.entries(fh, 1)) == ["2"]
    for fh in fhs[:2]:  # their pages had to be asked for again
        assert mount.run(mount.entries(fh, 1)) == ["0", "2"]
    for fh in fhs:
        mount.fs.releasedir(fh)


@pytest.mark.parametrize("is_begun", [False, True])
def test_opendir_is_refused_when_the_share_of_handles_is_used_up(mount, is_begun):
    mount.put("d/x")
    ino, fhs = mount.ino("d"), []
    account = mount.fs._context.memory.account(MemoryKind.HANDLES)
    account.limit_bytes = account.used_bytes + 100 * (READER_BYTES + LISTING_BYTES)

    def open_many():
        for _ in range(500):
            mount.time.now_s += 60
            fhs.append(mount.run(mount.fs.opendir(ino)))
            if is_begun:
                mount.run(mount.entries(fhs[-1]))

    with pytest.raises(TooManyOpenFilesError, match="for handles are in use"):
        open_many()
    assert 50 < len(fhs) < 500
    assert account.used_bytes <= account.limit_bytes + 1000
    assert mount.run(mount.entries(fhs[-1], 0)) == ["x"]
    for fh in fhs:
        mount.fs.releasedir(fh)
    assert account.used_bytes == 0


@pytest.mark.parametrize("names", [50, 300])
def test_an_empty_directory_counts_as_well(mount, names):
    for n in range(names):
        mount.put(f"d/{n}/")
    inos = [mount.ino(f"d/{n}") for n in range(names)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    fhs = [mount.run(mount.fs.opendir(ino)) for ino in inos]
    for fh in fhs:
        mount.run(mount.entries(fh))
    held = tracemalloc.get_traced_memory()[0] - before
    counted = used(mount, MemoryKind.LISTINGS) + used(mount, MemoryKind.HANDLES)
    assert 0.75 * held < counted < 1.3 * held, (held / names, counted / names)
    for fh in fhs:
        mount.fs.releasedir(fh)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used(mount, MemoryKind.LISTINGS) > 0.75 * (held - 1000 * names)  # and their directories
    mount.time.now_s += 60
    assert mount.fs.usage().memory_bytes["listings"] == 0


def test_a_store_that_refuses_an_old_token_is_asked_from_the_beginning(mount):
    paged(mount.store, 2)
    for n in range(9):
        mount.put(f"d/{n}")
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    first = []

    async def some():
        entries = mount.fs.readdir(fh, 0)
        async for entry in entries:
            first.append(entry)
            if len(first) == 5:
                break
        await entries.aclose()

    mount.run(some())
    mount.settle()
    mount.fs._tree.listings._cache._shrink(1 << 40)
    valid, listed = {None}, mount.store.list_page

    async def list_page(prefix, *, token=None, **rest):
        if token not in valid:
            raise StoreRefusedError("LIST: 400 InvalidArgument: the continuation token is too old")
        page = await listed(prefix, token=token, **rest)
        valid.add(page.next_token)
        return page

    mount.store.list_page = list_page
    assert [e.name.decode() for e in first] == list("01234")
    assert mount.run(mount.entries(fh, first[-1].position)) == list("5678")
    mount.fs.releasedir(fh)


def test_a_store_whose_listing_has_no_end_takes_a_bounded_cache(mount):
    asked = make_up(mount.store, 10**8, in_page=100)
    cache = mount.fs._context.memory.account(MemoryKind.LISTINGS)
    cache.limit_bytes = 1 << 17
    fh = mount.run(mount.fs.opendir(mount.ino("d")))

    async def some():
        n = 0
        async for _ in mount.fs.readdir(fh, 0):
            n += 1
            if n == 5000:
                return

    mount.run(some())
    assert cache.used_bytes <= cache.limit_bytes
    assert used(mount, MemoryKind.HANDLES) < 10_000 + MAX_MARKS_BYTES
    assert len(asked) <= 54
    mount.fs.releasedir(fh)


@pytest.mark.parametrize(("length", "fits"), [(8000, True), (1 << 16, False)])
def test_a_token_is_as_long_as_a_request_can_be(mount, length, fits):
    listed = mount.store.list_page

    async def list_page(prefix, *, token=None, **rest):
        page = await listed(prefix, token=token and token.lstrip("x"), **rest)
        padded = page.next_token and page.next_token.rjust(length, "x")
        return replace(page, next_token=padded)

    paged(mount.store, 2)
    listed = mount.store.list_page
    for n in range(60):
        mount.put(f"d/{n:02}")
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    mount.store.list_page = list_page
    if fits:
        assert len(mount.run(mount.entries(fh))) == 60
        listing = mount.fs._handles.directory(fh).reader.listing
        assert listing._marks._bytes <= 16 << 10
        assert used(mount, MemoryKind.HANDLES) > length
    else:
        with pytest.raises(IntegrityError, match="65536 characters"):
            mount.run(mount.entries(fh))
    mount.fs.releasedir(fh)


def test_names_that_cannot_be_shown_are_a_number_and_the_first(mount, caplog):
    for n in range(500):
        mount.store.put_now("d/" + f"{n:04}" * 250)
    paged(mount.store, 100)
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    caplog.set_level("INFO")
    assert mount.run(mount.entries(fh)) == []
    listing = mount.fs._handles.directory(fh).reader.listing
    assert (listing.hidden, len(listing.first_hidden)) == (500, 1002)
    assert used(mount, MemoryKind.LISTINGS) < 30_000
    mount.fs.releasedir(fh)
    assert "500 keys in 'd/' cannot be shown" in caplog.text
