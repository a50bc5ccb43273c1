"""The end of what is written: names that go, files that are drained, the mount's own end."""

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    NotFoundError,
    StaleError,
    StoreUnavailableError,
)
from tests.unit.fs_mount import REWRITE, Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

DOWN = StoreUnavailableError("S3 is down")


def test_unlink_of_a_file_being_written_is_final(mounts):
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, b"0123456789")
    mount.unlink("f")
    mount.close_file(fh)
    assert mount.store.objects == {}
    assert mount.store.uploads == {}


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
    failures = mount.run(mount.fs.drain())
    assert [f.occurrence for f in failures] == [DOWN.occurrence]
    assert mount.run(mount.fs.drain()) == []
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
    mount.run(mount.fs.close())
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
    mount.run(mount.fs.close())
    mount.settle()
    assert [task.cancelled() for task in writes] == [False, True, True]


@pytest.mark.parametrize("call", ["flush", "fsync", "release"])
def test_what_is_closed_after_the_mounts_end_is_not_said_to_be_stored(mounts, call):
    mount = mounts()
    fh = mount.create("f")
    mount.write(fh, b"data")
    mount.run(mount.fs.close())
    with pytest.raises(StaleError):
        getattr(mount, call)(fh)
    with pytest.raises(StaleError):
        mount.write(fh, b"more", 4)
    assert mount.store.objects == {}
