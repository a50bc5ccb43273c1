"""fallocate, SEEK_DATA and SEEK_HOLE: what they make of a file, and what holes cost."""

import asyncio
import errno
import os
import random
from collections import Counter

import pytest

from csi_s3.errors import (
    FileTooLargeError,
    InvalidRangeError,
    NoDataError,
    NotWritableError,
    StaleError,
    StoreUnavailableError,
    UnsupportedError,
)
from csi_s3.fs.files.open_files import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
)
from csi_s3.fs.write.extents import Extents, Origin
from tests.unit.fs_mount import fail, mount, mounts
from tests.unit.spool_case import BLOCK, put, spool_of
from tests.unit.test_fs_spool_space import SLACK, disk_use

__all__ = ["mount", "mounts"]

KEEP, PUNCH, ZERO = FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE

MIB, TIB = 1 << 20, 1 << 40
HOLE = PUNCH | KEEP
DATA = bytes(range(1, 65))


@pytest.fixture
def spooled(mounts, tmp_path):
    """Parts of 8 bytes, of which S3 takes no fewer than 4; and a spool."""
    return mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")


def test_mode_0_makes_the_file_longer_and_nothing_else(spooled):
    """Promise: fallocate reserves nothing: mode 0 makes the file longer where the range is behind
    its end, and with KEEP_SIZE it does nothing.
    """
    mount = spooled
    mount.put("f", DATA)
    fh = mount.open("f", os.O_RDWR)
    with mount.requests():
        mount.fallocate(fh, KEEP, 0, 1000)
        mount.fallocate(fh, 0, 10, 20)
        mount.flush(fh)
    assert mount.stat("f").size == len(DATA)
    mount.fallocate(fh, 0, 10, 70)
    assert mount.stat("f").size == 80
    mount.close_file(fh)
    assert mount.data("f") == DATA + bytes(16)


@pytest.mark.parametrize("mode", [HOLE, ZERO, ZERO | KEEP])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_range_is_zeros_and_the_size_changes_only_without_keep_size(spooled, mode, is_new):
    mount = spooled
    if is_new:
        fh = mount.create("f", os.O_RDWR)
        mount.write(fh, DATA)
    else:
        mount.put("f", DATA)
        fh = mount.open("f", os.O_RDWR)
    mount.fallocate(fh, mode, 10, 20)
    mount.fallocate(fh, mode, 60, 20)
    expected = DATA[:10] + bytes(20) + DATA[30:60] + bytes(4 if mode & KEEP else 20)
    assert mount.read(fh) == expected
    mount.fallocate(fh, HOLE, 1000, 10)
    mount.close_file(fh)
    assert mount.data("f") == expected
    assert mount.spooled() == []


def test_a_range_behind_the_end_without_growth_is_no_change(spooled):
    mount = spooled
    mount.put("f", DATA)
    fh = mount.open("f", os.O_RDWR)
    with mount.requests():
        mount.fallocate(fh, HOLE, len(DATA), 10)
        mount.fallocate(fh, ZERO | KEEP, 1000, 10)
        mount.flush(fh)
    mount.close_file(fh)


def test_the_errors_are_those_of_a_local_disk(spooled):
    mount = spooled
    mount.put("f", DATA)
    reader, fh = mount.open("f"), mount.open("f", os.O_RDWR)
    with pytest.raises(NotWritableError) as not_open:
        mount.fallocate(reader, 0, 0, 10)
    assert not_open.value.errno == errno.EBADF
    for offset, length in [(-1, 10), (0, 0), (0, -1)]:
        with pytest.raises(InvalidRangeError) as invalid:
            mount.fallocate(fh, 0, offset, length)
        assert invalid.value.errno == errno.EINVAL
    for mode in (0, KEEP, HOLE):
        with pytest.raises(FileTooLargeError) as too_large:
            mount.fallocate(fh, mode, (1 << 63) - 10, 11)
        assert too_large.value.errno == errno.EFBIG
    collapse, insert, unshare = 0x8, 0x20, 0x40
    for mode in (collapse, insert, unshare, PUNCH, HOLE | ZERO):
        with pytest.raises(UnsupportedError) as unsupported:
            mount.fallocate(fh, mode, 0, 4096)
        assert unsupported.value.errno == errno.EOPNOTSUPP
    assert mount.read(fh) == DATA
    for handle in (reader, fh):
        mount.close_file(handle)
    assert mount.data("f") == DATA


def test_a_hole_of_a_tebibyte_costs_nothing(mounts, tmp_path):
    """Promise: Holes made by fallocate (PUNCH_HOLE, ZERO_RANGE) cost neither memory nor spool, and
    give back what the spool had of them; they are sent as zeros when the file is stored.
    """
    state = tmp_path / "state"
    mount = mounts(write_part_bytes=128 * MIB, state_dir=state, spool_bytes=8 * MIB)
    fh = mount.create("f", os.O_RDWR)
    mount.write(fh, b"begin")
    memory = mount.fs._context.memory
    mount.fallocate(fh, 0, 0, TIB)
    before, spool = memory.held_bytes, mount.spool.used_bytes
    mount.fallocate(fh, HOLE, 4096, TIB)
    mount.fallocate(fh, ZERO, 1 << 30, TIB)
    assert mount.stat("f").size == TIB + (1 << 30)
    assert mount.fs.files.lseek(fh, 0, os.SEEK_HOLE) <= 4096
    assert mount.read(fh, 1 << 39, 5) == bytes(5)
    assert (memory.held_bytes, mount.spool.used_bytes) == (before, spool)
    mount.truncate("f", 0)
    mount.close_file(fh)


def test_more_zeros_than_can_be_sent_are_refused_at_once(mounts, tmp_path):
    mount = mounts(write_part_bytes=MIB, state_dir=tmp_path / "state")
    fh = mount.create("f", os.O_RDWR)
    mount.write(fh, DATA)
    for mode in (0, ZERO):
        with pytest.raises(FileTooLargeError, match="sent as zeros"):
            mount.fallocate(fh, mode, 0, TIB)
    assert mount.read(fh) == DATA
    mount.close_file(fh)


def test_spool_blocks_of_a_hole_are_given_back(mounts, tmp_path):
    """Also those that small holes next to one another empty together; all of it can be used."""
    state = tmp_path / "state"
    mount = mounts(write_part_bytes=MIB, state_dir=state, spool_bytes=100 * MIB)
    mount.put("f", bytes(64 * MIB))
    fh = mount.open("f", os.O_RDWR)
    for at in range(0, 64 * MIB, MIB):
        mount.write(fh, b"x" * MIB, at)
    assert disk_use(state) > 63 * MIB
    mount.fallocate(fh, HOLE, 100, 40 * MIB)
    os.sync()
    assert abs(mount.spool.used_bytes - disk_use(state)) <= SLACK
    assert disk_use(state) < 25 * MIB
    for at in range(48 * MIB, 49 * MIB, 1000):
        mount.fallocate(fh, HOLE, at, 1000)
    os.sync()
    assert abs(mount.spool.used_bytes - disk_use(state)) <= SLACK
    assert disk_use(state) < 24 * MIB
    expected = bytearray(b"x" * 64 * MIB)
    expected[100 : 100 + 40 * MIB] = bytes(40 * MIB)
    hole = len(range(48 * MIB, 49 * MIB, 1000)) * 1000
    expected[48 * MIB : 48 * MIB + hole] = bytes(hole)
    mount.write(fh, b"again", 20 * MIB)
    expected[20 * MIB : 20 * MIB + 5] = b"again"
    for at in range(0, 64 * MIB, MIB):
        assert mount.read(fh, at, MIB) == expected[at : at + MIB]
    mount.unlink("f")  # the store in memory would take 0.2 s for its digest
    mount.release(fh)
    assert mount.spool.used_bytes == 0


def test_the_count_is_what_the_disk_says_after_any_order_of_writes_and_holes(tmp_path):
    rng = random.Random(3)
    state = tmp_path / "state"
    spool, extents = spool_of(state, blocks=100_000), Extents()
    file = spool.create("f")
    for _ in range(1500):
        at = rng.randrange(2000) * 1000
        if rng.random() < 0.3 and at < extents.size:
            punch(file, extents, at, min(extents.size, at + rng.choice((10, 5000, 300_000))))
        else:
            put(file, extents, at, b"x" * rng.choice((1, 100, BLOCK, 3 * BLOCK + 1)))
        assert spool.used_bytes == BLOCK + spool.disk.space.freed_bytes(extents, 0)
    os.sync()
    assert abs(spool.used_bytes - disk_use(state)) <= SLACK
    file.close(keep=False)
    assert spool.used_bytes == 0


def punch(file, extents, start, end):
    """As `StagedFile` does."""
    freed = file.punched_bytes(start, end, extents)
    extents.put(start, end, Origin.ZERO)
    assert asyncio.run(file.punch(start, end, extents))
    file.freed(freed)


def test_a_disk_that_takes_no_blocks_back_is_counted_until_the_file_is_closed(
    mounts, tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, "no holes here")

    monkeypatch.setattr("csi_s3.fs.write.spool.punch_hole", refuse)
    mount = mounts(write_part_bytes=MIB, state_dir=tmp_path / "state", spool_bytes=20 * MIB)
    mount.put("f", bytes(16 * MIB))
    fh = mount.open("f", os.O_RDWR)
    for at in range(0, 8 * MIB, MIB):
        mount.write(fh, b"x" * MIB, at)
    used = mount.spool.used_bytes
    mount.fallocate(fh, HOLE, 0, 4 * MIB)
    assert mount.spool.used_bytes == used
    mount.close_file(fh)
    assert mount.data("f") == bytes(4 * MIB) + b"x" * 4 * MIB + bytes(8 * MIB)
    assert mount.spool.used_bytes == 0


def test_a_hole_over_a_hundred_thousand_places_lets_others_run(mounts, tmp_path):
    """No step of it is long: the suite's watch over slow steps would fail the test."""
    mount = mounts(
        write_part_bytes=MIB,
        min_part_bytes=MIB,
        state_dir=tmp_path / "state",
        memory_bytes=64 * MIB,
    )
    n, step = 99_000 // 2, 64
    mount.put("f", b"-" * (n * step))
    fh = mount.open("f", os.O_RDWR)

    async def write_everywhere():
        for i in range(n):
            await mount.fs.files.write(fh, i * step, b"x")
            if i % 200 == 0:
                await asyncio.sleep(0)

    mount.run(write_everywhere())
    writer = next(iter(mount.fs._write_back._writers.values())).writer
    assert len(writer._staged.extents) > 90_000
    turns = 0

    async def count_turns(task):
        nonlocal turns
        while not task.done():
            turns += 1
            await asyncio.sleep(0)

    async def both():
        task = asyncio.get_running_loop().create_task(
            mount.fs.files.fallocate(fh, HOLE, 1, n * step)
        )
        await count_turns(task)
        await task

    mount.run(both())
    assert turns > 90, "a turn for others after each thousand"
    assert len(writer._staged.extents) == 2
    assert mount.spool.used_bytes <= 3 * BLOCK
    mount.close_file(fh)
    assert mount.data("f") == b"x" + bytes(n * step - 1)


@pytest.mark.warnings_expected(r"is kept in .* for the next worker")
def test_a_hole_of_a_file_that_could_not_be_stored_is_kept_for_the_next_worker(mounts, tmp_path):
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")
    mount.put("f", DATA)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!", 40)
    mount.fallocate(fh, HOLE, 8, 40)
    fail(mount.store, "CREATE_UPLOAD", StoreUnavailableError("S3 is down"), times=100)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    mount.store_works()
    after = mount.restarted()
    after.recover()
    assert after.data("f") == DATA[:8] + bytes(40) + DATA[48:]


def test_parts_that_were_sent_are_sent_again_where_a_hole_was_made(spooled):
    mount = spooled
    fh = mount.create("f", os.O_RDWR)
    mount.write(fh, DATA)
    assert mount.store.requests["UPLOAD_PART"] > 0
    mount.fallocate(fh, HOLE, 4, 8)
    mount.close_file(fh)
    assert mount.data("f") == DATA[:4] + bytes(8) + DATA[12:]


def test_a_flush_stores_what_fallocate_has_changed(spooled):
    mount = spooled
    fh = mount.create("f", os.O_RDWR)
    mount.fallocate(fh, 0, 0, 3)
    mount.flush(fh)
    assert mount.data("f") == bytes(3)
    mount.fallocate(fh, ZERO, 2, 2)
    mount.flush(fh)
    assert mount.data("f") == bytes(4)
    mount.release(fh)


def test_the_time_of_the_file_is_that_of_the_call(spooled):
    mount = spooled
    mount.put("f", DATA)
    fh = mount.open("f", os.O_RDWR)
    mount.time.now_s += 1000
    mount.fallocate(fh, HOLE, 0, 1)
    assert mount.stat("f").mtime_ns == mount.time.now_s * 1_000_000_000
    mount.close_file(fh)


def seek(mount, fh, offset, whence):
    try:
        return mount.fs.files.lseek(fh, offset, whence)
    except NoDataError:
        return None


def test_seek_finds_data_and_holes(spooled):
    """Promise: SEEK_DATA and SEEK_HOLE find the holes of a file that is being changed; what is in
    S3 is data, and behind the end there is nothing (ENXIO).
    """
    mount = spooled
    mount.put("f", DATA)
    reader = mount.open("f")
    assert seek(mount, reader, 10, os.SEEK_DATA) == 10
    assert seek(mount, reader, 10, os.SEEK_HOLE) == len(DATA)
    assert seek(mount, reader, len(DATA), os.SEEK_DATA) is None
    assert seek(mount, reader, len(DATA), os.SEEK_HOLE) is None
    mount.release(reader)
    fh = mount.open("f", os.O_RDWR)
    mount.fallocate(fh, HOLE, 10, 20)
    mount.write(fh, b"!", 20)
    mount.truncate("f", 100)
    found = {at: (seek(mount, fh, at, os.SEEK_DATA), seek(mount, fh, at, os.SEEK_HOLE))
             for at in (0, 9, 10, 15, 20, 21, 30, 63, 64, 99, 100, 101)}  # fmt: skip
    assert found == {
        0: (0, 10), 9: (9, 10), 10: (20, 10), 15: (20, 15), 20: (20, 21), 21: (30, 21),
        30: (30, 64), 63: (63, 64), 64: (None, 64), 99: (None, 99), 100: (None, None),
        101: (None, None),
    }  # fmt: skip
    assert seek(mount, fh, -1, os.SEEK_DATA) is None
    assert NoDataError.errno == errno.ENXIO
    with pytest.raises(InvalidRangeError):
        mount.fs.files.lseek(fh, 0, os.SEEK_SET)
    mount.close_file(fh)


def test_sync_of_all_stores_all_and_reports_the_first_error(spooled):
    """As fsync of each; one that fails stops no other."""
    mount = spooled
    handles = {name: mount.create(name, os.O_RDWR) for name in ("a", "b", "c")}
    for name, fh in handles.items():
        mount.write(fh, name.encode())
    mount.put("gone", DATA)
    gone = mount.open("gone", os.O_RDWR)
    mount.write(gone, b"!")
    mount.delete("gone")
    with pytest.raises(StaleError):
        mount.run(mount.fs.syncfs())
    assert [mount.data(name) for name in handles] == [b"a", b"b", b"c"]
    with mount.requests():
        for fh in handles.values():
            mount.close_file(fh)
    with pytest.raises(StaleError):
        mount.release(gone)
    with mount.requests():
        mount.run(mount.fs.syncfs())
    assert Counter(mount.ls()) == Counter("abc")
