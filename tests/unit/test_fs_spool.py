"""The spool: bytes that S3 does not have yet, on disk, under a limit, for the next worker."""

import errno
import json
import os

import pytest

from csi_s3.errors import (
    SpoolFullError,
)
from csi_s3.fs.write.extents import Extents
from csi_s3.fs.write.spool_description import Description
from csi_s3.s3.store import ObjectInfo
from tests.unit.fs_mount import mount, mounts
from tests.unit.spool_case import (
    BLOCK,
    LARGE,
    cut,
    files,
    leftovers,
    put,
    spool_of,
    spooled,
    state,
)

__all__ = ["mount", "mounts", "spooled", "state"]


# by itself


def test_its_blocks_are_counted_and_given_back(state):
    spool, extents = spool_of(state, blocks=3), Extents()
    file = spool.create("f")
    assert spool.used_bytes == BLOCK, "the description's"
    put(file, extents, 0, b"0123456789")
    put(file, extents, 3, b"abc")
    assert spool.used_bytes == 2 * BLOCK
    put(file, extents, BLOCK - 1, b"x")
    put(file, extents, BLOCK, b"x")
    assert spool.used_bytes == 3 * BLOCK
    with pytest.raises(SpoolFullError, match="12288 bytes are in use: 12288"):
        put(file, extents, 2 * BLOCK, b"x")
    put(file, extents, 5, b"y" * (2 * BLOCK - 5))
    assert file.read(0, 10) == b"012abyyyyy"
    cut(file, extents, 4)
    assert spool.used_bytes == 2 * BLOCK
    put(file, extents, 4, b"xyz")
    assert file.read(2, 5) == b"2axyz"
    file.close(keep=False)
    assert spool.used_bytes == 0
    assert files(state) == []


def test_a_full_disk_is_no_room_and_counts_nothing(state, monkeypatch):
    spool = spool_of(state)
    file = spool.create("f")
    full = os.open("/dev/full", os.O_RDWR)
    monkeypatch.setattr(spool.disk.descriptors, "get", lambda _number: full)
    with pytest.raises(SpoolFullError, match="No space left on device"):
        file.write(0, b"x", Extents())
    assert spool.used_bytes == BLOCK
    os.close(full)
    file.close(keep=False)


def test_without_a_directory_every_demand_is_refused():
    with pytest.raises(SpoolFullError):
        spool_of(None).create("f")
    assert leftovers(spool_of(None)) == []


def test_a_directory_that_cannot_be_made_is_no_room(tmp_path):
    (tmp_path / "file").write_text("")
    spool = spool_of(tmp_path / "file" / "state")
    with pytest.raises(SpoolFullError) as caught:
        spool.create("f")
    assert caught.value.errno == errno.ENOSPC
    assert spool.used_bytes == 0


def test_files_of_other_workers_are_not_written_over(state):
    first, second = spool_of(state), spool_of(state)
    one, two = first.create("f"), second.create("g")
    assert one.path != two.path
    one.close(keep=False)
    two.close(keep=False)


def test_a_free_number_is_found_in_few_steps_among_many(state, monkeypatch):
    state.mkdir()
    for number in range(1, 2001):
        (state / f"file-{number}.data").write_text("")
    tries, really = 0, os.open

    def counting(path, *rest):
        nonlocal tries
        tries += str(path).endswith(".data")
        return really(path, *rest)

    monkeypatch.setattr(os, "open", counting)
    spool = spool_of(state, blocks=1000)
    made = [spool.create("f") for _ in range(100)]
    assert tries <= 100 + 12
    for file in made:
        file.close(keep=False)


def test_what_is_kept_is_found_and_counted_by_the_next(state):
    earlier, extents = spool_of(state), Extents()
    file = earlier.create("f")
    put(file, extents, 0, b"0123456789")
    base = ObjectInfo(key="f", size=4, etag='"e"', last_modified=0.0)
    description = Description.whole("f", base, extents)
    file.describe(description)
    file.close(keep=True)
    assert earlier.used_bytes == 2 * BLOCK
    spool = spool_of(state)
    (number,) = leftovers(spool)
    assert spool.used_bytes == 2 * BLOCK
    taken, found = spool.take_over(number)
    assert found == description
    assert spool.used_bytes == 2 * BLOCK
    assert leftovers(spool) == []
    taken.close(keep=False)
    assert spool.used_bytes == 0
    assert files(state) == []


@pytest.mark.warnings_expected("file-9.json cannot be read and is left alone")
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 1, "extents": 2}', "\xff"])
def test_a_description_that_cannot_be_read_is_left_alone_and_counts(state, text):
    state.mkdir()
    (state / "file-9.json").write_text(text)
    (state / "file-9.data").write_text("bytes")
    spool = spool_of(state)
    assert leftovers(spool) == []
    assert files(state) == ["file-9.data", "file-9.json"]
    assert spool.used_bytes == (2 if text else 1) * BLOCK


def test_what_holds_nothing_is_removed(state):
    state.mkdir()
    (state / "file-1.json").write_text(json.dumps({"key": "f"}))
    (state / "file-2.data").write_bytes(b"")
    (state / "file-3.data").write_bytes(b"")
    (state / "file-3.json").write_bytes(b"")  # its worker died while it made them
    assert leftovers(spool_of(state)) == []
    assert files(state) == []


# as the mount uses it


def test_the_limit_is_kept_and_what_was_accepted_stays(mounts, state):
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=state, spool_bytes=4 * BLOCK)
    old = bytes(range(256)) * 80  # five blocks
    mount.put("f", old)
    fh = mount.open("f", os.O_RDWR)
    expected = bytearray(old)
    for at in (0, BLOCK, 2 * BLOCK):
        mount.write(fh, b"!" * 9, at)
        expected[at : at + 9] = b"!" * 9
    assert mount.spool.used_bytes == 4 * BLOCK
    with pytest.raises(SpoolFullError) as caught:
        mount.write(fh, b"!" * 9, 3 * BLOCK)
    assert caught.value.errno == errno.ENOSPC
    assert mount.read(fh) == expected
    mount.close_file(fh)
    assert mount.data("f") == expected
    assert mount.spool.used_bytes == 0
    assert files(state) == []


def test_a_stream_needs_no_room_in_the_spool(mounts, state):
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=state, spool_bytes=8)
    mount.write_file("f", LARGE)
    assert mount.data("f") == LARGE
    assert files(state) == []


def test_a_file_that_is_stored_or_dropped_leaves_nothing(spooled, state):
    mount = spooled
    for end in (mount.fsync, lambda fh: mount.unlink("f"), lambda fh: mount.truncate("f", 0)):
        mount.put("f", LARGE)
        fh = mount.open("f", os.O_RDWR)
        mount.write(fh, b"!" * 20, 7)
        assert len(files(state)) == 2
        end(fh)
        assert [name for name in files(state) if name.endswith(".json")] == []
        mount.close_file(fh)
        assert files(state) == []


def test_the_next_worker_removes_what_an_unlinked_file_had_on_disk(spooled, state):
    """Its name lets it be closed and opened again while it is in use."""
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    mount.unlink("f")
    mount.write(fh, b"!" * 100, 3)
    assert files(state) == ["file-1.data"]
    assert mount.read(fh) == LARGE[:3] + b"!" * 100
    mount.recover()
    assert mount.read(fh) == LARGE[:3] + b"!" * 100
    mount = mount.succeeded()
    assert len(mount.spooled()) == 1
    mount.recover()
    assert mount.spooled() == []
    assert mount.store.objects == {}


def test_an_unlinked_file_leaves_nothing_when_it_is_closed(spooled, state):
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    mount.unlink("f")
    mount.write(fh, b"!" * 100, 3)
    mount.release(fh)
    assert files(state) == []
    assert mount.spool.used_bytes == 0
    assert mount.store.objects == {}
