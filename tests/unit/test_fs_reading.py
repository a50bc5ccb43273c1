"""open and read: which version is seen, when pages are dropped, and what it costs."""

import asyncio
import os

import pytest

from csi_s3.errors import (
    ArchivedError,
    NotFoundError,
    ObjectChangedError,
    StaleError,
    StoreUnavailableError,
    UnsupportedError,
)
from tests.unit.fs_mount import REWRITE, Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

MIB = 1 << 20


def test_open_and_read_of_a_small_file_is_one_get(mount):
    """Promise: open always asks S3 unless `metadata-ttl` was set explicitly, and the same request
    fetches the first bytes.
    """
    mount.put("f", b"x" * MIB)
    ino = mount.ino("f")
    with mount.requests(GET=1):
        fh = mount.run(mount.fs.files.open(ino, os.O_RDONLY))
        assert mount.read(fh, 0, 2 * MIB) == b"x" * MIB
        mount.release(fh)


def test_open_of_what_the_kernel_may_have_cached_asks_for_the_version_only(mount):
    """Promise: Pages are kept across opens while the ETag is unchanged."""
    mount.put("f", b"x")
    ino = mount.ino("f")
    mount.release(mount.run(mount.fs.files.open(ino, os.O_RDONLY)))
    with mount.requests(HEAD=1):
        mount.release(mount.run(mount.fs.files.open(ino, os.O_RDONLY)))
    assert mount.kernel.dropped == []


def test_open_does_not_ask_while_a_metadata_ttl_set_by_hand_lasts(mounts):
    mount = mounts(metadata_ttl_s=60, metadata_ttl_by_hand=True)
    mount.put("f", b"old")
    ino = mount.ino("f")
    mount.release(mount.run(mount.opened(ino)))
    mount.put("f", b"newer")
    with mount.requests():
        fh = mount.run(mount.opened(ino))
        assert mount.run(mount.fs.getattr(ino)).size == 3
    mount.release(fh)
    mount.time.now_s += 61
    with mount.requests(HEAD=1):
        mount.release(mount.run(mount.opened(ino)))
    assert mount.stat("f").size == 5


def test_what_was_closed_elsewhere_before_is_seen_at_open(mount):
    """Promise: Close-to-open consistency: an open sees what was closed elsewhere before it."""
    mount.put("f", b"old")
    assert mount.cat("f") == b"old"
    mount.store.put_now("f", b"newer")  # the clock stands: every cache is fresh
    assert mount.cat("f") == b"newer"
    assert mount.stat("f").size == 5


def test_another_version_is_dropped_from_the_page_cache_before_open_answers(mount):
    """Promise: An inode stands for one version (ETag) of a key. An open that finds another version
    while no handle is open invalidates attributes and pages before it answers."""
    mount.put("f", b"old")
    mount.cat("f")
    ino = mount.ino("f")
    mount.put("f", b"new")
    fh = mount.run(mount.opened(ino))
    assert mount.kernel.dropped == [ino]
    assert mount.read(fh) == b"new"
    mount.release(fh)


def slow_kernel(mount):
    """Invalidations wait until the event is set."""
    release = asyncio.Event()
    quick = mount.kernel.invalidate_inode

    async def invalidate_inode(ino):
        await release.wait()
        await quick(ino)

    mount.kernel.invalidate_inode = invalidate_inode
    return release


def test_no_open_of_the_new_version_answers_before_the_old_pages_are_gone(mount):
    mount.put("f", b"old")
    mount.cat("f")
    ino = mount.ino("f")
    mount.put("f", b"new")
    release = slow_kernel(mount)
    opens = [mount.start(mount.opened(ino)) for _ in range(3)]
    mount.settle()
    assert [task.done() for task in opens] == [False] * 3
    release.set()
    for task in opens:
        mount.release(mount.wait(task))
    assert mount.kernel.dropped == [ino]


def test_an_open_cancelled_while_pages_are_dropped_leaves_it_to_the_next(mount):
    mount.put("f", b"old")
    mount.cat("f")
    ino = mount.ino("f")
    mount.put("f", b"new")
    release = slow_kernel(mount)
    first = mount.start(mount.opened(ino))
    mount.settle()
    first.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        mount.wait(first)
    fh = mount.run(mount.opened(ino))
    assert mount.kernel.dropped == [ino]
    assert mount.read(fh) == b"new"
    mount.release(fh)


def test_pages_of_a_rewrite_are_dropped_when_somebody_else_replaces_it(mount):
    """The kernel keeps the pages that it has written through."""
    mount.put("f", b"old")
    mount.rewrite("f", b"ours")
    ino = mount.ino("f")
    assert mount.kernel.dropped == []
    mount.put("f", b"them")
    fh = mount.run(mount.opened(ino))
    assert mount.kernel.dropped == [ino]
    mount.release(fh)


def test_open_of_another_version_is_stale_while_handles_are_open_and_the_next_lookup_is_new(mount):
    """Promise: An open that finds another version while handles are open answers ESTALE; the
    kernel repeats the look-up and gets a new inode."""
    mount.put("f", b"old")
    old_ino = mount.ino("f")
    old = mount.run(mount.fs.files.open(old_ino, os.O_RDONLY))
    mount.put("f", b"newer")
    with pytest.raises(StaleError, match="another version"):
        mount.run(mount.fs.files.open(old_ino, os.O_RDONLY))
    new_ino = mount.ino("f")
    assert new_ino != old_ino
    new = mount.run(mount.fs.files.open(new_ino, os.O_RDONLY))
    assert mount.read(new) == b"newer"
    assert mount.read(old) == b"old"
    assert mount.run(mount.fs.getattr(old_ino)).size == 3
    mount.release(old)
    mount.release(new)


def test_an_open_handle_reads_its_version_or_is_stale_never_a_mix(mount):
    """Promise: An open handle reads its version: old bytes or ESTALE, never a mix."""
    mount.put("f", b"a" * (3 * MIB))
    fh = mount.open("f")
    assert mount.read(fh, 0, 10) == b"a" * 10
    mount.put("f", b"b" * (3 * MIB))
    assert mount.read(fh, 0, 10) == b"a" * 10
    with pytest.raises(ObjectChangedError):
        mount.read(fh, 2 * MIB, 10)
    mount.release(fh)


def test_an_open_handle_of_what_was_deleted_elsewhere_is_stale(mount):
    """Promise: ESTALE: replaced or gone under an open handle."""
    mount.put("f", b"a" * (3 * MIB))
    fh = mount.open("f")
    mount.delete("f")
    assert mount.read(fh, 0, 10) == b"a" * 10
    with pytest.raises(StaleError, match="deleted while open"):
        mount.read(fh, 2 * MIB, 10)
    mount.release(fh)


def test_an_inode_whose_name_stands_for_another_cannot_be_opened_any_more(mount):
    mount.put("f", b"old")
    old_ino = mount.ino("f")
    old = mount.run(mount.fs.files.open(old_ino, os.O_RDONLY))
    mount.put("f", b"newer")
    mount.ino("f")
    for flags in (os.O_RDONLY, REWRITE, os.O_WRONLY):
        with pytest.raises(StaleError):
            mount.run(mount.fs.files.open(old_ino, flags))
    assert mount.data("f") == b"newer"
    mount.release(old)


def test_own_writes_keep_the_inode_and_are_read_through_handles_that_were_open(mount):
    """Promise: Writes through the mount keep the inode."""
    mount.put("f", b"old")
    ino = mount.ino("f")
    old = mount.run(mount.fs.files.open(ino, os.O_RDONLY))
    mount.rewrite("f", b"ours")
    assert mount.ino("f") == ino
    assert mount.read(old) == b"ours"
    mount.release(old)


def test_reads_see_the_bytes_written_so_far_through_any_handle(mount):
    """Promise: Reads of a file being written on the same mount see the bytes written so far,
    through any handle.
    """
    writer = mount.create("f", os.O_RDWR | os.O_CREAT)
    reader = mount.open("f")
    mount.write(writer, b"one")
    assert mount.read(reader) == mount.read(writer) == b"one"
    assert mount.stat("f").size == 3
    mount.fsync(writer)
    mount.write(writer, b"two", 3)
    assert mount.read(reader) == b"onetwo"
    assert mount.read(reader, 2, 2) == b"et"
    mount.close_file(writer)
    assert mount.read(reader) == b"onetwo"
    mount.release(reader)


def test_bytes_in_an_upload_that_is_not_complete_are_refused_not_made_up(mounts):
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f", os.O_RDWR | os.O_CREAT)
    mount.write(fh, b"123456")
    with pytest.raises(UnsupportedError, match="close the file first"):
        mount.read(fh)
    assert mount.read(fh, 4, 2) == b"56"
    mount.fsync(fh)
    mount.write(fh, b"789", 6)
    assert mount.read(fh) == b"123456789"
    mount.close_file(fh)
    assert mount.cat("f") == b"123456789"


def test_an_archived_object_has_mode_000_and_cannot_be_opened(mount):
    """Promise: An archived object (Glacier) that is not restored has mode 000 and gives EACCES."""
    mount.put("f", b"cold", archived=True)
    assert mount.stat("f").mode & 0o7777 == 0
    with pytest.raises(ArchivedError) as caught:
        mount.open("f")
    assert caught.value.errno == 13


def test_a_handle_outlives_unlink_and_reads_what_is_in_memory(mount):
    """Promise: unlink of an open file: the handle keeps working; bytes that are not in S3 yet stay
    readable and writable, and are never uploaded.
    """
    fh = mount.create("tmp", os.O_RDWR | os.O_CREAT)
    reader = mount.open("tmp")
    mount.write(fh, b"one")
    mount.unlink("tmp")
    mount.write(fh, b"two", 3)
    assert mount.read(fh) == mount.read(reader) == b"onetwo"
    mount.fsync(fh)
    mount.close_file(fh)
    assert mount.read(reader) == b"onetwo"
    mount.release(reader)
    assert mount.store.objects == {}
    assert mount.store.requests["PUT"] == 0


def test_what_is_only_in_s3_is_stale_after_its_unlink_where_there_is_no_spool(mount):
    mount.put("f", b"a" * (3 * MIB))
    fh = mount.open("f")
    mount.unlink("f")
    with pytest.raises(StaleError):
        mount.read(fh, 2 * MIB, 10)
    mount.release(fh)


def test_open_of_a_file_that_is_gone_says_so(mount):
    mount.put("f", b"x")
    ino = mount.ino("f")
    mount.delete("f")
    with pytest.raises(NotFoundError):
        mount.run(mount.fs.files.open(ino, os.O_RDONLY))


def test_a_failed_open_leaves_nothing_and_the_next_one_works(mount):
    mount.put("f", b"x")
    ino = mount.ino("f")
    fail(mount.store, "GET", StoreUnavailableError("GET f: 503"))
    with pytest.raises(StoreUnavailableError):
        mount.run(mount.fs.files.open(ino, os.O_RDONLY))
    assert mount.fs.usage().open_files == 0
    assert mount.cat("f") == b"x"


def test_an_open_whose_question_was_overtaken_by_an_own_write_does_not_undo_it(mount):
    """Promise: Changes made through the mount are visible on it at once; a LIST or a look-up that
    was in progress cannot undo them.
    """
    mount.put("f", b"old")
    ino = mount.ino("f")
    dir_fh = mount.run(mount.fs.opendir(1))
    assert mount.run(mount.entries(dir_fh)) == ["f"]
    held = Held(mount.store, "GET", after=True)
    opening = mount.start(mount.fs.files.open(ino, os.O_RDONLY))
    mount.settle()
    assert held.waiting == 1
    mount.rewrite("f", b"ours, longer")
    held.let_go()
    fh = mount.wait(opening)
    assert mount.stat("f").size == 12
    assert mount.read(fh) == b"ours, longer"
    mount.release(fh)
    mount.fs.releasedir(dir_fh)


def test_many_opens_held_do_not_exceed_the_memory_budget(mounts):
    mount = mounts(memory_bytes=4 * MIB)
    for n in range(12):
        mount.put(f"f{n}", bytes([n]) * MIB)
    handles = [mount.open(f"f{n}") for n in range(12)]
    held = [mount.fs._handles.file(fh).reader for fh in handles]
    assert sum(len(r._first) for r in held) <= 4 * MIB
    assert mount.budget.used_bytes <= 4 * MIB
    for n, fh in enumerate(handles):
        assert mount.read(fh) == bytes([n]) * MIB
        mount.release(fh)
