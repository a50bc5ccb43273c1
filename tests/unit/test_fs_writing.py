"""New files, rewrites, close and fsync: what is in S3 when, and what the caller is told."""

import asyncio
import gc
import os

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    ExistsError,
    FileTooLargeError,
    InternalError,
    NotFoundError,
    NotImplementedByStoreError,
    ObjectChangedError,
    SpoolFullError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
)
from csi_s3.fs import patience, upload
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
    """Promise: Truncation by path to 0 is in S3 when it returns."""
    mount.put("f", b"data")
    with mount.requests(HEAD=2, LIST=2, PUT=1):
        assert mount.run(mount.fs.setattr(mount.ino("f"), size=0)).size == 0
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


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_changes_in_the_middle_of_an_object_are_refused_at_open(mount, flags):
    """Promise: Append, write in the middle, truncation to another size than 0, sparse files, O_RDWR
    of what is there (not yet: EOPNOTSUPP)."""
    mount.put("f", b"data")
    with pytest.raises(UnsupportedError, match="O_TRUNC"):
        mount.open("f", flags)
    mount.put("empty")
    fh = mount.open("empty", flags)
    mount.write(fh, b"data")
    mount.close_file(fh)
    assert mount.data("empty") == b"data"


def test_a_write_elsewhere_than_at_the_end_is_refused_and_loses_nothing(mount):
    fh = mount.create("f")
    mount.write(fh, b"data")
    for offset in (0, 3, 5, 1 << 40):
        with pytest.raises(UnsupportedError, match="from start to end"):
            mount.write(fh, b"x", offset)
    mount.write(fh, b"more", 4)
    mount.close_file(fh)
    assert mount.data("f") == b"datamore"


def test_truncation_to_another_size_is_refused(mount):
    mount.put("f", b"data")
    for size in (1, 5):
        with pytest.raises(UnsupportedError, match="only to 0"):
            mount.run(mount.fs.setattr(mount.ino("f"), size=size))
    assert mount.data("f") == b"data"


# what fails


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
    fh, reader = mount.create("f"), None
    mount.write(fh, b"new")
    reader = mount.open("f")
    fail(mount.store, "PUT", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    with pytest.raises(Exception) as caught:
        mount.read(reader)
    assert caught.value.errno == 116
    mount.release(reader)


def test_fsync_may_be_tried_again(mount):
    fh = mount.create("f")
    mount.write(fh, b"new")
    fail(mount.store, "PUT", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    mount.fsync(fh)
    assert mount.data("f") == b"new"
    mount.close_file(fh)


@pytest.mark.parametrize("kind", ["CREATE_UPLOAD", "UPLOAD_PART", "COMPLETE_UPLOAD"])
@pytest.mark.parametrize("lost_answer", [False, True])
def test_a_lost_part_fails_the_file_for_good_and_leaves_no_upload(mounts, kind, lost_answer):
    """Promise: A multipart upload that fails is aborted."""
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
    if kind == "COMPLETE_UPLOAD" and lost_answer:
        assert mount.data("f") == b"abcd" * 10
    else:
        assert mount.data("f") == b"old"
    left = 1 if kind == "CREATE_UPLOAD" and lost_answer else 0  # nobody knows its id
    assert len(mount.store.uploads) == left
    assert mount.budget.used_bytes == 0


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


def test_no_progress_for_minutes_is_a_timeout_and_the_upload_goes_on(mount, monkeypatch):
    """Promise: ETIMEDOUT: no progress in time."""
    monkeypatch.setattr(patience, "STALLED_AFTER_S", 0.01)  # looked at so often; the clock stands
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


def test_a_file_larger_than_10000_parts_is_too_large(mounts, monkeypatch):
    """Promise: Part sizes grow with the file; EFBIG at 10,000 parts; write never needs to know the
    size."""
    monkeypatch.setattr(upload, "MAX_PARTS", 3)
    mount = mounts(write_part_bytes=4)
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


def test_parts_grow_with_the_file(mounts, monkeypatch):
    monkeypatch.setattr(upload, "GROW_EVERY_PARTS", 2)
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    sizes = []
    enter = mount.store._enter

    async def counting(operation, key):
        await enter(operation, key)
        if operation == "UPLOAD_PART":
            sizes.append(mount.budget.used_bytes)

    mount.store._enter = counting
    mount.write(fh, b"x" * 60)
    mount.close_file(fh)
    assert mount.data("f") == b"x" * 60
    assert len(sizes) < 15


# somebody else


def test_writing_on_in_a_large_file_that_somebody_replaced_is_stale(mounts):
    """Promise: Writing on, after an fsync, in a file above one part that somebody else replaced
    meanwhile: close() gives ESTALE (not yet: conditional puts of files up to one part)."""
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, b"0123456789")
    mount.fsync(fh)
    mount.put("f", b"theirs")
    mount.write(fh, b"more", 10)
    with pytest.raises(ObjectChangedError) as caught:
        mount.flush(fh)
    assert caught.value.errno == 116
    with pytest.raises(ObjectChangedError):
        mount.release(fh)
    assert mount.data("f") == b"theirs"
    assert mount.store.uploads == {}


@pytest.mark.parametrize("data", [b"x", b"more than a part"])
def test_exclusive_creation_fails_at_close_when_somebody_else_was_first(mounts, data):
    """Promise: O_CREAT|O_EXCL: one winner among all that use this mount; against others, close()
    gives EEXIST and their object stays (not yet: open itself decides among all mounts)."""
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f", EXCLUSIVE)
    with pytest.raises(ExistsError):
        mount.create("f", EXCLUSIVE)
    mount.write(fh, data)
    mount.put("f", b"theirs")
    with pytest.raises(ExistsError, match="somebody else"):
        mount.flush(fh)
    with pytest.raises(ExistsError):
        mount.release(fh)
    assert mount.data("f") == b"theirs"
    assert mount.store.uploads == {}
    assert mount.cat("f") == b"theirs"


@pytest.mark.parametrize("data", [b"x", b"more than a part"])
def test_where_the_store_has_no_conditions_exclusive_is_exclusive_on_this_mount(mounts, data):
    mount = mounts(write_part_bytes=4)
    for name in ("put", "create_upload"):
        without_conditions(mount.store, name)
    fh = mount.create("f", EXCLUSIVE)
    mount.write(fh, data)
    mount.close_file(fh)
    assert mount.data("f") == data


def without_conditions(store, name):
    whole = getattr(store, name)

    def refuse(request):
        async def conditional(*args, if_none_match=False, **rest):
            if if_none_match:
                raise NotImplementedByStoreError("501")
            return await request(*args, **rest)

        return conditional

    async def create_upload(*args, **rest):
        made = await whole(*args, **rest)
        made.complete = refuse(made.complete)
        return made

    setattr(store, name, refuse(whole) if name == "put" else create_upload)


# the end of a name


def test_unlink_of_a_file_being_written_is_final(mounts):
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, b"0123456789")
    mount.unlink("f")
    mount.close_file(fh)
    assert mount.store.objects == {}
    assert mount.store.uploads == {}


def test_an_unlinked_file_is_limited_to_one_part(mounts):
    """Promise: ENOSPC: an unlinked open file that grows beyond one part (not yet: the spool)."""
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, b"0123")
    mount.unlink("f")
    with pytest.raises(SpoolFullError) as caught:
        mount.write(fh, b"45678", 4)
    assert caught.value.errno == 28
    mount.release(fh)


@pytest.mark.parametrize("data", [b"one", b"more than one part"])
def test_an_unlink_that_fails_loses_nothing_of_what_is_being_written(mounts, data):
    mount = mounts(write_part_bytes=4)
    mount.put("f", b"old")
    fh = mount.open("f", REWRITE)
    mount.write(fh, data)
    fail(mount.store, "DELETE", AccessDeniedError("DELETE f: 403"))
    with pytest.raises(AccessDeniedError):
        mount.unlink("f")
    mount.write(fh, b", and on", len(data))
    mount.close_file(fh)
    assert mount.data("f") == data + b", and on"
    assert mount.cat("f") == data + b", and on"


def test_a_store_under_way_ends_before_its_name_is_removed(mount):
    fh = mount.create("f")
    mount.write(fh, b"data")
    held = Held(mount.store, "PUT", after=True)
    flushing = mount.start(mount.fs.files.flush(fh))
    mount.settle()
    removing = mount.start(mount.fs.unlink(1, b"f"))
    mount.settle()
    held.let_go()
    mount.wait(flushing)
    mount.wait(removing)
    mount.release(fh)
    assert mount.store.objects == {}
    with pytest.raises(NotFoundError):
        mount.lookup("f")


# drain


def test_drain_uploads_every_open_file_and_says_what_it_could_not(mounts):
    """Promise: SIGTERM, drain, unmount: open files are uploaded before the worker ends, within a
    grace period that is an option."""
    mount = mounts(write_part_bytes=4)
    handles = [mount.create(f"f{n}") for n in range(4)]
    for n, fh in enumerate(handles):
        mount.write(fh, b"x" * (3 * n))
    fail(mount.store, "PUT", DOWN)
    failures = mount.run(mount.fs.files.drain())
    assert failures == [DOWN]
    assert mount.run(mount.fs.files.drain()) == []
    assert {k: len(v.data) for k, v in mount.store.objects.items()} == {
        f"f{n}": 3 * n for n in range(4)
    }
    for fh in handles:
        mount.release(fh)


@pytest.mark.parametrize("kind", ["PUT", "UPLOAD_PART", "COMPLETE_UPLOAD", "GET", "LIST"])
def test_the_end_of_the_mount_does_not_wait_for_a_silent_store(mounts, kind):
    """The fixture's end fails the test if the mount's group does not end."""
    mount = mounts(write_part_bytes=4, memory_bytes=1 << 20)
    mount.put("big", b"x" * (4 << 20))
    big = mount.open("big")
    mount.run(mount.fs.opendir(1))
    held = Held(mount.store, kind)
    small, large = mount.create("small"), mount.create("large")
    mount.start(mount.fs.files.write(small, 0, b"x"))
    mount.start(mount.fs.files.write(large, 0, b"x" * 30))
    mount.settle()
    tasks = [mount.start(mount.fs.files.flush(fh)) for fh in (small, large)]
    tasks.append(mount.start(mount.fs.files.read(big, 2 << 20, 10)))
    tasks.append(mount.start(mount.names(1)))
    mount.settle()
    assert held.waiting > 0
    mount.fs.files.close()
    mount.settle()
    for task in tasks:
        task.cancel()
    mount.settle()
    assert all(task.done() for task in tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def test_the_end_of_the_mount_does_not_wait_for_memory(mounts):
    mount = mounts(memory_bytes=1 << 20)
    handles = [mount.create(f"f{n}") for n in range(3)]
    writes = [mount.start(mount.fs.files.write(fh, 0, b"x" * (1 << 20))) for fh in handles]
    mount.settle()
    assert [task.done() for task in writes] == [True, False, False]
    mount.fs.files.close()
    mount.settle()
    assert [task.cancelled() for task in writes] == [False, True, True]
