"""What an ended worker left in the spool: what becomes of it when objects have changed since."""

import json
import logging
import os
from pathlib import Path

import pytest

from csi_s3.errors import SpoolFullError, StoreUnavailableError
from csi_s3.fs.write.spool_description import Description
from csi_s3.s3.memory_store import MemoryStore
from tests.unit.fs_mount import REWRITE, Held, fail, mount, mounts
from tests.unit.spool_case import DOWN, LARGE, files, leftovers, spool_of, spooled, state

__all__ = ["mount", "mounts", "spooled", "state"]

KEPT = pytest.mark.warnings_expected("could not be uploaded and is kept in .* for the next worker")


def fail_to_write(mount, path, data, *, times=9):
    """A file that is created or rewritten, and whose store fails until it is closed."""
    fh = mount.open(path, REWRITE) if mount.exists(path) else mount.create(path)
    mount.write(fh, data)
    fail(mount.store, "PUT" if len(data) <= 8 else "COMPLETE_UPLOAD", DOWN, times=times)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    mount.store_works()


# what was stored after all


@KEPT
@pytest.mark.parametrize("old", [None, b"old", LARGE], ids=["", "3", "64"])
@pytest.mark.parametrize("data", [b"new", LARGE + b"new"], ids=["3", "67"])
def test_what_was_stored_though_nobody_heard_of_it_is_no_leftover(spooled, state, old, data):
    """The answer was lost, or the worker ended before it came."""
    mount = spooled
    if old is not None:
        mount.put("f", old)
    fh = mount.create("f") if old is None else mount.open("f", REWRITE)
    mount.write(fh, data)
    kind = "PUT" if len(data) <= 8 else "COMPLETE_UPLOAD"
    held = Held(mount.store, kind, after=True)
    mount.start(mount.fs.files.flush(fh))
    mount.settle()
    assert held.waiting == 1
    assert mount.data("f") == data
    mount = mount.restarted()
    mount.store_works()
    assert files(state) == ["file-1.data", "file-1.json"]
    with mount.requests(HEAD=2, GET=1):
        mount.recover()
    assert mount.data("f") == data
    assert files(state) == []
    assert mount.spool.used_bytes == 0


@KEPT
@pytest.mark.warnings_expected("failed again: .*(concurrent modification|another client)")
@pytest.mark.parametrize("theirs", [b"their", b"n3w"])
def test_a_store_that_knows_no_conditions_is_asked_before_anything_is_written_over(
    spooled, state, theirs
):
    mount = spooled
    fail_to_write(mount, "f", b"new")
    mount.put("f", theirs)
    put = MemoryStore.put

    async def ignoring(key, data, **rest):
        rest.pop("if_none_match", None)
        rest.pop("if_match", None)
        return await put(mount.store, key, data, **rest)

    mount.store.put = ignoring
    mount = mount.restarted()
    mount.recover()
    assert mount.data("f") == theirs
    assert files(state) == ["file-1.data", "file-1.json"]


# several of one name


@KEPT
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("between", [0, 9])
def test_the_last_of_two_tries_is_uploaded(spooled, state, old, between):
    """Numbers say nothing of the order, neither as text nor as numbers.

    Promise: Of several such files of one name the newest is uploaded; if the name has been written
    again since, none is. Those that a version without earlier bytes replaces are removed once it is
    in S3, and others are kept like files that were being changed.
    """
    mount = spooled
    if old is not None:
        mount.put("f", old)
    mount.spool.disk._next += between
    fail_to_write(mount, "f", b"first")
    os.utime(next(state.glob("*.json")), ns=(1, 1))
    mount.spool.disk._next = 1
    fail_to_write(mount, "f", b"second")
    mount = mount.restarted()
    mount.recover()
    assert mount.data("f") == b"second"
    left = [p.read_bytes() for p in state.glob("*.data")]
    assert left == ([] if old is None else [b"first"])


@KEPT
def test_what_was_written_again_since_is_removed_once_the_new_version_is_in_s3(spooled, state):
    mount = spooled
    fail_to_write(mount, "f", b"first")
    fh = mount.create("f")
    mount.write(fh, b"second")
    assert len(files(state)) == 2
    mount.close_file(fh)
    assert files(state) == []
    assert mount.spool.used_bytes == 0
    mount.unlink("f")
    mount = mount.restarted()
    mount.recover()
    assert mount.store.objects == {}, "it does not come back"


@KEPT
@pytest.mark.warnings_expected("f was being changed .*not uploaded, .*file-1.data")
def test_what_a_later_edit_does_not_have_is_kept_for_a_person(spooled, state):
    """The program that wrote the first bytes may want them; nothing uploads them any more."""
    mount = spooled
    mount.put("f", b"old")
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"first", 3)
    fail(mount.store, "PUT", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    mount.store_works()
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"second", 3)
    mount.close_file(fh)
    mount.unlink("f")
    mount = mount.restarted()
    mount.recover()
    assert mount.store.objects == {}
    assert (state / "file-1.data").read_bytes() == b"oldfirst"


@KEPT
def test_an_empty_file_that_was_stored_after_all_leaves_nothing(spooled, state):
    mount = spooled
    fh = mount.create("f")
    fail(mount.store, "PUT", DOWN)
    (failure,) = mount.run(mount.fs.drain())
    assert (type(failure), failure.what) == (type(DOWN), DOWN.what)
    assert DOWN.hint == "", "the store's own error is as it was"
    assert len(files(state)) == 2
    mount.close_file(fh)
    assert mount.data("f") == b""
    assert files(state) == []


# what is said of it


@pytest.mark.warnings_expected("could not be uploaded and is kept in", "f could not be uploaded")
def test_what_is_kept_at_the_mounts_end_is_said_once(spooled, caplog):
    mount = spooled
    fh = mount.create("f")
    mount.write(fh, b"data")
    fail(mount.store, "PUT", DOWN, times=9)
    with caplog.at_level(logging.ERROR):
        (failure,) = mount.run(mount.fs.drain())
        mount.end()
    assert "file-1.data" in failure.hint
    assert len([r for r in caplog.records if "is kept in" in r.getMessage()]) == 1


@pytest.mark.warnings_expected("f: lost: ")
def test_what_left_in_parts_and_is_nowhere_else_is_not_said_to_be_kept(mounts, state):
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=state, spool_bytes=10)
    fh = mount.create("f")
    mount.write(fh, LARGE[:58])
    mount.settle()
    mount.end()
    assert files(state) == []


# the directory


@KEPT
@pytest.mark.warnings_expected("f was being changed when")
def test_what_a_killed_worker_left_counts(spooled):
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!" * 50, 7)
    mount = mount.succeeded()
    mount.recover()
    assert mount.spool.used_bytes >= 50


@pytest.mark.warnings_expected("file-9.json cannot be read and is left alone")
@pytest.mark.parametrize("extents", [[[0, 4, "cloud"]], [[3, 4, "spool"]], [[0, 4]]])
def test_a_description_of_another_version_of_this_driver_is_left_alone(mounts, state, extents):
    state.mkdir()
    text = json.dumps({"key": "f", "is_whole": True, "extents": extents})
    (state / "file-9.json").write_text(text)
    (state / "file-9.data").write_text("data")
    mount = mounts(state_dir=state)
    mount.recover()
    assert mount.store.objects == {}
    assert files(state) == ["file-9.data", "file-9.json"]


def test_a_description_that_was_being_written_when_its_worker_died_is_removed(state):
    state.mkdir()
    (state / "file-1.new").write_text("{")
    assert leftovers(spool_of(state)) == []
    assert files(state) == []


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_disk_that_takes_no_description_is_no_room_and_leaves_nothing(state, monkeypatch):
    spool = spool_of(state)
    before = open_descriptors()

    def full(*_args, **_rest):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for _ in range(3):
            with pytest.raises(SpoolFullError, match="No space left"):
                spool.create("f")
    assert files(state) == []
    assert spool.used_bytes == 0
    assert open_descriptors() == before
    file = spool.create("f")
    assert leftovers(spool) == []
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SpoolFullError):
        file.describe(Description(key="f", is_whole=True))
    assert files(state) == [file.path.name, file.path.with_suffix(".json").name]
    assert not json.loads(file.path.with_suffix(".json").read_text())["is_whole"]
    file.close(keep=False)


def test_a_change_that_met_a_full_disk_halfway_is_the_same_in_s3_and_here(spooled, monkeypatch):
    """Some of its bytes may have replaced others before the disk was full."""
    mount = spooled
    fh = mount.create("f", os.O_RDWR | os.O_CREAT)
    mount.write(fh, LARGE)
    mount.settle()
    pwrite, room = os.pwrite, 5

    def filling(fd, data, offset):
        nonlocal room
        if not room:
            raise OSError(28, "No space left on device")
        n = pwrite(fd, data[:room], offset)
        room -= n
        return n

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", filling)
        with pytest.raises(SpoolFullError):
            mount.write(fh, b"!" * 20, 10)
    now = mount.read(fh)
    assert now == LARGE[:10] + b"!" * 5 + LARGE[15:]
    assert mount.spool.used_bytes == 2 * 4096
    mount.close_file(fh)
    assert mount.data("f") == now


# its end


@KEPT
def test_the_mounts_end_stops_the_upload_of_a_leftover_which_stays(spooled, state):
    mount = spooled
    fail_to_write(mount, "f", LARGE)
    mount = mount.restarted()
    held = Held(mount.store, "UPLOAD_PART")
    recovering = mount.start(mount.fs.recover())
    mount.settle()
    assert held.waiting > 1
    recovering.cancel()
    mount.settle()
    mount.end()
    assert files(state) == ["file-1.data", "file-1.json"]
