"""What listings hold: bounded, whatever the directory's size and the number of handles."""

import asyncio
import tracemalloc
from dataclasses import replace

import pytest

from csi_s3.errors import IntegrityError, StoreRefusedError, TooManyOpenFilesError
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.listings.changes import Changes
from csi_s3.fs.listings.directory import MAX_LISTINGS
from csi_s3.fs.listings.entries import Special
from csi_s3.fs.listings.listing import LISTING_BYTES, READER_BYTES
from csi_s3.fs.listings.merging import Merge
from csi_s3.s3.memory_store import MemoryStore
from csi_s3.s3.store import ListPage, ObjectInfo
from tests.unit.fs_mount import Held, mount, mounts, paged

__all__ = ["mount", "mounts"]

INFO = ObjectInfo(key="", size=1, etag=f'"{1:032x}"', last_modified=1000.0)


def name(n):
    return f"file-{n:08}"


def make_up(store: MemoryStore, count: int, *, in_page: int = 1000):
    """Let `d/` have so many files, which were never put. Answers the numbers of pages asked for."""
    asked: list[int] = []
    whole = store.list_page

    async def list_page(prefix, *, token=None, max_keys=1000, delimiter="/"):
        if prefix != "d/":
            return await whole(prefix, token=token, max_keys=max_keys, delimiter=delimiter)
        await store._enter("LIST", prefix)
        first = int(token or 0)
        asked.append(first // in_page)
        last = min(count, first + min(max_keys, in_page))
        objects = [ObjectInfo(f"d/{name(n)}", *INFO[1:]) for n in range(first, last)]
        return ListPage(
            objects=objects, prefixes=[], next_token=str(last) if last < count else None
        )

    store.list_page = list_page
    store.put_now("d/")
    return asked


def used(mount, kind):
    return mount.fs._context.memory.account(kind).used_bytes


def listings(mount, path="d"):
    return mount.fs._inodes.get(mount.ino(path)).runtime.directory.listings


async def count(mount, fh, start=0):
    """Read to the end, as the kernel does that forgets at once; answers number and end."""
    n = 0
    while True:
        before = n
        async for entry in mount.fs.readdir(fh, start):
            n, start = n + 1, entry.position
            if n - before == 500:
                break
        if n == before:
            return n, start


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
    mount.fs._tree._cache._shrink(1 << 40)
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
    assert listing._stride > 1
    cache = mount.fs._tree._cache
    cache._shrink(cache.account.used_bytes - listing._marks_bytes - 10_000)
    del asked[:]

    async def one(position):
        entries = mount.fs.readdir(fh, position)
        entry = await anext(entries)
        await entries.aclose()
        return entry.name.decode()

    assert mount.run(one((42 << 13) + 7)) == name(4206)  # the page begins with 4199
    assert asked[-1] == 42
    assert len(asked) <= listing._stride
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
    for fh in fhs[:2] + fhs[-2:]:
        assert mount.run(mount.entries(fh, 1)) == ["2"]
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


@pytest.mark.parametrize("changes", [2000, 10_000])
def test_an_open_scandir_remembers_no_change(mount, changes):
    """The second page has come, and is not read."""
    make_up(mount.store, 1001)
    fh = mount.run(mount.fs.opendir(mount.ino("d")))

    async def first():
        entries = mount.fs.readdir(fh, 0)
        await anext(entries)
        await entries.aclose()

    mount.run(first())
    mount.settle()
    directory = mount.fs._tree.directory(mount.fs._inodes.get(mount.ino("d")))
    for n in range(changes):
        directory.note(f"new-{n}", Special.DIRECTORY)
    assert used(mount, MemoryKind.CHANGES) == 0
    assert used(mount, MemoryKind.LISTINGS) < 1 << 20
    mount.fs.releasedir(fh)


def test_creating_tasks_that_overlap_all_the_time_remember_no_change(mount):
    mount.put("d/")
    ino, most = mount.ino("d"), 0

    async def create(task):
        nonlocal most
        for n in range(30):
            made = await mount.fs.mkdir(ino, f"{task}-{n}".encode())
            mount.held.append(made.ino)
            most = max(most, used(mount, MemoryKind.CHANGES))

    async def all_at_once():
        async with asyncio.TaskGroup() as group:
            for task in range(64):
                group.create_task(create(task))

    mount.run(all_at_once())
    assert most == 0
    assert len(mount.ls("d")) == 64 * 30


@pytest.mark.parametrize("changes", [500, 5000])
def test_a_page_that_takes_too_many_changes_is_asked_for_again(mount, changes):
    """Nothing is lost: what was made since then is there, and what was removed is not."""
    account = mount.fs._context.memory.account(MemoryKind.CHANGES)
    account.limit_bytes = 500_000
    for n in range(3):
        mount.put(f"d/old-{n}")
    directory = mount.fs._tree.directory(mount.fs._inodes.get(mount.ino("d")))
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    held = Held(mount.store, "LIST", after=True)
    before = mount.store.requests["LIST"]
    reading = mount.start(mount.entries(fh))
    mount.settle()
    mount.store.delete_now("d/old-1")
    directory.note("old-1", Special.ABSENT)
    for n in range(changes):
        directory.note(f"gone-{n}", Special.ABSENT)
        assert account.used_bytes <= account.limit_bytes
    held.let_go()
    assert mount.wait(reading) == ["old-0", "old-2"]
    assert mount.store.requests["LIST"] - before == (1 if changes < 5000 else 2)
    mount.fs.releasedir(fh)


def test_a_change_counts_what_it_takes(mount):
    account = mount.fs._context.memory.account(MemoryKind.CHANGES)
    changes = Changes(account)
    names = [f"a-name-{n:08}" for n in range(7000)]
    infos = [INFO._replace(key=f"d/{n}", etag=f'"{i:032x}"') for i, n in enumerate(names)]
    tracemalloc.start()
    with changes.observe_page():
        for one, info in zip(names, infos, strict=True):
            changes.note(f"{one}+", info._replace(etag=f"{info.etag}x"))
        held, _ = tracemalloc.get_traced_memory()
        assert 0.75 * held < account.used_bytes < 1.3 * held, held / len(names)
    tracemalloc.stop()
    assert account.used_bytes == 0


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
    mount.fs._tree._cache._shrink(1 << 40)
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
    assert used(mount, MemoryKind.HANDLES) < 10_000
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
        assert listing._marks_bytes <= 16 << 10
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


@pytest.mark.parametrize("names", [500, 4500])
def test_names_that_only_this_mount_has_are_listed_in_pages(mounts, names):
    mount = mounts(dir_markers=False)
    mount.put("d/")
    directory = mount.fs._tree.directory(mount.fs._inodes.get(mount.ino("d")))
    ino = mount.ino("d")
    for n in range(names):
        made = mount.run(mount.fs.mkdir(ino, name(n).encode()))
        mount.held.append(made.ino)
    fh = mount.run(mount.fs.opendir(ino))
    with mount.requests(LIST=1 + names // 4097):
        assert mount.run(mount.entries(fh)) == [name(n) for n in range(names)]
    pages = listings(mount)[0]._pages
    assert max(len(p) for p in pages) <= 4096
    assert len(directory._local_order) == names
    mount.fs.releasedir(fh)


def test_a_page_that_local_names_make_too_long_loses_no_name_that_is_shown_behind_it():
    """`x` is listed first, and shown at the place of `x/`."""
    objects = [INFO._replace(key=f"d/{name}") for name in ("x", "x-0", "x-9")]
    answer = ListPage(objects=objects, prefixes=[], next_token="d/x-9")
    first = Merge("d/", "", {}, has_links=False)
    first.take(answer, {})
    first.add_local([f"x-1{n}" for n in range(4)])
    assert first.cut(3)
    assert [name for name, _, _ in first.names] == ["x-0", "x-10", "x-11"]
    second = Merge("d/", first.low, first.pending, has_links=False)
    second.take(answer, {})
    second.take(ListPage(objects=[], prefixes=[], next_token=None), {})
    assert [name for name, _, _ in second.names] == ["x-9", "x"]
