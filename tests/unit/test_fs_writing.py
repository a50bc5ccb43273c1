"""New files, rewrites, close and fsync: what is in S3 at which time, and the caller's errors."""

import os

import pytest

from csi_s3.errors import StoreUnavailableError
from tests.unit.fs_mount import REWRITE, WRITE_NEW, Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

EXCLUSIVE = WRITE_NEW | os.O_EXCL
DOWN = StoreUnavailableError("S3 is down")


def test_create_write_close_of_a_small_file_is_one_put(mount):
    """Promise: A new file (plain O_CREAT) appears in S3 at fsync or close, whole or not at all; up
    to one part it is a single PutObject."""
    with mount.requests(PUT=1):
        fh = mount.create("f")
        for at in range(0, 1000, 100):
            mount.write(fh, b"x" * 100, at)
        assert mount.store.objects == {}
        mount.flush(fh)
        assert mount.data("f") == b"x" * 1000
        mount.release(fh)


def test_above_one_part_parts_leave_while_it_is_written(mounts):
    """Promise: Above one part, parts go up in parallel while the file is written; nothing of it is
    visible before it is whole."""
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    held = Held(mount.store, "UPLOAD_PART")
    mount.write(fh, b"abcdefghijkl")
    mount.write(fh, b"m", 12)
    mount.settle()
    assert held.waiting == 3
    held.let_go()
    mount.settle()
    assert mount.store.objects == {}
    with mount.requests(UPLOAD_PART=1, COMPLETE_UPLOAD=1):
        mount.close_file(fh)
    assert mount.data("f") == b"abcdefghijklm"
    assert mount.store.uploads == {}


def test_close_waits_for_the_upload(mount):
    """Promise: close(), and fsync on any descriptor of the file, wait for the upload and return its
    error; writing may go on afterwards."""
    fh = mount.create("f")
    mount.write(fh, b"one")
    held = Held(mount.store, "PUT")
    closing = mount.start(mount.fs.files.flush(fh))
    mount.settle()
    assert held.waiting == 1
    assert not closing.done()
    held.let_go()
    mount.wait(closing)
    assert mount.data("f") == b"one"
    mount.release(fh)


def test_writing_may_go_on_after_fsync(mounts):
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    whole = b""
    for piece in (b"ab", b"cd", b"efgh", b"i", b"jklmnopq", b""):
        mount.write(fh, piece, len(whole))
        whole += piece
        mount.fsync(fh)
        assert mount.data("f") == whole
    mount.close_file(fh)
    assert mount.cat("f") == whole
    assert mount.store.uploads == {}


def test_fsync_through_another_descriptor_stores_what_any_has_written(mount):
    fh = mount.create("f")
    other = mount.open("f")
    mount.write(fh, b"data")
    mount.fsync(other)
    assert mount.data("f") == b"data"
    mount.release(other)
    mount.release(fh)


def test_flush_before_anything_was_written_does_nothing(mount):
    """Promise: FLUSH before anything was written (a shell's redirect, fork and exec) does nothing;
    an empty or truncated file is uploaded at fsync, at a FLUSH after a write, or at the last
    RELEASE."""
    mount.put("old", b"old")
    new, old = mount.create("new"), mount.open("old", REWRITE)
    with mount.requests():
        mount.flush(new)
        mount.flush(old)
    assert mount.data("old") == b"old"
    with mount.requests(PUT=2):
        mount.release(new)
        mount.release(old)
    assert (mount.data("new"), mount.data("old")) == (b"", b"")


def test_the_last_release_uploads_not_the_first(mount):
    first = mount.create("f")
    second = mount.open("f", os.O_WRONLY)
    mount.release(first)
    assert mount.data("f") is None
    mount.release(second)
    assert mount.data("f") == b""


def test_a_truncation_by_path_is_in_s3_when_it_returns(mount):
    """Promise: Truncation by path is in S3 when it returns, unless the file is open for writing:
    then with its next store."""
    mount.put("f", b"data")
    ino = mount.ino("f")
    for size, expected in ((3, b"dat"), (5, b"dat\0\0"), (0, b"")):
        assert mount.run(mount.fs.setattr(ino, size=size)).size == size
        assert mount.data("f") == expected
    mount.put("f", b"data")
    with mount.requests(HEAD=1, PUT=1):
        mount.run(mount.fs.setattr(ino, size=0))
    assert mount.data("f") == b""


def test_a_truncation_by_path_reaches_a_file_that_is_being_written(mount):
    fh = mount.create("f")
    mount.write(fh, b"data")
    mount.run(mount.fs.setattr(mount.ino("f"), size=0))
    mount.write(fh, b"new")
    mount.close_file(fh)
    assert mount.data("f") == b"new"


def test_a_file_opened_for_writing_while_it_is_truncated_stays_open(mount):
    mount.put("f", b"data")
    ino = mount.ino("f")
    held = Held(mount.store, "PUT")
    truncating = mount.start(mount.fs.setattr(ino, size=0))
    mount.settle()
    assert held.waiting == 1
    opening = mount.start(mount.fs.files.open(ino, REWRITE))
    mount.settle()
    held.let_go()
    mount.wait(truncating)
    fh = mount.wait(opening)
    mount.write(fh, b"new")
    mount.close_file(fh)
    assert mount.data("f") == b"new"


def test_touch_and_rewrite_at_once_loses_no_handle(mount):
    """RELEASE comes after close() has returned: the next open meets the upload of the last."""
    fh = mount.create("f")
    held = Held(mount.store, "PUT")
    releasing = mount.start(mount.fs.files.release(fh))
    mount.settle()
    assert held.waiting == 1
    opening = mount.start(mount.fs.files.open(mount.ino("f"), REWRITE))
    mount.settle()
    held.let_go()
    mount.wait(releasing)
    fh = mount.wait(opening)
    mount.write(fh, b"new")
    mount.close_file(fh)
    assert mount.data("f") == b"new"


def test_a_truncation_by_path_of_an_open_file_is_stored_with_it(mount):
    mount.put("f", b"data")
    fh = mount.open("f", os.O_RDWR)
    mount.truncate("f", 2)
    assert mount.data("f") == b"data"
    assert mount.read(fh) == b"da"
    mount.flush(fh)
    assert mount.data("f") == b"da"
    mount.release(fh)


def test_a_truncation_that_fails_says_so_and_leaves_the_object(mount):
    mount.put("f", b"data")
    ino = mount.ino("f")
    fail(mount.store, "PUT", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.run(mount.fs.setattr(ino, size=1))
    assert mount.data("f") == b"data"
    assert mount.cat("f") == b"data"


@pytest.mark.warnings_expected("f could not be uploaded and is kept in .*file-1.data")
def test_stores_to_a_mapping_after_close_are_uploaded_at_the_last_release(mounts, tmp_path):
    """The kernel keeps the handle until munmap, and writes the mapping's pages back through it.

    Promise: Stores to a shared mapping after close are uploaded at the last RELEASE; if that fails,
    the bytes stay in the spool.
    """
    mount = mounts(state_dir=tmp_path / "state", min_part_bytes=16)
    mount.put("f", b"0123456789")
    for written in (b"mapped", b"lost??"):
        fh = mount.open("f", os.O_RDWR)
        mount.flush(fh)
        mount.write(fh, written, 2)
        assert mount.data("f") != b"01" + written + b"89"
        if written == b"lost??":
            fail(mount.store, "PUT", DOWN)
            with pytest.raises(StoreUnavailableError):
                mount.release(fh)
        else:
            mount.release(fh)
        assert mount.data("f") == b"01mapped89"
    assert (tmp_path / "state" / "file-1.data").read_bytes() == b"01lost??89"


def test_write_after_fsync_and_after_the_close_of_a_duplicate_is_stored_by_the_next(mount):
    fh = mount.create("f")
    mount.write(fh, b"one")
    mount.fsync(fh)
    mount.write(fh, b"two", 3)
    mount.flush(fh)  # a duplicate is closed
    assert mount.data("f") == b"onetwo"
    mount.write(fh, b"2", 0)
    mount.flush(fh)
    mount.flush(fh)
    assert mount.data("f") == b"2netwo"
    with mount.requests():
        mount.release(fh)
