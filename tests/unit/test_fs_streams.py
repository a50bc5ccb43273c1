"""Files that are written in parts while they grow: changed again, failed, holes."""

import gc
import os
import tracemalloc

import pytest

from csi_s3.errors import (
    FileTooLargeError,
    SpoolFullError,
    StaleError,
    StoreUnavailableError,
    UnsupportedError,
)
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.write.parallel_upload import PART_BYTES
from tests.unit.fs_mount import REWRITE, WRITE_NEW, Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

DOWN = StoreUnavailableError("S3 is down")
LARGE = bytes(range(64))


@pytest.fixture
def spooled(mounts, tmp_path):
    """Parts of 8 bytes, of which S3 takes no fewer than 4; and a spool."""
    return mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")


def test_what_left_in_parts_can_be_read_and_changed(spooled):
    """Promise: Bytes of a file being written that were sent in parts of an upload can be read and
    changed; only if the spool had no room for them, reading gives EOPNOTSUPP and changing ENOSPC
    until the file is stored.
    """
    mount = spooled
    fh = mount.create("f", os.O_RDWR | os.O_CREAT)
    mount.write(fh, LARGE)
    mount.settle()
    assert mount.store.requests["UPLOAD_PART"] == 7
    assert mount.read(fh) == LARGE
    mount.write(fh, b"!", 9)
    mount.close_file(fh)
    assert mount.data("f") == LARGE[:9] + b"!" + LARGE[10:]
    assert mount.store.requests["UPLOAD_PART"] == 9  # the changed one again, and the last


def test_a_truncation_leaves_no_upload_that_is_being_created(spooled):
    """Its id comes with the answer, and without it nothing can abort the upload."""
    mount = spooled
    fh = mount.create("f", os.O_RDWR | os.O_CREAT)
    held = Held(mount.store, "CREATE_UPLOAD", after=True)
    mount.write(fh, LARGE[:20])
    mount.settle()
    assert held.waiting == 1
    mount.truncate("f", 2)
    held.let_go()
    mount.close_file(fh)
    assert mount.data("f") == LARGE[:2]
    assert mount.store.uploads == {}


@pytest.mark.parametrize("change", ["write", "truncate"])
def test_where_the_spool_has_no_room_sent_bytes_stay_as_they_are(mounts, change):
    mount = mounts(write_part_bytes=8, min_part_bytes=4)
    fh = mount.create("f", os.O_RDWR | os.O_CREAT)
    mount.write(fh, LARGE)
    with pytest.raises(UnsupportedError):
        mount.read(fh, 0, 10)
    calls = {"write": lambda: mount.write(fh, b"!", 9), "truncate": lambda: mount.truncate("f", 13)}
    with pytest.raises(SpoolFullError) as caught:
        calls[change]()
    assert caught.value.errno == 28
    assert mount.stat("f").size == len(LARGE)
    mount.fsync(fh)
    assert mount.data("f") == LARGE
    assert mount.read(fh) == LARGE
    mount.close_file(fh)


def test_a_truncation_between_parts_needs_no_spool(mounts):
    mount = mounts(write_part_bytes=8, min_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, LARGE)
    mount.truncate("f", 16)
    mount.write(fh, b"+", 16)
    mount.close_file(fh)
    assert mount.data("f") == LARGE[:16] + b"+"


def test_an_upload_that_fails_begins_anew_from_the_spool(spooled):
    mount = spooled
    fh = mount.create("f")
    fail(mount.store, "UPLOAD_PART", DOWN)
    mount.write(fh, LARGE)
    mount.settle()
    with pytest.raises(StoreUnavailableError):
        mount.flush(fh)
    mount.flush(fh)
    assert mount.data("f") == LARGE
    mount.release(fh)
    assert mount.store.uploads == {}


def test_a_file_whose_bytes_were_lost_says_so_to_readers_too(mounts):
    mount = mounts(write_part_bytes=8, min_part_bytes=4)
    fh = mount.create("f", os.O_RDWR | os.O_CREAT)
    reader = mount.open("f")
    fail(mount.store, "UPLOAD_PART", DOWN)
    mount.write(fh, b"x" * 9)
    mount.settle()
    for call in (mount.flush, mount.read):
        with pytest.raises(StoreUnavailableError):
            call(fh)
    with pytest.raises(StoreUnavailableError):
        mount.read(reader)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    mount.release(reader)


@pytest.mark.parametrize("theirs", [b"theirs", None])
def test_an_append_that_left_in_parts_to_what_somebody_replaced_is_stale_each_time(mounts, theirs):
    mount = mounts(write_part_bytes=8, min_part_bytes=4)
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_WRONLY | os.O_APPEND)
    mount.write(fh, LARGE, len(LARGE))
    mount.settle()
    if theirs is None:
        mount.delete("f")
    else:
        mount.put("f", theirs)
    for call in (mount.fsync, mount.flush, mount.release):
        with pytest.raises(StaleError):
            call(fh)
    assert mount.data("f") == theirs
    assert mount.store.uploads == {}


def test_a_shortened_file_that_a_request_still_looks_at_can_be_shortened(mount):
    views = []
    put = mount.store.put

    async def keeping(key, data, **rest):
        views.append(memoryview(data))
        return await put(key, data, **rest)

    mount.store.put = keeping
    fh = mount.create("f")
    mount.write(fh, b"0123456789")
    mount.fsync(fh)
    mount.truncate("f", 3)
    mount.close_file(fh)
    assert mount.data("f") == b"012"
    views.clear()


def test_a_hole_too_large_to_be_sent_is_refused_at_once(mounts, tmp_path):
    """Promise: A hole costs nothing until the file is stored; one too large to be sent as zeros is
    EFBIG at once."""
    mount = mounts(write_part_bytes=4, memory_bytes=1 << 20, state_dir=tmp_path / "state")
    fh = mount.create("f")
    mount.write(fh, b"x")
    for call in (lambda: mount.write(fh, b"x", 1 << 60), lambda: mount.truncate("f", 1 << 60)):
        with pytest.raises(FileTooLargeError) as caught:
            call()
        assert caught.value.errno == 27
    with mount.requests():
        mount.truncate("f", 1 << 30)
    assert mount.stat("f").size == 1 << 30
    assert mount.budget.used_bytes <= 1 << 20
    assert mount.spool.used_bytes == 2 * 4096, "a block, and the description's"
    mount.truncate("f", 2)
    mount.close_file(fh)
    assert mount.data("f") == b"x\0"


def test_a_store_that_waited_for_one_that_failed_puts_no_empty_object(mount):
    """fsync through a handle for reading, while the last writer's release fails."""
    fh = mount.create("f", WRITE_NEW)
    mount.write(fh, b"data")
    mount.fsync(fh)
    reader = mount.open("f")
    mount.write(fh, b"more", 4)
    held = Held(mount.store, "PUT")
    releasing = mount.start(mount.fs.files.release(fh))
    mount.settle()
    syncing = mount.start(mount.fs.files.fsync(reader))
    mount.settle()
    fail(mount.store, "PUT", DOWN, times=9, after=True)
    held.let_go()
    for task in (releasing, syncing):
        with pytest.raises(StoreUnavailableError):
            mount.wait(task)
    assert mount.data("f") == b"datamore"
    mount.release(reader)


def test_a_file_opened_anew_while_it_is_rewritten_shows_what_is_written(mount):
    mount.put("f", b"old")
    fh = mount.open("f", REWRITE)
    mount.write(fh, b"new")
    assert mount.cat("f") == b"new"
    mount.close_file(fh)


def parts(mount, fh, n):
    """Write n parts and one more, which stays in memory."""
    for at in range(n + 1):
        mount.write(fh, LARGE[:8], 8 * at)
    mount.settle()
    assert mount.store.requests["UPLOAD_PART"] == n


@pytest.mark.parametrize("n", [100, 1000])
def test_the_record_of_a_part_takes_what_is_counted(spooled, n):
    mount, account = spooled, spooled.fs._context.memory.account(MemoryKind.DIRTY_FILES)
    fh = mount.create("f")
    before = account.used_bytes
    tracemalloc.start()
    parts(mount, fh, n)
    gc.collect()
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n * PART_BYTES <= account.used_bytes - before < n * PART_BYTES + 1000
    assert 0.75 * n * PART_BYTES < held_bytes < 1.25 * n * PART_BYTES
    mount.close_file(fh)
    assert mount.data("f") == LARGE[:8] * (n + 1)


@pytest.mark.warnings_expected("could not be uploaded and is kept in")
@pytest.mark.parametrize("how", ["stored", "emptied", "unlinked", "mount"])
def test_parts_are_counted_until_nothing_needs_them(spooled, how):
    mount, account = spooled, spooled.fs._context.memory.account(MemoryKind.DIRTY_FILES)
    before = account.used_bytes
    fh = mount.create("f")
    parts(mount, fh, 20)
    assert account.used_bytes - before > 20 * PART_BYTES
    if how == "emptied":
        mount.truncate("f", 0)
        mount.fsync(fh)
        assert account.used_bytes - before < 2 * PART_BYTES
    elif how == "unlinked":
        mount.unlink("f")
    if how == "mount":
        mount.end()
    else:
        mount.close_file(fh)
    assert account.used_bytes == before


def test_parts_of_an_upload_whose_completion_has_an_unknown_outcome_count(spooled):
    """They are remembered: what was made of them is known by them."""
    mount, account = spooled, spooled.fs._context.memory.account(MemoryKind.DIRTY_FILES)
    before = account.used_bytes
    fh = mount.create("f")
    mount.write(fh, LARGE)
    mount.settle()
    fail(mount.store, "COMPLETE_UPLOAD", DOWN, times=1)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    assert account.used_bytes - before > 7 * PART_BYTES
    mount.close_file(fh)
    assert mount.data("f") == LARGE
    assert account.used_bytes == before
