"""Writes that wait: their bytes are in memory up to a bound, then in the spool, else refused."""

import gc
import os
from pathlib import Path

import pytest

from csi_s3.errors import OutOfMemoryError, SpoolFullError
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.base.progress_timeout import WAIT_BYTES
from csi_s3.fs.files.waiting_writes import DATA_SHARE
from csi_s3.fs.write.spool_directory import UNNAMED
from csi_s3.fs.write.waiting_bytes import SLOT_BYTES
from csi_s3.fuse.negotiation import MAX_WRITE_BYTES
from tests.unit.fs_mount import mount, mounts

__all__ = ["mount", "mounts"]

MIB = 1 << 20


@pytest.fixture
def small(mounts, tmp_path):
    def make(*, has_spool=True, **options):
        state = tmp_path / "state" if has_spool else None
        return mounts(state_dir=state, memory_bytes=MIB, **options)

    return make


def requests(mount):
    return mount.fs._context.memory.account(MemoryKind.REQUESTS)


def test_few_writes_stay_in_memory(small):
    mount = small()
    assert mount.fs.files.hold(bytes(MIB), besides_bytes=0) is None
    assert mount.spooled() == []


def waiting_files():
    """The descriptors of the file that has the bytes of writes that wait: one, or none."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [link for link in links if link.readlink().name.startswith(UNNAMED)]


def disk_bytes():
    return sum(link.stat().st_blocks * 512 for link in waiting_files())


def test_bytes_beyond_the_bound_are_in_the_spool_as_long_as_they_are_referred_to(small):
    mount = small()
    space = mount.fs.spool.disk.space
    room = int(requests(mount).limit_bytes * DATA_SHARE)
    data = bytes(range(256)) * 40 + b"the end"
    held = mount.fs.files.hold(data, besides_bytes=room)
    assert (len(held), held.read(0, len(data)), held.read(5000, 9999)) == (
        len(data),
        data,
        data[5000:],
    )
    assert space.used_bytes == 3 * 4096
    assert mount.spooled() == [], "it has no name"
    assert len(waiting_files()) == 1
    del held
    gc.collect()
    assert space.used_bytes == 0
    assert waiting_files() == []


def test_what_waits_no_longer_leaves_the_disk_while_others_wait(small):
    mount = small()
    room = int(requests(mount).limit_bytes * DATA_SHARE)
    held = [mount.fs.files.hold(bytes([i]) * 100_000, besides_bytes=room) for i in range(10)]
    assert disk_bytes() >= 1_000_000
    del held[1:9]
    assert disk_bytes() < 300_000
    held += [mount.fs.files.hold(b"x" * 100_000, besides_bytes=room) for _ in range(4)]
    sizes = [link.stat().st_size for link in waiting_files()]
    assert sizes[0] <= 10 * SLOT_BYTES, "their places are used again"
    assert [view.read(99_990, 99) for view in held] == [bytes([i]) * 10 for i in (0, 9, *b"xxxx")]
    del held


def test_a_slot_takes_the_largest_write_of_the_kernel(small):
    mount = small()
    room = int(requests(mount).limit_bytes * DATA_SHARE)
    held = [mount.fs.files.hold(bytes([i]) * MAX_WRITE_BYTES, besides_bytes=room) for i in (1, 2)]
    assert [view.read(MAX_WRITE_BYTES - 1, 9) for view in held] == [b"\1", b"\2"]
    del held


@pytest.mark.parametrize("n", [40, 400])
def test_any_number_of_waiting_writes_holds_no_more_than_the_bound(small, n):
    """In memory; the spool has the others."""
    mount = small()
    account, space = requests(mount), mount.fs.spool.disk.space
    with account.reserved(account.limit_bytes // 4, "others"):
        held = []
        for _ in range(n):
            view = mount.fs.files.hold(bytes(100_000), besides_bytes=0)
            if view is None:
                account.add(100_000)
            held.append(view)
        in_memory = held.count(None)
        assert account.used_bytes <= account.limit_bytes * DATA_SHARE
        assert space.used_bytes == (n - in_memory) * 102_400
        account.add(-100_000 * in_memory)
    del held, view
    assert space.used_bytes == 0


@pytest.mark.parametrize("has_spool", [True, False])
def test_what_neither_memory_nor_spool_takes_is_refused(small, has_spool):
    """Promise: ENOMEM at once: a write has to wait, and neither memory nor the spool has room for
    its bytes while it does. Nothing of it is accepted.
    """
    mount = small(has_spool=has_spool, spool_bytes=50_000)
    room = int(requests(mount).limit_bytes * DATA_SHARE)
    with pytest.raises(OutOfMemoryError, match="a write that waits"):
        mount.fs.files.hold(bytes(100_000), besides_bytes=room)
    assert mount.fs.spool.used_bytes == 0


def test_too_many_waiting_requests_refuse_a_write_even_if_the_spool_has_room(small):
    mount = small()
    room = requests(mount).limit_bytes - WAIT_BYTES
    assert mount.fs.files.hold(b"1", besides_bytes=room).read(0, 1) == b"1"
    with pytest.raises(OutOfMemoryError):
        mount.fs.files.hold(b"1", besides_bytes=room + 1)


def test_a_write_from_the_spool_is_stored_as_one_from_memory(small):
    mount = small()
    fh = mount.create("f")
    room = int(requests(mount).limit_bytes * DATA_SHARE)
    view = mount.fs.files.hold(b"0123456789" * 1000, besides_bytes=room)
    assert mount.run(mount.fs.files.write(fh, 0, view)) == 10_000
    del view
    mount.close_file(fh)
    assert mount.data("f") == b"0123456789" * 1000
    assert mount.fs.spool.used_bytes == 0


def lose_bytes():
    """As of a disk that fails: the file of the writes that wait has no byte any more."""
    (link,) = waiting_files()
    os.truncate(link, 0)


def test_a_write_whose_bytes_the_disk_has_lost_fails_and_nothing_else_does(small):
    mount = small()
    fh = mount.create("f")
    mount.write(fh, b"before")
    room = int(requests(mount).limit_bytes * DATA_SHARE)
    held = mount.fs.files.hold(bytes(10_000), besides_bytes=room)
    lose_bytes()
    with pytest.raises(SpoolFullError, match="the spool's disk"):
        mount.run(mount.fs.files.write(fh, 6, held))
    del held
    mount.close_file(fh)
    assert mount.data("f") == b"before"
    gc.collect()  # the error's frames
    assert mount.fs.spool.used_bytes == 0
