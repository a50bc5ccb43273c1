"""Files without a name: unlinked, or replaced by a rename, while handles are open on them."""

import os

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    NotFoundError,
    SpoolFullError,
    StaleError,
    StoreUnavailableError,
)
from tests.unit.fs_mount import REWRITE, fail, mount, mounts

__all__ = ["mount", "mounts"]

LARGE = bytes(range(64)) * 50_000  # of which open brings only the beginning along
DOWN = StoreUnavailableError("S3 is down")


@pytest.fixture
def spooled(mounts, tmp_path):
    return mounts(
        write_part_bytes=1 << 20,
        min_part_bytes=4,
        state_dir=tmp_path / "state",
        unlinked_open_bytes=len(LARGE),
    )


def test_what_is_only_in_s3_is_fetched_before_the_delete(spooled):
    """Promise: unlink of an open file: bytes that are only in S3 are fetched before the delete, up
    to `unlinked-open-limit`; reads of bytes beyond it give ESTALE.
    """
    mount = spooled
    mount.put("f", LARGE)
    mount.put("larger", LARGE + b"!")
    for name in ("f", "larger"):
        fh = mount.open(name)
        mount.unlink(name)
        assert mount.data(name) is None
        assert mount.run(mount.fs.getattr(mount.fs._handles.file(fh).inode.ino)).size > 0
        if name == "f":
            assert mount.read(fh, 3_000_000, 64) == LARGE[3_000_000:][:64]
            assert mount.spool.used_bytes == -(-len(LARGE) // 4096) * 4096
        else:
            with pytest.raises(StaleError):
                mount.read(fh, 3_000_000, 64)
        mount.release(fh)
        assert mount.spool.used_bytes == 0
    assert mount.store.objects == {}
    assert mount.spooled() == []


def test_each_handle_reads_it_until_the_last_is_closed(spooled):
    mount = spooled
    mount.put("f", LARGE)
    first, second = mount.open("f"), mount.open("f")
    mount.unlink("f")
    mount.release(first)
    assert mount.read(second, 2_000_000, 10) == LARGE[2_000_000:][:10]
    mount.release(second)
    assert mount.fs.usage().inodes <= 2


def test_nothing_is_fetched_where_nobody_has_it_open(spooled):
    mount = spooled
    mount.put("f", LARGE)
    mount.ino("f")
    with mount.requests(DELETE=1):
        mount.run(mount.fs.unlink(1, b"f"))


@pytest.mark.parametrize("flags", [os.O_RDWR, REWRITE])
def test_it_can_be_changed_as_before_and_is_never_stored(spooled, flags):
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", flags)
    mount.write(fh, b"before", 0)
    mount.unlink("f")
    mount.write(fh, b"after", 3)
    mount.write(fh, b"far", 4_000_000)
    assert mount.read(fh, 0, 8) == b"befafter"
    assert mount.read(fh, 3_999_999, 10) == b"\0far"
    mount.run(mount.fs.setattr(mount.fs._handles.file(fh).inode.ino, size=5))
    assert mount.read(fh) == b"befaf"
    for call in (mount.fsync, mount.flush, mount.release):
        call(fh)
    assert mount.store.objects == {}
    assert mount.store.uploads == {}


def test_a_temporary_file_larger_than_a_part(mounts, tmp_path):
    """As tempfile.TemporaryFile makes it: open, unlink, write, read."""
    mount = mounts(write_part_bytes=4, state_dir=tmp_path / "state")
    fh = mount.create("tmp", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    mount.unlink("tmp")
    for at in range(0, 300, 3):
        mount.write(fh, b"abc", at)
    assert mount.read(fh) == b"abc" * 100
    mount.close_file(fh)
    assert mount.store.objects == {}
    assert mount.store.requests["UPLOAD_PART"] == 0


def test_without_a_spool_it_is_limited_to_one_part(mounts):
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, b"0123")
    mount.unlink("f")
    with pytest.raises(SpoolFullError) as caught:
        mount.write(fh, b"45678", 4)
    assert caught.value.errno == 28
    mount.release(fh)


def test_another_file_may_have_its_name(spooled):
    mount = spooled
    mount.put("f", b"old")
    fh = mount.open("f", os.O_RDWR)
    mount.unlink("f")
    mount.write_file("f", b"new")
    mount.write(fh, b"more", 3)
    assert mount.read(fh) == b"oldmore"
    mount.close_file(fh)
    assert mount.data("f") == b"new"
    assert mount.cat("f") == b"new"


@pytest.mark.parametrize("theirs", [b"theirs", None])
def test_what_somebody_replaced_before_can_be_removed(spooled, theirs):
    """The handle's version is gone; that must not keep anybody from removing the name."""
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f")
    writer = mount.open("f", os.O_RDWR)
    mount.write(writer, b"ours")
    if theirs is None:
        mount.store.delete_now("f")
    else:
        mount.store.put_now("f", theirs)
    mount.run(mount.fs.unlink(1, b"f"))
    with pytest.raises(StaleError):
        mount.read(fh, 3_000_000, 10)
    assert mount.read(writer, 0, 4) == b"ours"
    mount.close_file(writer)
    mount.release(fh)
    assert mount.store.objects == {}


def test_what_may_not_be_read_can_be_removed(spooled):
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    fail(mount.store, "GET", AccessDeniedError("403"))
    mount.unlink("f")
    mount.release(fh)
    assert mount.store.objects == {}


@pytest.mark.parametrize("kind", ["GET", "DELETE"])
def test_a_removal_that_fails_changes_nothing(spooled, kind):
    mount = spooled
    mount.put("f", LARGE)
    fh, writer = mount.open("f"), mount.open("f", os.O_RDWR)
    mount.write(writer, b"!", 0)
    fail(mount.store, kind, DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.run(mount.fs.unlink(1, b"f"))
    assert mount.data("f") == LARGE
    mount.close_file(writer)
    mount.release(fh)
    assert mount.data("f") == b"!" + LARGE[1:]
    assert mount.spooled() == []
    assert mount.spool.used_bytes == 0


def test_a_file_without_a_name_cannot_be_opened_again(spooled):
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f")
    ino = mount.fs._handles.file(fh).inode.ino
    mount.unlink("f")
    mount.release(fh)
    with pytest.raises((StaleError, NotFoundError)):
        mount.run(mount.fs.files.open(ino, os.O_RDWR))


def test_a_file_without_a_name_has_no_links(mount):
    mount.put("old", b"x")
    mount.put("new", b"y")
    removed, replaced = mount.open("old"), mount.open("new")
    for fh, change in (
        (replaced, lambda: mount.rename("old", "new")),
        (removed, lambda: mount.unlink("new")),
    ):
        ino = mount.fs._handles.file(fh).inode.ino
        assert mount.run(mount.fs.getattr(ino)).nlink == 1
        change()
        assert mount.run(mount.fs.getattr(ino)).nlink == 0
        mount.release(fh)
