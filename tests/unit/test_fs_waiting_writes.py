"""Writes that wait: their bytes are in memory up to a bound, then in the spool, else refused."""

import gc

import pytest

from csi_s3.errors import OutOfMemoryError
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.base.progress_timeout import WAIT_BYTES
from csi_s3.fs.files.waiting_writes import DATA_SHARE
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


def test_bytes_beyond_the_bound_are_in_the_spool_as_long_as_they_are_referred_to(small):
    mount = small()
    space = mount.fs.spool.disk.space
    room = int(requests(mount).limit_bytes * DATA_SHARE)
    data = bytes(range(256)) * 40 + b"the end"
    held = mount.fs.files.hold(data, besides_bytes=room)
    assert held == data
    assert space.used_bytes == 3 * 4096
    assert mount.spooled() == [], "it has no name"
    part = held[5000:]
    del held
    gc.collect()
    assert part == data[5000:]
    assert space.used_bytes == 3 * 4096
    del part
    gc.collect()
    assert space.used_bytes == 0


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
    """Promise: ENOMEM: a write that waits, where memory and spool are full, or that needs one more
    extent, where there is memory for none.
    """
    mount = small(has_spool=has_spool, spool_bytes=50_000)
    room = int(requests(mount).limit_bytes * DATA_SHARE)
    with pytest.raises(OutOfMemoryError, match="a write that waits"):
        mount.fs.files.hold(bytes(100_000), besides_bytes=room)
    assert mount.fs.spool.used_bytes == 0


def test_too_many_waiting_requests_refuse_a_write_even_if_the_spool_has_room(small):
    mount = small()
    room = requests(mount).limit_bytes - WAIT_BYTES
    assert mount.fs.files.hold(b"1", besides_bytes=room) == b"1"
    with pytest.raises(OutOfMemoryError):
        mount.fs.files.hold(b"1", besides_bytes=room + 1)


def test_a_write_from_the_spool_is_stored_as_one_from_memory(small):
    mount = small()
    fh = mount.create("f")
    room = int(requests(mount).limit_bytes * DATA_SHARE)
    view = mount.fs.files.hold(b"0123456789" * 1000, besides_bytes=room)
    assert mount.run(mount.fs.files.write(fh, 0, view, is_in_memory=False)) == 10_000
    del view
    mount.close_file(fh)
    assert mount.data("f") == b"0123456789" * 1000
    assert mount.fs.spool.used_bytes == 0
