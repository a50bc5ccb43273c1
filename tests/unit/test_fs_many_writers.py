"""Many files open for writing: each takes little, gives way to others, and waits for nothing.

The budgets are small, so that few files fill them: a tail takes 4 KiB at least.
"""

import asyncio
import os
import tracemalloc

import pytest

from csi_s3.errors import OutOfMemoryError, SpoolFullError, TooManyOpenFilesError
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.base.progress_timeout import WAIT_BYTES
from csi_s3.fs.names.inode import Kind
from csi_s3.fs.write.dirty_file import RECORD_BYTES
from csi_s3.fs.write.remote_object import Basis
from csi_s3.fs.write.spool import RECORD_BYTES as SPOOLED_BYTES
from csi_s3.fs.write.staging import FIRST_GRANULE_BYTES
from tests.unit.fs_mount import WRITE_NEW, Held, mount, mounts
from tests.unit.writers_case import MIB, small

__all__ = ["mount", "mounts", "small"]

SOON_S = 0.05


def account(mount, kind):
    return mount.fs._context.memory.account(kind)


def give_up_soon(mount, after_s=SOON_S):
    mount.fs._context.progress_timeout.stalled_after_s = after_s


@pytest.mark.parametrize("n", [300, 3000])
def test_any_number_of_open_files_has_a_byte_written_to_each(small, n):
    """Promise: Any number of files may be open for writing: what can neither be uploaded yet nor
    stay in memory goes to the spool.
    """
    mount = small()
    handles = [mount.create(f"f{i}") for i in range(n)]
    for i, fh in enumerate(handles):
        mount.write(fh, b"%d" % i)
        assert mount.budget.used_bytes <= MIB
    in_spool = sum(name.endswith(".data") for name in mount.spooled())
    records = account(mount, MemoryKind.DIRTY_FILES).used_bytes - n * RECORD_BYTES
    assert in_spool * SPOOLED_BYTES < records < in_spool * (SPOOLED_BYTES + 100), "and their keys"
    with mount.requests(PUT=n):
        for fh in handles:
            mount.close_file(fh)
    assert all(mount.data(f"f{i}") == b"%d" % i for i in range(n))
    assert account(mount, MemoryKind.DIRTY_FILES).used_bytes == 0


def test_what_grows_least_recently_gives_way_to_what_streams(small):
    """A stream sends full parts, as if it were alone; idle files go to the spool for it."""
    mount = small()
    idle = [mount.create(f"f{i}") for i in range(256)]
    for fh in idle:
        mount.write(fh, b"1")
    assert mount.budget.used_bytes == MIB
    stream = mount.create("stream")
    with mount.requests(CREATE_UPLOAD=1, UPLOAD_PART=16, COMPLETE_UPLOAD=1):
        for at in range(0, 4 * MIB, 64 << 10):
            mount.wait(mount.start(mount.fs.files.write(stream, at, bytes(64 << 10))))
        mount.close_file(stream)
    with mount.requests(PUT=256):
        for fh in idle:
            mount.close_file(fh)
    assert mount.data("stream") == bytes(4 * MIB)
    assert mount.spooled() == []


def test_a_file_that_gave_way_and_grows_again_is_one_put(small):
    mount = small()
    first = mount.create("first")
    mount.write(first, b"one ")
    others = [mount.create(f"f{i}") for i in range(256)]
    for fh in others:
        mount.write(fh, b"1")  # the last one finds no room
    mount.write(first, b"two ", 4)
    mount.write(first, b"three", 8)
    with mount.requests():
        assert mount.read(first) == b"one two three"
    with mount.requests(PUT=1):
        mount.close_file(first)
    assert mount.data("first") == b"one two three"
    for fh in others:
        mount.close_file(fh)


@pytest.mark.parametrize("offset", [0, 2, 9])
def test_a_file_that_gave_way_can_be_changed_anywhere(small, offset):
    mount = small()
    fh = mount.create("f")
    mount.write(fh, b"0123456789")
    mount.run(mount.budget._make_way(MIB, None))
    mount.budget.take(MIB)
    mount.write(fh, b"+++", offset)
    expected = (b"0123456789"[:offset] + b"+++" + b"0123456789"[offset + 3 :]).ljust(10, b"\0")
    assert mount.read(fh) == expected
    mount.budget.release(MIB)
    mount.write(fh, b"more", len(expected))
    with mount.requests(PUT=1):
        mount.close_file(fh)
    assert mount.data("f") == expected + b"more"


def test_a_long_file_whose_beginning_gave_way_is_still_sent_while_it_is_written(small):
    mount = small()
    fh = mount.create("f")
    mount.write(fh, b"0" * 1000)
    mount.budget.take(MIB)
    mount.write(fh, b"1" * 1000, 1000)  # no memory: both are in the spool
    mount.budget.release(MIB)
    data = bytes(MIB)
    mount.write(fh, data, 2000)
    mount.settle()
    assert mount.store.requests["UPLOAD_PART"] >= 3
    mount.close_file(fh)
    assert mount.data("f") == b"0" * 1000 + b"1" * 1000 + data


def test_a_long_file_without_any_memory_leaves_from_the_spool(small):
    mount = small()
    fh = mount.create("f")
    mount.budget.take(MIB)
    data = os.urandom(MIB)
    for at in range(0, MIB, 64 << 10):
        mount.write(fh, data[at : at + (64 << 10)], at)
    mount.settle()
    assert mount.store.requests["UPLOAD_PART"] == 4
    assert mount.budget.used_bytes == MIB
    mount.close_file(fh)
    assert mount.data("f") == data
    mount.budget.release(MIB)


def test_a_stream_waits_while_parts_are_leaving(small):
    mount = small()
    held = Held(mount.store, "UPLOAD_PART")
    fh = mount.create("f")
    writing = mount.start(mount.fs.files.write(fh, 0, bytes(2 * MIB)))
    mount.settle()
    assert held.waiting == 4
    assert not writing.done()
    assert mount.budget.used_bytes == mount.budget.leaving_bytes == MIB
    requests = account(mount, MemoryKind.REQUESTS)
    assert requests.used_bytes > 2 * MIB
    held.let_go()
    mount.wait(writing)
    mount.close_file(fh)
    assert requests.used_bytes == 0
    assert mount.data("f") == bytes(2 * MIB)


def test_storing_many_spooled_files_at_once_exceeds_the_budget_by_one_part_at_most(small):
    mount = small()
    handles = [mount.create(f"f{i}") for i in range(20)]
    mount.budget.take(MIB)
    for fh in handles:
        mount.write(fh, bytes(200_000))
    mount.budget.release(MIB)
    held = Held(mount.store, "PUT")
    closing = [mount.start(mount.fs.files.flush(fh)) for fh in handles]
    mount.settle()
    assert held.waiting == MIB // 200_000
    assert mount.budget.used_bytes <= MIB
    held.let_go()
    for task in closing:
        mount.wait(task)
    for fh in handles:
        mount.close_file(fh)


@pytest.mark.parametrize("in_use", [0, MIB])
def test_where_the_spool_is_full_only_the_program_that_asks_for_more_fails(small, in_use):
    """Promise: Where neither memory nor spool has room, only the program that asks for more waits,
    and then fails with ENOSPC.
    """
    mount = small(has_spool=in_use > 0, spool_bytes=1)
    give_up_soon(mount)
    first = mount.create("first")
    mount.write(first, b"11")
    mount.budget.take(MIB)
    second = mount.create("second")
    with pytest.raises(SpoolFullError):
        mount.write(second, b"22")
    mount.write(first, b"1", 2)  # what it has taken is its own
    mount.budget.release(MIB)
    mount.write(second, b"2")
    for fh in (first, second):
        mount.close_file(fh)
    assert (mount.data("first"), mount.data("second")) == (b"111", b"2")


def test_those_that_wait_for_memory_do_not_prolong_each_other(small):
    mount = small(has_spool=False)
    give_up_soon(mount, 0.5)
    mount.budget.take(MIB)
    handles = [mount.create(f"f{i}") for i in range(10)]
    began, ended = [], []

    async def write(fh):
        began.append(fh)
        with pytest.raises(SpoolFullError):
            await mount.fs.files.write(fh, 0, b"1")
        ended.append((fh, len(began)))

    async def all_of_them():
        async with asyncio.TaskGroup() as group:
            for fh in handles:
                group.create_task(write(fh))
                await asyncio.sleep(0.1)

    mount.run(all_of_them())
    assert ended[0][0] == handles[0]
    assert ended[0][1] < len(handles)  # before the last one began
    assert [fh for fh, _ in ended] == handles
    mount.budget.release(MIB)
    for fh in handles:
        mount.close_file(fh)


def test_memory_that_comes_back_is_progress_for_those_that_wait_for_it(small):
    mount = small(has_spool=False)
    give_up_soon(mount, 0.5)
    mount.budget.take(MIB)
    handles = [mount.create(f"f{i}") for i in range(8)]
    writes = [mount.start(mount.fs.files.write(fh, 0, b"1")) for fh in handles]

    async def give_back():
        for _ in handles:
            await asyncio.sleep(0.2)
            mount.budget.release(FIRST_GRANULE_BYTES)

    mount.run(give_back())
    for task in writes:
        mount.wait(task)
    mount.budget.release(MIB - len(handles) * FIRST_GRANULE_BYTES)
    for fh in handles:
        mount.close_file(fh)


def test_one_more_file_than_there_is_memory_for_is_refused_and_nothing_is_changed(small):
    mount = small()
    mount.put("old", b"old")
    records = account(mount, MemoryKind.DIRTY_FILES)
    first = mount.create("first")
    rest = records.free_bytes - RECORD_BYTES // 2
    records.add(rest)
    with mount.requests():
        with pytest.raises(TooManyOpenFilesError):
            mount.create("second")
        with pytest.raises(TooManyOpenFilesError):
            mount.create("second", WRITE_NEW | os.O_EXCL)
    with pytest.raises(TooManyOpenFilesError):
        mount.open("old", os.O_RDWR)
    with pytest.raises(TooManyOpenFilesError):
        mount.truncate("old", 1)
    assert sorted(mount.ls()) == ["first", "old"]
    mount.write(first, b"1")
    mount.close_file(first)
    mount.close_file(mount.open("old", os.O_RDWR))
    records.add(-rest)
    assert (mount.data("first"), mount.data("old")) == (b"1", b"old")


@pytest.mark.parametrize("n", [1000, 10_000])
@pytest.mark.parametrize("is_edit", [False, True])
def test_the_record_of_a_file_takes_what_is_counted(mount, n, is_edit):
    inodes = [mount.fs._inodes.add(1, f"f{i}", Kind.FILE) for i in range(n)]
    mount.store.put_now("base", b"1")
    basis = Basis(base=mount.run(mount.store.head("base"))) if is_edit else Basis()
    make, made = mount.fs._write_back._dirty_file, []
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    made += [make(inode, basis) for inode in inodes]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.75 * RECORD_BYTES < (after - before) / n < 1.25 * RECORD_BYTES
    for writer in made:
        writer.close()


@pytest.mark.parametrize("n", [200, 2000])
def test_a_drain_stores_a_limited_number_of_files_at_a_time(mounts, n):
    mount = mounts()
    handles = [mount.create(f"f{i}") for i in range(n)]
    for fh in handles:
        mount.write(fh, b"1")
    held = Held(mount.store, "PUT")
    before = len(asyncio.all_tasks(mount.loop))
    draining = mount.start(mount.fs.drain())
    mount.settle()
    assert held.waiting == 64
    assert len(asyncio.all_tasks(mount.loop)) - before < 200
    held.let_go()
    assert mount.wait(draining) == []
    assert len(mount.store.objects) == n
    for fh in handles:
        mount.close_file(fh)


def test_without_a_spool_a_small_stored_file_that_finds_no_memory_is_out_of_memory(small):
    mount = small(has_spool=False)
    give_up_soon(mount)
    mount.put("f", b"stored")
    fh = mount.open("f", os.O_RDWR)
    mount.budget.take(MIB)
    with pytest.raises(OutOfMemoryError):
        mount.write(fh, b"+", 6)
    mount.budget.release(MIB)
    mount.write(fh, b"+", 6)
    mount.close_file(fh)
    assert mount.data("f") == b"stored+"


@pytest.mark.parametrize("n", [150, 1500])
def test_a_write_that_waits_takes_what_is_counted(small, n):
    mount = small(has_spool=False)
    handles = [mount.create(f"f{i}") for i in range(n)]
    mount.budget.take(MIB)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    writes = [mount.start(mount.fs.files.write(fh, 0, b"1")) for fh in handles]
    mount.settle()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    requests = account(mount, MemoryKind.REQUESTS)
    assert requests.used_bytes == n * (WAIT_BYTES + 1)
    assert 0.75 * WAIT_BYTES < (after - before) / n < 1.25 * WAIT_BYTES
    mount.budget.release(MIB)
    mount.budget.total_bytes = n * FIRST_GRANULE_BYTES
    mount.budget.release(0)
    for task in writes:
        mount.wait(task)
    for fh in handles:
        mount.close_file(fh)
    assert requests.used_bytes == 0


def test_of_files_created_exclusively_at_once_those_without_memory_are_not_made_in_s3(small):
    mount = small()
    records = account(mount, MemoryKind.DIRTY_FILES)
    rest = records.free_bytes - RECORD_BYTES * 3 // 2
    records.add(rest)

    async def both():
        calls = [mount.fs.files.create(1, name, WRITE_NEW | os.O_EXCL) for name in (b"a", b"b")]
        return await asyncio.gather(*calls, return_exceptions=True)

    (fh, made), refused = mount.run(both())
    mount.held.append(made.ino)
    assert isinstance(refused, TooManyOpenFilesError)
    assert list(mount.store.objects) == ["a"]
    assert len(mount.fs._inodes) == 2  # with the root
    mount.close_file(fh)
    records.add(-rest)
