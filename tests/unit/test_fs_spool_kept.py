"""What could not be uploaded stays in the spool, and the next worker uploads it."""

import errno
import os

import pytest

from csi_s3.errors import (
    CredentialsError,
    QuotaExceededError,
    StoreFullError,
    StoreUnavailableError,
)
from tests.unit.fs_mount import REWRITE, fail, mount, mounts
from tests.unit.spool_case import (
    DOWN,
    LARGE,
    files,
    spooled,
    state,
)

__all__ = ["mount", "mounts", "spooled", "state"]

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
