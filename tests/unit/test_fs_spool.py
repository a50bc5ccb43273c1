"""The spool: bytes that S3 does not have yet, on disk, under a limit, for the next worker."""

import errno
import json
import os

import pytest

from csi_s3.errors import (
    CredentialsError,
    QuotaExceededError,
    SpoolFullError,
    StoreFullError,
    StoreUnavailableError,
)
from csi_s3.fs.write.extents import Extents
from csi_s3.fs.write.spool_description import Description
from csi_s3.s3.store import ObjectInfo
from tests.unit.fs_mount import REWRITE, fail, mount, mounts
from tests.unit.spool_case import BLOCK, leftovers, put, spool_of

__all__ = ["mount", "mounts"]

DOWN = StoreUnavailableError("S3 is down")
LARGE = bytes(range(64))


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def spooled(mounts, state):
    return mounts(write_part_bytes=8, min_part_bytes=4, state_dir=state)


def files(state):
    return sorted(p.name for p in state.iterdir()) if state.exists() else []


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
    file.cut(4, extents)
    extents.truncate(4)
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


KEPT = pytest.mark.warnings_expected(
    "f could not be uploaded and is kept in .*file-1.data for the next worker"
)


@KEPT
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"small", "PUT"),
        (LARGE, "CREATE_UPLOAD"),
        (LARGE, "UPLOAD_PART"),
        (LARGE, "COMPLETE_UPLOAD"),
    ],
)
@pytest.mark.parametrize(
    "error",
    [DOWN, CredentialsError("expired"), StoreFullError("507"), QuotaExceededError("403")],
    ids=lambda e: e.code,
)
def test_what_could_not_be_uploaded_is_uploaded_by_the_next_worker(
    spooled, state, data, kind, error
):
    """Promise: A file that could not be uploaded when its last handle was closed or the mount
    ended, because the store did not respond or was full or credentials were missing, stays in the
    spool: the mount's next worker uploads it if S3 still has the version that it changes; otherwise
    the log names object and path.
    """
    mount = spooled
    fh = mount.create("f")
    fail(mount.store, kind, error, times=99)
    mount.write(fh, data)
    with pytest.raises(type(error)):
        mount.close_file(fh)
    assert not mount.exists("f")
    assert files(state) == ["file-1.data", "file-1.json"]
    mount = mount.restarted()
    mount.store_works()
    mount.recover()
    assert mount.data("f") == data
    assert mount.cat("f") == data
    assert files(state) == []
    assert mount.spool.used_bytes == 0


@KEPT
@pytest.mark.parametrize(
    ("error", "number"),
    [(StoreFullError("507"), errno.ENOSPC), (QuotaExceededError("403"), errno.EDQUOT)],
)
def test_a_store_without_room_is_told_at_once_and_may_be_asked_again(spooled, state, error, number):
    """Promise: ENOSPC: the spool, its disk, or the store is full.

    Promise: EDQUOT: a quota of the store is used up.
    """
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!" * 30, 7)
    expected = LARGE[:7] + b"!" * 30 + LARGE[37:]
    for kind in ("CREATE_UPLOAD", "UPLOAD_PART", "COMPLETE_UPLOAD"):
        fail(mount.store, kind, error, times=99)
        for call in (mount.flush, mount.fsync):
            with pytest.raises(type(error)) as caught:
                call(fh)
            assert caught.value.errno == number
        assert mount.read(fh) == expected
        assert mount.data("f") == LARGE
    mount.store_works()
    mount.close_file(fh)
    assert mount.data("f") == expected
    assert mount.store.uploads == {}
    assert files(state) == []


@KEPT
@pytest.mark.parametrize("old", [b"0123", LARGE])
@pytest.mark.parametrize("change", [(0, b"!"), (2, b"!" * 30), (100, b"!"), (4, b"grown")])
def test_an_edit_that_could_not_be_uploaded_is_made_by_the_next_worker(spooled, state, old, change):
    mount = spooled
    mount.put("f", old)
    fh = mount.open("f", os.O_RDWR)
    offset, data = change
    mount.write(fh, data, offset)
    expected = mount.read(fh)
    fail(mount.store, "PUT" if len(expected) <= 8 else "COMPLETE_UPLOAD", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    assert mount.data("f") == old
    mount = mount.restarted()
    mount.store_works()
    mount.recover()
    assert mount.data("f") == expected
    assert files(state) == []


@KEPT
@pytest.mark.warnings_expected(
    "f: what an earlier worker could not upload failed again.*file-1",
    "f was being changed .*, or was changed in S3 since; it was not uploaded, .*file-1.data",
)
@pytest.mark.parametrize("theirs", [b"theirs", None])
def test_what_somebody_replaced_since_is_not_written_over(spooled, state, theirs):
    mount = spooled
    mount.put("f", b"old")
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"new")
    fail(mount.store, "PUT", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    mount = mount.restarted()
    mount.store_works()
    if theirs is None:
        mount.delete("f")
    else:
        mount.put("f", theirs)
    mount.recover()
    mount = mount.restarted()
    with mount.requests():  # it is not tried again
        mount.recover()
    assert mount.data("f") == theirs
    assert files(state) == ["file-1.data", "file-1.json"]
    assert (state / "file-1.data").read_bytes() == b"new"
    mount.write_file("other", LARGE)


@pytest.mark.warnings_expected("f could not be uploaded and is kept in .* for the next worker")
def test_the_mounts_end_keeps_what_is_not_stored_and_nothing_else(spooled, state):
    mount = spooled
    mount.put("stored", LARGE)
    for path in ("stored", "f", "gone"):
        fh = mount.open(path, os.O_RDWR) if path == "stored" else mount.create(path)
        mount.write(fh, LARGE, 3)
        mount.settle()
        if path == "stored":
            mount.fsync(fh)
    mount.unlink("gone")
    mount = mount.restarted()
    assert len(files(state)) == 2
    mount.recover()
    assert mount.data("f") == bytes(3) + LARGE
    assert mount.data("gone") is None
    assert files(state) == []


@KEPT
@pytest.mark.warnings_expected("f was being changed when the process that served it ended.*file-")
def test_what_was_being_changed_when_its_worker_died_is_named_not_uploaded(spooled):
    """Promise: A file that was being changed when its worker died is not uploaded: the log names
    object and path of what is in the spool.
    """
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!" * 20, 7)
    mount = mount.succeeded()
    mount.recover()
    assert mount.data("f") == LARGE
    assert len(mount.spooled()) == 2
    assert b"!" * 20 in next(mount.state_dir.glob("*.data")).read_bytes()


@pytest.mark.warnings_expected(".* is kept in .*for the next worker", "f was being changed when")
def test_a_drained_file_that_is_changed_again_is_not_whole_any_more(spooled):
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!" * 20, 7)
    fail(mount.store, "COMPLETE_UPLOAD", DOWN)
    assert [failure.what for failure in mount.run(mount.fs.drain())] == [DOWN.what]
    mount.write(fh, b"?" * 9, 3)
    mount = mount.succeeded()
    mount.recover()
    assert mount.data("f") == LARGE


@pytest.mark.warnings_expected("f could not be uploaded and is kept in .*for the next worker")
def test_a_drained_file_can_be_used_and_stored_as_before(spooled, state):
    mount = spooled
    fh = mount.create("f", os.O_RDWR)
    mount.write(fh, b"small")
    fail(mount.store, "PUT", DOWN)
    assert [failure.what for failure in mount.run(mount.fs.drain())] == [DOWN.what]
    assert mount.read(fh) == b"small"
    mount.write(fh, b"er", 5)
    mount.close_file(fh)
    assert mount.data("f") == b"smaller"
    assert files(state) == []


@pytest.mark.warnings_expected("f: lost: ", "file-1.data|spool")
def test_what_finds_no_room_in_the_spool_is_said_to_be_lost(mounts, state):
    mount = mounts(state_dir=state, spool_bytes=2)
    fh = mount.create("f")
    mount.write(fh, b"0123")
    fail(mount.store, "PUT", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    assert mount.store.objects == {}


@KEPT
@pytest.mark.warnings_expected("file-1 cannot be opened and is left alone")
def test_a_leftover_that_cannot_be_opened_stops_nothing(spooled, state, monkeypatch):
    mount = spooled
    fh = mount.create("f")
    mount.write(fh, b"data")
    fail(mount.store, "PUT", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    mount = mount.restarted()
    (state / "file-1.data").unlink()
    (state / "file-1.data").mkdir()
    mount.recover()
    mount.store_works()
    mount.write_file("g", b"fine")
    assert mount.data("g") == b"fine"


@KEPT
@pytest.mark.warnings_expected("f: what an earlier worker could not upload failed again.*file-1")
@pytest.mark.parametrize("theirs", [b"theirs", None])
def test_a_rewrite_that_could_not_be_uploaded_replaces_what_was_there_then(spooled, state, theirs):
    mount = spooled
    mount.put("f", b"old")
    fh = mount.open("f", REWRITE)
    mount.write(fh, b"new")
    fail(mount.store, "PUT", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    mount = mount.restarted()
    mount.store_works()
    if theirs is not None:
        mount.put("f", theirs)
    mount.recover()
    assert mount.data("f") == (theirs or b"new")
    assert len(files(state)) == (2 if theirs else 0)
