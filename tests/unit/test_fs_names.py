"""Keys and names: what a directory shows of S3's key space, and what it cannot show."""

import logging
import stat

import pytest

from csi_s3.errors import (
    InvalidNameError,
    IsDirectoryError,
    KeyTooLongError,
    NotDirectoryError,
    NotFoundError,
)
from csi_s3.obs.metrics import catalog as metrics
from tests.unit.fs_mount import mount, mounts, paged

__all__ = ["mount", "mounts"]

ODD = [
    "a\\b",
    " ",
    "a b ",
    "\x01\x1f",
    "\u00e9",
    "e\u0301",
    "\U0001f600",
    "a\nb",
    "%2F",
    "*?[",
    "ÿ",
    "x" * 255,
]


def test_a_key_is_a_file_in_directories_that_need_no_object(mount):
    """Promise: The key `a/b/c` is the file `c` in the directories `a/b`; directories need no
    object of their own."""
    mount.put("a/b/c", b"data")
    assert mount.tree() == {"a": None, "a/b": None, "a/b/c": b"data"}
    assert stat.S_ISDIR(mount.stat("a/b").mode)
    assert mount.cat("a/b/c") == b"data"


def test_a_marker_is_an_empty_directory_and_its_body_is_never_shown(mount):
    """Promise: The key `dir/` (a marker) is the directory `dir`, also when it is empty; the
    marker's body is never shown."""
    mount.put("dir/", b"body of the marker")
    assert mount.tree() == {"dir": None}
    assert mount.stat("dir").size == 0
    with pytest.raises(IsDirectoryError):
        mount.open("dir")


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_directory_hides_the_object_of_its_name_until_it_has_no_keys(mount, size):
    """Promise: Where the keys `x` and `x/y` both exist, `x` is the directory; the object `x` is
    hidden until `x/` has no keys."""
    paged(mount.store, size)
    mount.put("x", b"hidden")
    mount.put("x/y", b"inside")
    assert mount.tree() == {"x": None, "x/y": b"inside"}
    mount.delete("x/y")
    assert mount.tree() == {"x": b"hidden"}


def test_a_key_that_is_not_utf_8_hides_itself_and_nothing_else(mount):
    """A store on a POSIX file system lists any bytes; no name on the mount could open them."""
    for key in ("a/b\udcff", "a/\udcff/c", "a/seen"):
        mount.put(key, b"data")
    assert mount.tree() == {"a": None, "a/seen": b"data"}


@pytest.mark.parametrize("key", ["a//b", "a/./b", "a/../b", "a/b\0c", "a/" + "x" * 256])
def test_components_that_mean_something_else_to_the_kernel_are_hidden(mount, caplog, key):
    """Promise: A key with an empty component, `.`, `..`, NUL, or a component over 255 bytes is
    hidden, counted in a metric, and logged once per directory."""
    caplog.set_level(logging.INFO, logger="csi_s3")
    before = metrics.HIDDEN_NAMES.value()
    mount.put("a/shown")
    mount.put(key)
    for _ in range(3):
        assert mount.ls("a") == ["shown"]
        mount.time.now_s += 2
    assert metrics.HIDDEN_NAMES.value() == before + 3
    told = [r.getMessage() for r in caplog.records if r.code == "hidden-names"]
    assert len(told) == 1
    assert repr(key) in told[0] or repr(key[: key.rindex("/") + 1]) in told[0]


@pytest.mark.parametrize("name", [".", "..", "a\0b"])
def test_a_name_that_cannot_be_shown_is_not_found_and_cannot_be_made(mount, name):
    """Promise: EINVAL: names that S3 cannot store, or that could not be listed afterwards."""
    mount.put(name, b"there in S3")
    with pytest.raises(NotFoundError):
        mount.run(mount.fs.lookup(1, name.encode()))
    with pytest.raises(InvalidNameError):
        mount.run(mount.fs.mkdir(1, name.encode()))
    with pytest.raises(InvalidNameError):
        mount.run(mount.fs.files.create(1, name.encode(), 0))


def test_a_name_over_255_bytes_is_too_long_whatever_is_asked_of_it(mount):
    name = b"x" * 256
    mount.put(name.decode(), b"there in S3")
    for call in (
        mount.fs.lookup(1, name),
        mount.fs.mkdir(1, name),
        mount.fs.files.create(1, name, 0),
    ):
        with pytest.raises(KeyTooLongError):
            mount.run(call)


@pytest.mark.parametrize("name", ODD)
def test_any_other_name_is_shown_as_it_is(mount, name):
    """Promise: Any other Unicode, blanks, `\\`, and control characters are shown as they are; no
    key is ever normalised."""
    mount.put(f"{name}/{name}", b"1")
    assert mount.tree() == {name: None, f"{name}/{name}": b"1"}
    mount.unlink(f"{name}/{name}")
    mount.write_file(f"{name}/{name}", b"2")
    assert {k: v.data for k, v in mount.store.objects.items()} == {f"{name}/{name}": b"2"}


def test_two_spellings_of_one_letter_are_two_files(mount):
    mount.put("\u00e9", b"one")
    mount.put("e\u0301", b"two")
    assert mount.tree() == {"\u00e9": b"one", "e\u0301": b"two"}


def test_a_name_that_is_no_utf8_does_not_exist_and_cannot_be_made(mount):
    with pytest.raises(NotFoundError, match="not UTF-8"):
        mount.run(mount.fs.lookup(1, b"\xff"))
    with pytest.raises(InvalidNameError, match="not UTF-8"):
        mount.run(mount.fs.files.create(1, b"\xff", 0))


def test_a_key_over_1024_bytes_is_too_long(mounts):
    """Promise: ENAMETOOLONG: the key would be over 1024 bytes of UTF-8, or the name over 255."""
    mount = mounts(prefix="p" * 900 + "/")
    mount.write_file("é" * 61 + "x", b"1024 bytes")
    assert max(len(k.encode()) for k in mount.store.objects) == 1024
    for call in (
        mount.fs.lookup(1, b"x" * 124),
        mount.fs.files.create(1, b"x" * 124, 0),
        mount.fs.mkdir(1, b"x" * 123),
    ):
        with pytest.raises(KeyTooLongError, match="1025 bytes"):
            mount.run(call)


def test_a_prefix_is_the_root_and_nothing_outside_it_is_seen(mounts):
    mount = mounts(prefix="team/a/")
    mount.put("team/a/x", b"inside")
    mount.put("team/a", b"outside")
    mount.put("team/b", b"outside")
    mount.put("team/a/", b"the root's marker")
    assert mount.tree() == {"x": b"inside"}
    mount.write_file("y", b"new")
    assert mount.data("team/a/y") == b"new"


def test_a_file_is_no_directory(mount):
    mount.put("f", b"x")
    with pytest.raises(NotDirectoryError):
        mount.lookup("f/x")


TRAPS = [
    ["dir", "dir-1", "dir/x"],
    ["dir-1", "dir/", "dir."],
    ["a", "a!", "a-", "a-/x", "a.", "a/b", "a0"],
    ["a", "a/b", "a/b/c", "a/b-", "ab"],
    ["x", "x ", "x/", "x//", "x/y"],
    ["é", "é/é", "é-", "z", "\U0001f600", "\U0001f600/1", "￿"],
    ["a", "a-1", "a-1/x", "a-1-1", "a-1-1/", "a/"],
]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("keys", TRAPS, ids=lambda keys: keys[0] + str(len(keys)))
def test_listing_order_traps_never_lose_repeat_or_misplace_a_name(mount, keys, size):
    """Promise: Names that sort between a directory and its keys (`dir`, `dir-1`, `dir/x`: `dir-1`
    sorts before `dir/`) are never lost, repeated or misplaced, at any page boundary.
    """
    paged(mount.store, size)
    for key in keys:
        mount.put(key, key.encode())
    shown = mount.ls()
    assert len(shown) == len(set(shown))
    assert set(shown) == {key.split("/")[0] for key in keys}
    for name in shown:
        mount.time.now_s += 2
        listed_as_dir = any(k.startswith(f"{name}/") for k in keys)
        assert stat.S_ISDIR(mount.lookup(name).mode) == listed_as_dir
