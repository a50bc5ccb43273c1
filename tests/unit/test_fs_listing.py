"""Listings as they are read: pages, positions, changes between them, and names that are local."""

import pytest

from csi_s3.errors import (
    StoreUnavailableError,
)
from csi_s3.fs.listings.entries import Special
from tests.unit.fs_mount import fail, mount, mounts, paged

__all__ = ["mount", "mounts"]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_changes_between_the_pages_of_a_listing_are_seen(mount, size):
    """Promise: rewinddir shows the directory as it is then."""
    paged(mount.store, size)
    for name in "abcdef":
        mount.put(name, b"x")
    fh = mount.run(mount.fs.opendir(1))

    async def first(n):
        entries = mount.fs.readdir(fh, 0)
        found = [await anext(entries) for _ in range(n)]
        await entries.aclose()
        return [entry.name.decode() for entry in found], found[-1].position

    names, position = mount.run(first(2))
    assert names == ["a", "b"]
    mount.unlink("e")
    mount.write_file("g", b"new")
    mount.write_file("0", b"new")
    rest = mount.run(mount.entries(fh, position))
    assert sorted(set(rest) - {"0"}) == ["c", "d", "f", "g"]  # "0" sorts before what was read
    assert len(set(rest)) == len(rest)
    assert mount.run(mount.entries(fh)) == ["0", "a", "b", "c", "d", "f", "g"]
    mount.fs.releasedir(fh)


@pytest.mark.parametrize("names", [0, 1, 10])
def test_a_listing_costs_one_list(mount, names):
    for n in range(names):
        mount.put(f"{n}", b"x")
    before = mount.store.requests["LIST"]
    fh = mount.run(mount.fs.opendir(1))
    assert len(mount.run(mount.entries(fh))) == names
    assert mount.run(mount.entries(fh, names)) == []  # what a program asks last
    mount.fs.releasedir(fh)
    assert mount.store.requests["LIST"] - before == 1


def test_positions_stay_valid_while_names_go(mount):
    for name in "abcdef":
        mount.put(name, b"x")
    fh = mount.run(mount.fs.opendir(1))
    assert mount.run(mount.entries(fh)) == list("abcdef")
    mount.unlink("b")
    assert mount.run(mount.entries(fh, 3)) == list("def")
    assert mount.run(mount.entries(fh, 1)) == list("cdef")
    mount.fs.releasedir(fh)


def test_rm_r_of_three_thousand_while_they_are_listed(mount):
    """As rm does it: what a read of the directory gave is removed before the next read."""
    names = [f"{n:04}" for n in range(3000)]
    for name in names:
        mount.store.put_now(f"d/{name}")
    directory = mount.ino("d")
    fh = mount.run(mount.fs.opendir(directory))
    beside = mount.run(mount.fs.opendir(directory))
    position, removed = 0, []

    async def some():
        found, entries = [], mount.fs.readdir(fh, position)
        async for entry in entries:
            found.append((entry.name, entry.position))
            if len(found) == 70:  # what fits the kernel's buffer; one more is not taken
                break
        await entries.aclose()
        return found

    before = mount.store.requests.copy()
    while found := mount.run(some()):
        for name, _ in found:
            mount.run(mount.fs.unlink(directory, name))
            removed.append(name.decode())
        position = found[-1][1]
    assert removed == names
    asked = mount.store.requests - before
    assert asked == {"LIST": 3, "DELETE": 3000}
    assert mount.run(mount.entries(beside)) == mount.ls("d") == []
    for handle in (fh, beside):
        mount.fs.releasedir(handle)
    mount.rmdir("d")
    assert mount.store.objects == {}
    assert mount.ls() == []


def test_a_directory_kept_by_a_new_file_is_listed_after_the_file_is_stored(mount):
    """Its name was in the listing as local, and is S3's when the file is closed."""
    mount.put("d/x", b"x")
    fh = mount.create("d/y")
    mount.delete("d/x")
    listing = mount.run(mount.fs.opendir(1))
    assert mount.run(mount.entries(listing)) == ["d"]
    mount.close_file(fh)
    assert mount.run(mount.entries(listing, 0)) == ["d"]
    again = mount.run(mount.fs.opendir(1))
    mount.fs.releasedir(listing)
    assert mount.run(mount.entries(again)) == ["d"]
    mount.fs.releasedir(again)


def test_a_listed_local_name_whose_file_was_stored_while_it_was_read(mount):
    mount.put("d/x", b"x")
    fh = mount.create("d/y")
    mount.delete("d/x")
    listing = mount.run(mount.fs.opendir(1))

    async def complete():
        async for entry in mount.fs.readdir(listing, 0):
            mount.fs.remember(entry.attributes.ino)
            mount.held.append(entry.attributes.ino)

    beside = mount.run(mount.fs.opendir(1))  # another reader of the same listing
    mount.run(complete())
    reader = mount.fs._handles.directory(listing).reader
    assert reader.listing.find("d")[0] is Special.LOCAL
    mount.close_file(fh)
    assert mount.run(mount.entries(beside)) == ["d"]
    mount.fs.releasedir(beside)
    assert mount.cat("d/y") == b""
    mount.fs.releasedir(listing)


def test_a_listing_that_fails_goes_on_where_it_was_when_it_is_read_again(mount):
    paged(mount.store, 2)
    for name in "abcdef":
        mount.put(name)
    fail(mount.store, "LIST", StoreUnavailableError("503"))
    fh = mount.run(mount.fs.opendir(1))
    with pytest.raises(StoreUnavailableError):
        mount.run(mount.entries(fh))
    assert mount.run(mount.entries(fh)) == list("abcdef")
    mount.fs.releasedir(fh)


def test_a_handle_that_is_read_by_two_fetches_each_page_once(mount):
    paged(mount.store, 2)
    for name in "abcdef":
        mount.put(name)
    fh = mount.run(mount.fs.opendir(1))
    with mount.requests(LIST=3):
        both = [mount.start(mount.entries(fh)) for _ in range(2)]
        assert [mount.wait(task) for task in both] == [list("abcdef")] * 2
    mount.fs.releasedir(fh)


def test_an_entry_that_did_not_fit_pins_no_inode(mount):
    for name in "abc":
        mount.put(name)

    async def first():
        fh = await mount.fs.opendir(1)
        entries = mount.fs.readdir(fh, 0)
        await anext(entries)
        await entries.aclose()
        mount.fs.releasedir(fh)

    mount.run(first())
    assert mount.fs.usage().inodes == 1
