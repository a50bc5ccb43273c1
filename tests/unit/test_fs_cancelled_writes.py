"""A write that waits and whose caller gives up: how much of it is in the file is known then."""

import os

import pytest

from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.write.parallel_upload import PARALLEL_PARTS
from tests.unit.fs_mount import REWRITE, Held, mounts

__all__ = ["mounts"]

PART = 64 << 10
MEMORY = 4 * PART


@pytest.fixture
def small(mounts):
    """A mount with memory for four parts, and no spool."""
    return mounts(memory_bytes=MEMORY, write_part_bytes=PART, min_part_bytes=PART)


def fill(mount):
    """Take all memory for parts that the store does not answer; the handle."""
    held = Held(mount.store, "UPLOAD_PART")
    fh = mount.create("full")
    mount.write(fh, bytes(MEMORY))
    assert not mount.budget.has_room(1)
    return fh, held


def given_up(mount, call):
    """Start a write, let its caller give up while it waits; what it returned, None: nothing."""
    task = mount.start(call)
    mount.settle()
    assert not task.done()
    task.cancel()
    mount.settle()
    assert task.done()
    return None if task.cancelled() else task.result()


def waiting_bytes(mount):
    return mount.fs._context.memory.account(MemoryKind.REQUESTS).used_bytes


@pytest.mark.parametrize("offset", [0, 5, 3 * PART])
def test_a_write_that_waits_for_memory_has_written_nothing(small, offset):
    fh = small.create("f")
    full, held = fill(small)
    used = small.budget.used_bytes
    assert given_up(small, small.fs.files.write(fh, offset, b"data")) is None
    assert small.stat("f").size == 0, "nor is there a hole"
    assert (small.budget.used_bytes, waiting_bytes(small)) == (used, 0)
    held.let_go()
    small.settle()
    small.write(fh, b"later")
    small.close_file(fh)
    small.close_file(full)
    assert small.data("f") == b"later"


def test_a_write_of_which_a_part_found_room_returns_a_short_count(small):
    """Promise: A write that is interrupted while it waits has accepted nothing (EINTR), or returns
    how many bytes it has accepted.
    """
    held = Held(small.store, "UPLOAD_PART")
    fh = small.create("f")
    data = os.urandom(MEMORY + PART)
    accepted = given_up(small, small.fs.files.write(fh, 0, data))
    assert 0 < accepted < len(data)
    assert small.stat("f").size == accepted
    assert waiting_bytes(small) == 0
    held.let_go()
    small.settle()
    assert small.stat("f").size == accepted, "no more was accepted afterwards"
    small.write(fh, data[accepted:], accepted)
    small.close_file(fh)
    assert small.data("f") == data


def test_a_write_that_waits_for_a_store_of_its_file_has_written_nothing(small):
    fh = small.create("f")
    small.write(fh, b"stored")
    held = Held(small.store, "PUT")
    flush = small.start(small.fs.files.flush(fh))
    small.settle()
    assert given_up(small, small.fs.files.write(fh, 0, b"more")) is None
    held.let_go()
    small.wait(flush)
    assert small.data("f") == small.read(fh) == b"stored"
    small.close_file(fh)


def test_a_write_that_waits_for_a_rename_has_written_what_it_says(small):
    small.mkdir("d")
    fh = small.create("d/f")
    data = os.urandom(3 * PART)
    small.write(fh, data[:PART])
    held = Held(small.store, "COPY")
    small.put("d/other", b"x")
    renaming = small.renaming("d", "e")
    small.settle()
    accepted = given_up(small, small.fs.files.write(fh, PART, data[PART:])) or 0
    held.let_go()
    small.wait(renaming)
    assert small.stat("e/f").size == PART + accepted
    small.write(fh, data[PART + accepted :], PART + accepted)
    small.close_file(fh)
    assert small.data("e/f") == data


def test_a_tail_that_waits_to_be_sent_is_sent_although_the_caller_gives_up(mounts):
    """Its bytes were accepted, and are nowhere else."""
    mount = mounts(memory_bytes=4 * PARALLEL_PARTS * PART, write_part_bytes=PART)
    held = Held(mount.store, "UPLOAD_PART")
    fh = mount.create("f")
    data = os.urandom((PARALLEL_PARTS + 2) * PART)
    accepted = given_up(mount, mount.fs.files.write(fh, 0, data))
    assert accepted == (PARALLEL_PARTS + 1) * PART
    flush = mount.start(mount.fs.files.flush(fh))
    mount.settle()
    assert not flush.done()
    held.let_go()
    mount.wait(flush)
    assert mount.data("f") == data[:accepted]
    mount.write(fh, data[accepted:], accepted)
    mount.close_file(fh)
    assert mount.data("f") == data
    assert mount.store.uploads == {}


def test_an_open_that_truncates_does_not_wait_for_the_end_of_an_upload_once_given_up(small):
    fh = small.create("f")
    small.write(fh, bytes(2 * PART))
    held = Held(small.store, "ABORT_UPLOAD")
    assert given_up(small, small.fs.files.open(small.ino("f"), REWRITE)) is None
    assert small.stat("f").size == 0
    held.let_go()
    small.write(fh, b"new")
    small.close_file(fh)
    assert small.data("f") == b"new"
    assert small.store.uploads == {}
    assert small.fs.usage().open_files == 0
