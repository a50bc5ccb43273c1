"""What a page of a listing has of each name: the same comes out as went in, and it is small."""

import tracemalloc

import pytest

from csi_s3.fs.listings.entries import Packer, Special, SymbolicLink
from csi_s3.fs.listings.listing_page import PAGE_BYTES, ListingPage, Mark
from csi_s3.s3.store import ObjectInfo

INFO = ObjectInfo(
    key="d/f",
    size=5,
    etag='"0123456789abcdef0123456789abcdef"',
    last_modified=1767225600.0,
    storage_class="STANDARD",
)
ODD = [
    INFO,
    INFO._replace(size=0),
    INFO._replace(size=(1 << 64) - 1),
    INFO._replace(size=1 << 64),
    INFO._replace(etag='"0123456789ABCDEF0123456789abcdef"'),
    INFO._replace(etag='"0123456789abcdef0123456789abcdef-12"'),
    INFO._replace(etag='"0123456789abcdef 123456789abcdef"'),
    INFO._replace(etag="0123456789abcdef0123456789abcdef"),
    INFO._replace(etag='"\u00e9"'),
    INFO._replace(etag='"\udcff"'),
    INFO._replace(etag=""),
    INFO._replace(last_modified=0.0),
    INFO._replace(last_modified=1.5),
    INFO._replace(last_modified=-1.0),
    INFO._replace(last_modified=float(1 << 32)),
    INFO._replace(storage_class=""),
    INFO._replace(storage_class="GLACIER", archived=True),
    INFO._replace(key="elsewhere/f"),
]


class Owner:
    def page_dropped(self, page):
        pass


def page_of(*names, prefix="d/"):
    page = ListingPage(Owner(), Packer(), prefix, Mark(0), None)
    page.fill([(name, entry, 0) for name, entry in names], question=1)
    return page


def entry_of(page, name):
    found = page.find(name)
    return None if found is None else found[0]


@pytest.mark.parametrize("found", [*ODD, Special.DIRECTORY, Special.LOCAL], ids=str)
@pytest.mark.parametrize("is_listed", [True, False])
def test_what_is_listed_or_corrected_comes_out_as_it_went_in(found, is_listed):
    page = page_of(("f", found if is_listed else INFO))
    if not is_listed:
        page.correct("f", found, add=False, question=0)
    assert entry_of(page, "f") == page.at(0)[1] == found
    page.correct("f", Special.ABSENT, add=False, question=0)
    assert entry_of(page, "f") is page.at(0) is None
    assert page.is_gone
    page.correct("f", found, add=True, question=7)
    assert page.at(0) == ("f", found, 7)
    assert not page.is_gone


@pytest.mark.parametrize("info", ODD, ids=str)
def test_so_do_links(info):
    for key in (info.key, "d/f.rclonelink"):
        link = SymbolicLink(info._replace(key=key))
        assert entry_of(page_of(("f", link)), "f") == link


def test_a_bucket_may_have_more_storage_classes_than_are_packed():
    names = [f"{n:03}" for n in range(300)]
    infos = [INFO._replace(key=n, storage_class=f"CLASS-{n}") for n in names]
    infos[7] = infos[7]._replace(storage_class="C" * 100_000)
    page = page_of(*zip(names, infos, strict=True), prefix="")
    assert [entry_of(page, name) for name in names] == infos
    assert page.size_bytes > 100_000


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 31, 32, 33, 1000])
def test_each_name_is_found_and_each_place_behind_a_name(count):
    names = sorted((f"{n * n}-é" for n in range(count)), key=lambda n: n + "/")
    page = page_of(*((n, INFO._replace(key=f"d/{n}", size=i)) for i, n in enumerate(names)))
    assert [page.at(i)[0] for i in range(len(page))] == names
    for index, name in enumerate(names):
        assert page.find(name)[0].size == index
        assert page.find(name + "!") is page.find(name[:-1]) is None
        assert page.index_behind(name + "!") == index  # "!" sorts before "/"
        assert page.index_behind(name) == page.index_behind(name + "0") == index + 1
    assert page.index_behind("") == 0


def test_a_name_that_is_added_comes_behind_all_others():
    page = page_of(("b", INFO), ("d", INFO))
    assert page.correct("a", Special.DIRECTORY, add=True, question=0)
    assert not page.correct("c", Special.DIRECTORY, add=False, question=5)
    assert not page.correct("a", INFO, add=True, question=0)
    assert [page.at(i)[0] for i in range(len(page))] == ["b", "d", "a"]
    assert page.index_behind("b") == 1


@pytest.mark.parametrize("count", [1000, 4000])
@pytest.mark.parametrize("etag", ['"{:032x}"', '"{:032x}-12"'])
@pytest.mark.parametrize("change", [None, "removed", "local", "added", "other"])
def test_a_page_counts_what_it_takes(count, etag, change):
    """52 to 74 bytes a name of 12 characters, and at most 260 with a change; within a quarter."""
    packer = Packer()
    infos = [
        (f"file-{n:07}", INFO._replace(key=f"d/file-{n:07}", size=300 + n, etag=etag.format(n)))
        for n in range(count)
    ]
    names = [(name, info, 0) for name, info in infos]
    tracemalloc.start()
    try:
        page = ListingPage(Owner(), packer, "d/", Mark(0, low="x" * 20, token="t" * 80), None)
        page.fill(names, question=1)
        for name, info in infos:
            match change:
                case "removed":
                    page.correct(name, Special.ABSENT, add=True, question=0)
                case "local":
                    page.correct(name, Special.LOCAL, add=True, question=0)
                case "added":
                    page.correct(name + "+", info._replace(key=f"d/{name}+"), add=True, question=0)
                case "other":
                    page.correct(name, info._replace(etag='"1-2"'), add=True, question=300 + count)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.75 * used < page.size_bytes < 1.25 * used + PAGE_BYTES


def test_a_name_takes_some_fifty_bytes():
    names = [f"f{n:07}" for n in range(1000)]
    infos = [(n, INFO._replace(key=f"d/{n}", etag=f'"{i:032x}"')) for i, n in enumerate(names)]
    assert page_of(*infos).size_bytes - PAGE_BYTES < 55 * 1000
