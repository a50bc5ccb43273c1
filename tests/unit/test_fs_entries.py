"""What a listing keeps of each name: the same comes out as went in, and it is small."""

import tracemalloc
from dataclasses import replace

import pytest

from csi_s3.fs.names.entries import Entries, Special, SymbolicLink
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
    replace(INFO, size=0),
    replace(INFO, size=(1 << 64) - 1),
    replace(INFO, size=1 << 64),
    replace(INFO, etag='"0123456789ABCDEF0123456789abcdef"'),
    replace(INFO, etag='"0123456789abcdef0123456789abcdef-12"'),
    replace(INFO, etag='"0123456789abcdef 123456789abcdef"'),
    replace(INFO, etag="0123456789abcdef0123456789abcdef"),
    replace(INFO, etag='"\u00e9"'),
    replace(INFO, etag='"\udcff"'),
    replace(INFO, etag=""),
    replace(INFO, last_modified=0.0),
    replace(INFO, last_modified=1.5),
    replace(INFO, last_modified=-1.0),
    replace(INFO, last_modified=float(1 << 32)),
    replace(INFO, storage_class=""),
    replace(INFO, storage_class="GLACIER", archived=True),
    replace(INFO, key="elsewhere/f"),
]


@pytest.mark.parametrize("found", [*Special, *ODD], ids=str)
def test_what_is_kept_comes_out_as_it_went_in(found):
    entries = Entries("d/")
    entries.put("f", found)
    assert entries.get("f") == found
    assert "f" in entries


@pytest.mark.parametrize("info", ODD, ids=str)
def test_so_do_links(info):
    entries = Entries("d/")
    for key in (info.key, "d/f.rclonelink"):
        entries.put("f", SymbolicLink(replace(info, key=key)))
        assert entries.get("f") == SymbolicLink(replace(info, key=key))


def test_a_bucket_may_have_more_storage_classes_than_are_packed():
    entries = Entries("")
    infos = [replace(INFO, key=f"{n}", storage_class=f"CLASS-{n}") for n in range(300)]
    for info in infos:
        entries.put(info.key, info)
    assert [entries.get(info.key) for info in infos] == infos


def test_one_that_was_removed_is_known_and_not_there():
    entries = Entries("d/")
    entries.remove("f")
    assert not entries.was_seen("f")
    entries.put("f", INFO)
    entries.remove("f")
    assert (entries.get("f"), "f" in entries, entries.was_seen("f")) == (None, False, True)


def test_a_directory_that_moved_knows_names_and_no_versions():
    entries = Entries("d/")
    for name, found in (
        ("f", INFO),
        ("l", SymbolicLink(INFO)),
        ("d", Special.DIRECTORY),
        ("x", INFO),
    ):
        entries.put(name, found)
    entries.remove("x")
    entries.moved("e/")
    assert [entries.get(name) for name in "fldx"] == [
        Special.LOCAL,
        Special.LOCAL,
        Special.DIRECTORY,
        None,
    ]
    entries.put("f", replace(INFO, key="e/f"))
    assert entries.get("f") == replace(INFO, key="e/f")


def test_a_name_takes_less_than_200_bytes():
    count = 50_000
    tracemalloc.start()
    try:
        entries, names = Entries("d/"), []
        for n in range(count):
            name = f"f{n:07}"
            names.append(name)
            entries.put(name, replace(INFO, key=f"d/{name}", size=300 + n, etag=f'"{n:032x}"'))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 200 * count
