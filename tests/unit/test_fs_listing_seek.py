"""seekdir while pages of a listing are dropped and asked for again, with the same names or others.

Each is the least of what the random calls of `test_fs_listing_model` have found.
"""

import pytest

from tests.unit.fs_mount import mount, mounts, paged

__all__ = ["mount", "mounts"]

NAMES = list("abcdefgh")


def opened(mount, size):
    paged(mount.store, size)
    for name in NAMES:
        mount.put(f"d/{name}")
    return mount.run(mount.fs.opendir(mount.ino("d")))


def read(mount, fh, start=0, count=1000):
    """Names and the positions behind them; one more name than that is not taken."""

    async def some():
        found = []
        entries = mount.fs.readdir(fh, start)
        async for entry in entries:
            if len(found) == count:
                break
            found.append((entry.name.decode(), entry.position))
        await entries.aclose()
        return found

    return mount.run(some())


def names(found):
    return [name for name, _ in found]


def drop_pages(mount):
    mount.settle()
    mount.fs._tree.listings._cache._shrink(1 << 40)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("goes_on", [False, True])
def test_seekdir_leaves_no_name_out_of_a_page_that_has_other_names(mount, size, is_own, goes_on):
    fh = opened(mount, size)
    found = read(mount, fh, count=7)
    if is_own:
        mount.unlink("d/b")
    else:
        mount.delete("d/b")
    drop_pages(mount)
    if goes_on:
        found += read(mount, fh, found[-1][1], 1)
    for at, (name, position) in enumerate(found[:-2]):
        drop_pages(mount)
        behind = set(NAMES[at + 1 :]) - {"b"}
        assert behind <= {*names(read(mount, fh, position))}, name
    mount.fs.releasedir(fh)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_seekdir_is_exact_where_pages_come_back_with_the_same_names(mount, size):
    fh = opened(mount, size)
    found = read(mount, fh)
    for at, (_, position) in enumerate(found):
        drop_pages(mount)
        assert names(read(mount, fh, position)) == NAMES[at + 1 :]
    mount.fs.releasedir(fh)


def test_a_name_that_was_removed_while_its_page_is_there_moves_no_position(mount):
    fh = opened(mount, 3)
    found = read(mount, fh)
    mount.unlink("d/b")
    for at, (_, position) in enumerate(found):
        assert names(read(mount, fh, position)) == [n for n in NAMES[at + 1 :] if n != "b"]
    mount.fs.releasedir(fh)


def test_a_handle_that_is_opened_after_a_page_has_changed_has_exact_positions(mount):
    """It joined the listing whose page had other names before, and got the page once more."""
    first = opened(mount, 50)
    place = read(mount, first, count=3)[-1][1]
    mount.unlink("d/b")
    drop_pages(mount)
    assert names(read(mount, first, place, 1)) == ["d"]
    second = mount.run(mount.fs.opendir(mount.ino("d")))
    found = read(mount, second)
    assert names(found) == list("acdefgh")
    assert names(read(mount, second, found[0][1])) == list("cdefgh")
    for fh in (first, second):
        mount.fs.releasedir(fh)


def test_a_position_stands_for_one_name_where_a_page_has_fewer_names_than_before(mount):
    fh = opened(mount, 50)
    found = read(mount, fh, count=4)
    for name in "abc":
        mount.delete(f"d/{name}")
    drop_pages(mount)
    while part := read(mount, fh, found[-1][1], 1):
        found += part
    positions = [position for _, position in found]
    assert names(found) == NAMES
    assert sorted({*positions}) == positions
    mount.fs.releasedir(fh)


def test_two_pages_of_one_number_begin_at_the_first_of_their_names(mount):
    """One handle has page 1 from `c` on, another from `d` on: both find all names behind there."""
    early = opened(mount, 2)
    first = read(mount, early, count=4)
    mount.unlink("d/b")
    drop_pages(mount)
    late = read(mount, early, first[0][1])
    assert names(late) == list("cdefgh")
    drop_pages(mount)
    assert set("defgh") <= {*names(read(mount, early, first[2][1]))}
    mount.fs.releasedir(early)
