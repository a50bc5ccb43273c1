"""Uploads that fail, and objects that other clients change: the caller's errors."""

import gc
import os
from contextlib import nullcontext

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    FileTooLargeError,
    InternalError,
    NotFoundError,
    StaleError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from csi_s3.fs.write.dirty_file import DirtyFile
from csi_s3.s3.store import Limits
from tests.unit.fs_mount import REWRITE, Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

DOWN = StoreUnavailableError("S3 is down")


def test_close_returns_the_error_and_the_old_object_stays(mount):
    """Promise: An upload that fails: close() gives the errno, and the object that was there
    stays."""
    mount.put("f", b"old")
    fh = mount.open("f", REWRITE)
    mount.write(fh, b"new")
    fail(mount.store, "PUT", AccessDeniedError("PUT f: 403"), times=9)
    with pytest.raises(AccessDeniedError) as caught:
        mount.flush(fh)
    assert caught.value.errno == 13
    with pytest.raises(AccessDeniedError):
        mount.release(fh)
    assert mount.data("f") == b"old"
    ino = mount.ino("f")
    mount.time.now_s += 2
    assert mount.cat("f") == b"old"
    assert mount.kernel.dropped == [ino], "the kernel's pages of the lost bytes"


def test_a_new_file_that_could_not_be_uploaded_is_gone(mount):
    """Promise: A new file that could not be uploaded is gone when it is closed."""
    fh = mount.create("f")
    mount.write(fh, b"new")
    fail(mount.store, "PUT", DOWN, times=9)
    for call in (mount.flush, mount.fsync, mount.release):
        with pytest.raises(StoreUnavailableError):
            call(fh)
    with pytest.raises(NotFoundError):
        mount.lookup("f")
    assert mount.ls() == []
    assert len(mount.fs._inodes) <= 2


def test_a_reader_of_a_file_that_could_not_be_uploaded_is_stale_not_empty(mount):
    fh = mount.create("f")
    mount.write(fh, b"new")
    reader = mount.open("f")
    fail(mount.store, "PUT", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    with pytest.raises(StaleError):
        mount.read(reader)
    mount.release(reader)


def test_a_flush_while_the_file_is_on_its_way_gets_the_outcome_of_that(mount):
    """Promise: A FLUSH while the file is being uploaded returns the outcome of that upload and
    sends nothing.
    """
    fh = mount.create("f")
    mount.write(fh, b"new")
    for fails in (True, False):
        held = Held(mount.store, "PUT")
        if fails:
            fail(mount.store, "PUT", DOWN, after=True)
        with mount.requests(PUT=1):
            calls = [mount.start(mount.fs.files.flush(fh)) for _ in range(10)]
            mount.settle()
            held.let_go()
            for call in calls:
                with pytest.raises(StoreUnavailableError) if fails else nullcontext():
                    mount.wait(call)
    assert mount.data("f") == b"new"
    mount.close_file(fh)


def test_fsync_may_be_tried_again(mount):
    fh = mount.create("f")
    mount.write(fh, b"new")
    fail(mount.store, "PUT", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    mount.fsync(fh)
    assert mount.data("f") == b"new"
    mount.close_file(fh)


@pytest.mark.parametrize("kind", ["CREATE_UPLOAD", "UPLOAD_PART"])
@pytest.mark.parametrize("lost_answer", [False, True])
def test_a_lost_part_fails_the_file_for_good_and_leaves_no_upload(mounts, kind, lost_answer):
    """Without a spool. What fails at the very end may be tried again: `test_fs_lost_answers`.

    Promise: A multipart upload that fails is aborted.
    """
    mount = mounts(write_part_bytes=4)
    mount.put("f", b"old")
    fh = mount.open("f", REWRITE)
    fail(mount.store, kind, DOWN, after=lost_answer)
    raised = []
    for at in range(0, 40, 4):
        try:
            mount.write(fh, b"abcd", at)
            mount.settle()
        except StoreUnavailableError as exc:
            raised.append(exc)
            break
    with pytest.raises(StoreUnavailableError):
        mount.flush(fh)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    assert mount.data("f") == b"old"
    left = 1 if kind == "CREATE_UPLOAD" and lost_answer else 0  # its id is unknown
    assert len(mount.store.uploads) == left
    assert mount.budget.used_bytes == 0


@pytest.mark.parametrize("is_unlinked", [False, True])
def test_a_file_whose_bytes_are_lost_begins_again_when_it_is_emptied(mounts, is_unlinked):
    mount = mounts(write_part_bytes=4, min_part_bytes=4)
    fh = mount.create("f", os.O_RDWR)
    ino = mount.ino("f")
    fail(mount.store, "UPLOAD_PART", DOWN)
    mount.write(fh, b"abcdefghij")
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    if is_unlinked:
        mount.unlink("f")
    with pytest.raises(StoreUnavailableError):
        mount.read(fh)
    mount.run(mount.fs.setattr(ino, size=0))
    mount.write(fh, b"new")
    assert mount.read(fh) == b"new"
    mount.close_file(fh)
    assert mount.data("f") == (None if is_unlinked else b"new")


@pytest.mark.warnings_expected("bug in a file's task")
def test_an_error_that_nobody_foresaw_fails_the_file_not_the_mount(mount, mounts):
    """Promise: An unforeseen error fails one file with EIO, never the mount."""
    for make, kind in ((mount, "PUT"), (mounts(write_part_bytes=4), "UPLOAD_PART")):
        fh = make.create("f")
        fail(make.store, kind, ZeroDivisionError("a bug"), times=9)
        make.write(fh, b"abcdefghi")
        with pytest.raises(InternalError) as caught:
            make.flush(fh)
        assert caught.value.errno == 5
        with pytest.raises(InternalError):
            make.release(fh)
        make.store.gate = Held(make.store, "none")._stop
        make.write_file("g", b"fine")
        assert make.cat("g") == b"fine"


def test_no_progress_for_minutes_is_a_timeout_and_the_upload_goes_on(mount):
    """Promise: ETIMEDOUT: no progress in time."""
    mount.fs._context.progress_timeout.stalled_after_s = 0.01  # checked so often; the clock stands
    fh = mount.create("f")
    mount.write(fh, b"data")
    held = Held(mount.store, "PUT")
    flushing = mount.start(mount.fs.files.flush(fh))
    mount.settle()
    mount.time.now_s += 1
    with pytest.raises(StoreTimeoutError) as caught:
        mount.wait(flushing)
    assert caught.value.errno == 110
    held.let_go()
    mount.settle()
    assert mount.data("f") == b"data"
    mount.release(fh)


@pytest.mark.parametrize("what", ["truncation", "write"])
def test_a_timeout_says_whether_the_work_goes_on(mounts, what):
    """A truncation does. A write accepts nothing after its caller has got an error."""
    mount = mounts()
    mount.fs._context.progress_timeout.stalled_after_s = 0.01
    mount.put("f", b"content")
    fh = mount.open("f", os.O_WRONLY)
    held = Held(mount.store, "GET")
    ino, files = mount.ino("f"), mount.fs.files
    call = mount.fs.setattr(ino, size=1) if what == "truncation" else files.write(fh, 1, b"new")
    task = mount.start(call)
    mount.settle()
    assert held.waiting == 1
    mount.time.now_s += 1
    with pytest.raises(StoreTimeoutError, match=f"{what}.*no progress") as caught:
        mount.wait(task)
    assert ("the work goes on" in str(caught.value)) is (what == "truncation")
    held.let_go()
    mount.settle()
    mount.close_file(fh)
    assert mount.data("f") == (b"c" if what == "truncation" else b"content")


def test_a_truncation_that_ends_in_the_step_in_which_its_caller_gives_up_drops_pages(
    mounts, monkeypatch
):
    """The kernel gets an error, and does not know the new size."""
    mount = mounts()
    mount.put("f", b"content")
    fh = mount.open("f", os.O_WRONLY)
    held = Held(mount.store, "GET")
    ino, truncate = mount.ino("f"), DirtyFile.truncate

    async def truncate_and_cancel(self, size):
        await truncate(self, size)
        task.cancel()

    monkeypatch.setattr(DirtyFile, "truncate", truncate_and_cancel)
    task = mount.start(mount.fs.setattr(ino, size=1))
    mount.settle()
    dropped = []
    invalidate = mount.kernel.invalidate_inode

    async def noted(number):
        dropped.append(number)
        await invalidate(number)

    mount.kernel.invalidate_inode = noted
    held.let_go()
    mount.settle()
    assert task.cancelled()
    assert dropped == [ino]
    mount.close_file(fh)
    assert mount.data("f") == b"c"


@pytest.mark.warnings_expected("upload of f failed in the end: PUT f: 403")
def test_a_failure_after_everybody_gave_up_is_in_the_log(mount):
    mount.fs._context.progress_timeout.stalled_after_s = 0.01
    fh = mount.create("f")
    mount.write(fh, b"data")
    held = Held(mount.store, "PUT")
    releasing = mount.start(mount.fs.files.release(fh))
    mount.settle()
    mount.time.now_s += 1
    with pytest.raises(StoreTimeoutError):
        mount.wait(releasing)

    async def refuse(_operation, _key):
        raise AccessDeniedError("PUT f: 403")

    mount.store.after = refuse
    held.let_go()
    mount.settle()


def test_bytes_that_a_request_still_looks_at_do_not_stop_the_next_write(mount):
    views = []
    put = mount.store.put

    async def keeping(key, data, **rest):
        views.append(memoryview(data))
        return await put(key, data, **rest)

    mount.store.put = keeping
    fh = mount.create("f")
    for at in range(3):
        mount.write(fh, b"x" * (300 << 10), at * (300 << 10))
        mount.fsync(fh)
    mount.close_file(fh)
    assert mount.data("f") == b"x" * (900 << 10)
    views.clear()
    gc.collect()


def test_a_file_larger_than_10000_parts_is_too_large(mounts):
    """Promise: Part sizes grow with the file; EFBIG at 10,000 parts; write never needs to know the
    size."""
    mount = mounts(write_part_bytes=4)
    mount.store.limits = Limits(min_part_bytes=1, max_parts=3)
    fh = mount.create("f")
    mount.write(fh, b"0123456789ab")
    with pytest.raises(FileTooLargeError) as caught:
        mount.write(fh, b"cdefgh", 12)
    assert caught.value.errno == 27
    with pytest.raises(FileTooLargeError):
        mount.flush(fh)
    with pytest.raises(FileTooLargeError):
        mount.release(fh)
    assert mount.store.uploads == {}


def test_parts_grow_with_the_file(mounts):
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    data = b"x" * (1000 * 4 + 1000 * 8 + 10 * 16)
    mount.write(fh, data)
    mount.close_file(fh)
    assert mount.data("f") == data
    assert mount.store.requests["UPLOAD_PART"] == 2010


# other clients


@pytest.mark.parametrize("data", [b"01", b"0123456789"])
@pytest.mark.parametrize("theirs", [b"theirs", None])
def test_writing_on_in_a_file_that_somebody_replaced_or_removed_is_stale(mounts, data, theirs):
    """Promise: Changing an object that another client replaced or removed concurrently: close()
    gives ESTALE and names both ETags; never a silent merge. (A rewrite by O_TRUNC replaces whatever
    is there.)
    """
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, data)
    mount.fsync(fh)
    ours = mount.store.objects["f"].info.etag
    if theirs is None:
        mount.delete("f")
    else:
        mount.put("f", theirs)
    mount.write(fh, b"more", len(data))
    with pytest.raises(StaleError) as caught:
        mount.flush(fh)
    assert caught.value.errno == 116
    assert ours in caught.value.what
    assert (
        "no object" if theirs is None else mount.store.objects["f"].info.etag
    ) in caught.value.what
    with pytest.raises(StaleError):
        mount.release(fh)
    assert mount.data("f") == theirs
    assert mount.store.uploads == {}


def test_a_rewrite_replaces_whatever_is_there(mount):
    mount.put("f", b"old")
    fh = mount.open("f", REWRITE)
    mount.write(fh, b"ours")
    mount.put("f", b"theirs")
    mount.close_file(fh)
    assert mount.data("f") == b"ours"


def test_a_write_that_fails_after_an_fsync_fails_close_too(mounts):
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, b"0123")
    mount.fsync(fh)
    fail(mount.store, "UPLOAD_PART", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.write(fh, b"abcd" * 20, 4)
    with pytest.raises(StoreUnavailableError):
        mount.flush(fh)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    assert mount.cat("f") == b"0123"


def test_a_reader_of_a_rewrite_that_could_not_be_uploaded_is_stale(mounts):
    """The kernel's pages are of no version, and no store is asked for one."""
    mount = mounts(metadata_ttl_s=60, metadata_ttl_by_hand=True)
    mount.put("f", b"old")
    reader = mount.open("f")
    fh = mount.open("f", REWRITE)
    mount.write(fh, b"new")
    fail(mount.store, "PUT", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    with mount.requests(), pytest.raises(StaleError):
        mount.read(reader)
    mount.release(reader)
    assert mount.cat("f") == b"old"
