"""Stores whose answers are lost: what then is in S3 is this mount's, and is reported as stored."""

import os

import pytest

from csi_s3.errors import IntegrityError, NotFoundError, StaleError, StoreUnavailableError
from tests.unit.fs_mount import WRITE_NEW, Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

DOWN = StoreUnavailableError("S3 is down")
LARGE = bytes(range(64))
EXCLUSIVE = WRITE_NEW | os.O_EXCL


@pytest.fixture
def spooled(mounts, tmp_path):
    """Parts of 8 bytes, of which S3 takes no fewer than 4; and a spool."""
    return mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")


def lose_an_answer(store):
    """The next store of an object takes effect, but its answer is lost."""
    lost = []

    async def after(operation, _key):
        if operation in ("PUT", "COMPLETE_UPLOAD") and not lost:
            lost.append(operation)
            raise DOWN

    store.after = after


def written(mount, fh, plain, offset, data):
    mount.write(fh, data, offset)
    plain += bytes(max(0, offset - len(plain)))
    plain[offset : offset + len(data)] = data


def cut(mount, plain, size):
    mount.truncate("f", size)
    plain[:] = plain[:size] + bytes(max(0, size - len(plain)))


CHANGES = {
    "nothing": lambda _mount, _fh, _plain: None,
    "the beginning": lambda m, fh, p: written(m, fh, p, 0, b"!"),
    "the middle": lambda m, fh, p: written(m, fh, p, len(p) // 2, b"?"),
    "the end": lambda m, fh, p: written(m, fh, p, len(p), b"+"),
    "more than a part": lambda m, fh, p: written(m, fh, p, len(p), b"+" * 30),
    "shorter": lambda m, _fh, p: cut(m, p, max(1, len(p) // 2)),
    "much shorter": lambda m, _fh, p: cut(m, p, 3),
    "longer": lambda m, _fh, p: cut(m, p, len(p) + 9),
    "emptied": lambda m, _fh, p: cut(m, p, 0),
}


@pytest.mark.parametrize("old", [None, b"small", b"0123456", LARGE], ids=["", "5", "7", "64"])
@pytest.mark.parametrize("first", [c for c in CHANGES if c != "nothing"])
@pytest.mark.parametrize("then", CHANGES)
def test_what_was_stored_though_its_answer_was_lost_is_no_change_by_somebody_else(
    spooled, old, first, then
):
    """Whatever is changed before the next try.

    Promise: An upload that took effect although its response was lost is not mistaken for another
    client's change: the next one detects it and continues from there.
    """
    mount = spooled
    plain = bytearray(old or b"")
    if old is None:
        fh = mount.create("f", EXCLUSIVE)
        written(mount, fh, plain, 0, b"begun")
    else:
        mount.put("f", old)
        fh = mount.open("f", os.O_RDWR)
    CHANGES[first](mount, fh, plain)
    lose_an_answer(mount.store)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    assert mount.data("f") == plain
    CHANGES[then](mount, fh, plain)
    mount.fsync(fh)
    assert mount.data("f") == plain
    assert mount.read(fh) == plain
    mount.write(fh, b"last", len(plain))
    mount.close_file(fh)
    assert mount.data("f") == plain + b"last"
    assert mount.cat("f") == plain + b"last"
    assert mount.store.uploads == {}
    assert mount.spooled() == []


@pytest.mark.parametrize("old", [b"small", LARGE])
@pytest.mark.parametrize("theirs", [b"theirs", LARGE + b"theirs", None])
@pytest.mark.parametrize("is_lost", [False, True])
def test_somebody_elses_change_after_a_failed_store_is_stale_all_the_same(
    spooled, old, theirs, is_lost
):
    mount = spooled
    mount.put("f", old)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!", 1)
    fail(mount.store, "PUT" if old == b"small" else "COMPLETE_UPLOAD", DOWN, after=is_lost)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    if theirs is None:
        mount.delete("f")
    else:
        mount.put("f", theirs)
    with pytest.raises(StaleError):
        mount.flush(fh)
    with pytest.raises(StaleError):
        mount.release(fh)
    assert mount.data("f") == theirs
    assert mount.store.uploads == {}


@pytest.mark.parametrize("call", ["read", "write", "fsync"])
def test_bytes_of_the_version_that_a_lost_store_replaced_are_those_of_the_new_one(spooled, call):
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    mount.truncate("f", 3)
    for _ in range(2):
        lose_an_answer(mount.store)
        with pytest.raises(StoreUnavailableError):
            mount.fsync(fh)
    calls = {
        "read": lambda: mount.read(fh),
        "write": lambda: mount.write(fh, b"+", 3),
        "fsync": lambda: mount.fsync(fh),
    }
    calls[call]()
    assert mount.read(fh) == LARGE[:3] + (b"+" if call == "write" else b"")
    mount.close_file(fh)
    assert mount.data("f") == LARGE[:3] + (b"+" if call == "write" else b"")


@pytest.mark.parametrize("old", [b"old", LARGE], ids=["3", "64"])
def test_what_is_stored_otherwise_than_asked_is_eio_each_time_and_nobody_elses_change(spooled, old):
    """Another encryption, for example: the object is there, and never what was wanted."""
    mount = spooled
    mount.put("f", old)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!")
    kind = "PUT" if old == b"old" else "COMPLETE_UPLOAD"
    fail(mount.store, kind, IntegrityError("not as asked"), times=3, after=True)
    for call in (mount.fsync, mount.flush, mount.fsync):
        with pytest.raises(IntegrityError):
            call(fh)
    mount.close_file(fh)
    assert mount.data("f") == b"!" + old[1:]
    assert mount.store.uploads == {}


def test_many_tries_cost_no_more_to_settle_than_one(spooled):
    mount = spooled
    mount.put("f", b"")
    fh = mount.open("f", os.O_RDWR)
    fail(mount.store, "PUT", DOWN, times=5, after=True)
    for at in range(5):
        mount.write(fh, b"x", at)
        with pytest.raises(StoreUnavailableError):
            mount.fsync(fh)
    with mount.requests(HEAD=3, GET=1, PUT=2):  # two HEADs are of an edit, for what it keeps
        mount.fsync(fh)
    mount.release(fh)


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("has_spool", [False, True])
def test_parts_that_are_in_s3_are_not_sent_again_because_the_last_request_failed(
    mounts, tmp_path, is_lost, has_spool
):
    """Without room in the spool they could not even be.

    Promise: An upload of which only the last request failed is completed by the next attempt,
    without sending its parts again.
    """
    state = tmp_path / "state" if has_spool else None
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=state)
    fh = mount.create("f")
    mount.write(fh, LARGE)
    fail(mount.store, "COMPLETE_UPLOAD", DOWN, after=is_lost)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    with mount.requests(COMPLETE_UPLOAD=1, **({"HEAD": 1} if is_lost else {})):
        mount.fsync(fh)
    assert mount.data("f") == LARGE
    mount.write(fh, b"+", len(LARGE))
    mount.close_file(fh)
    assert mount.data("f") == LARGE + b"+"
    assert mount.store.uploads == {}


def test_parts_stay_in_s3_while_it_does_not_say_what_a_lost_answer_has_made(mounts):
    """Without room in the spool they are the only copy."""
    mount = mounts(write_part_bytes=8, min_part_bytes=4)
    fh = mount.create("f", EXCLUSIVE)
    mount.write(fh, b"begun")
    lose_an_answer(mount.store)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    mount.write(fh, LARGE, 5)
    fail(mount.store, "HEAD", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    mount.store_works()
    with mount.requests(COMPLETE_UPLOAD=2, HEAD=1, GET=1):
        mount.fsync(fh)
    assert mount.data("f") == b"begun" + LARGE
    mount.close_file(fh)
    assert mount.store.uploads == {}


@pytest.mark.parametrize("then", ["write", "truncate"])
def test_bytes_that_left_may_be_followed_by_others_after_a_failed_store(mounts, then):
    mount = mounts(write_part_bytes=8, min_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, LARGE)
    fail(mount.store, "COMPLETE_UPLOAD", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    if then == "write":
        mount.write(fh, b"+", len(LARGE))
        expected = LARGE + b"+"
    else:
        mount.truncate("f", 16)
        expected = LARGE[:16]
    mount.close_file(fh)
    assert mount.data("f") == expected
    assert mount.store.uploads == {}


@pytest.mark.warnings_expected("is kept in .* for the next worker")
def test_an_upload_that_nobody_will_try_to_complete_again_is_aborted(spooled):
    mount = spooled
    fh = mount.create("f")
    mount.write(fh, LARGE)
    fail(mount.store, "COMPLETE_UPLOAD", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.flush(fh)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    assert mount.store.uploads == {}
    mount = mount.restarted()
    mount.store_works()
    mount.recover()
    assert mount.data("f") == LARGE


@pytest.mark.warnings_expected("is kept in .* for the next worker")
def test_an_upload_that_the_mounts_end_could_not_complete_is_aborted(spooled):
    mount = spooled
    fh = mount.create("f")
    mount.write(fh, LARGE)
    fail(mount.store, "COMPLETE_UPLOAD", DOWN, times=9)
    assert [failure.what for failure in mount.run(mount.fs.drain())] == [DOWN.what]
    assert mount.store.uploads == {}
    mount.store_works()
    mount.close_file(fh)
    assert mount.data("f") == LARGE


@pytest.mark.warnings_expected("is kept in .* for the next worker")
def test_a_store_that_goes_on_while_the_last_release_gives_up_is_not_disturbed(spooled):
    """fsync through a handle for reading."""
    mount = spooled
    mount.put("f", LARGE)
    reader, fh = mount.open("f"), mount.open("f", os.O_RDWR)
    mount.write(fh, b"!" * 20, 30)
    held = Held(mount.store, "COMPLETE_UPLOAD")
    releasing = mount.start(mount.fs.files.release(fh))
    mount.settle()
    syncing = mount.start(mount.fs.files.fsync(reader))
    mount.settle()
    fail(mount.store, "COMPLETE_UPLOAD", DOWN, after=True)
    held.let_go()
    with pytest.raises(StoreUnavailableError):
        mount.wait(releasing)
    mount.wait(syncing)
    assert mount.data("f") == LARGE[:30] + b"!" * 20 + LARGE[50:]
    mount.release(reader)
    assert mount.cat("f") == mount.data("f")
    assert mount.spooled() == []


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("old", [None, b"old", LARGE], ids=["", "3", "64"])
@pytest.mark.parametrize("end", ["rename", "rename above", "unlink", "rewrite"])
def test_a_file_whose_store_failed_can_be_renamed_removed_and_rewritten(
    mounts, tmp_path, old, end, is_lost
):
    """Even if it was done: nothing comes back under the old name."""
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")
    mount.put("d/")
    if old is None:
        fh = mount.create("d/f")
        mount.write(fh, b"begun")
    else:
        mount.put("d/f", old)
        fh = mount.open("d/f", os.O_RDWR)
    mount.write(fh, b"!")
    kind = "COMPLETE_UPLOAD" if old == LARGE else "PUT"
    fail(mount.store, kind, DOWN, after=is_lost)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    changed = b"!" + (old or b"begun")[1:]
    if end == "unlink":
        mount.unlink("d/f")
        left = {}
    elif end == "rewrite":
        mount.rewrite("d/f", b"new")
        left = {"d/f": b"new"}
    else:
        old_name, new_name = ("d/f", "d/g") if end == "rename" else ("d", "e")
        mount.rename(old_name, new_name)
        left = {"d/g" if end == "rename" else "e/f": changed}
    mount.close_file(fh)
    files = {k: v.data for k, v in mount.store.objects.items() if not k.endswith("/")}
    assert files == left
    assert mount.store.uploads == {}
    assert mount.spooled() == []


@pytest.mark.warnings_expected("f: no answer to the abort of an upload")
@pytest.mark.parametrize("end", ["unlink", "truncate"])
def test_a_store_that_does_not_answer_an_abort_fails_nothing_else(mounts, tmp_path, end):
    state_dir = tmp_path / "state"
    mount = mounts(write_part_bytes=8, min_part_bytes=4, abort_within_s=0.01, state_dir=state_dir)
    fh = mount.create("f")
    mount.write(fh, LARGE)
    mount.settle()
    Held(mount.store, "ABORT_UPLOAD")
    if end == "unlink":
        mount.unlink("f")
    else:
        mount.truncate("f", 0)
    mount.write(fh, b"new")
    mount.close_file(fh)
    assert mount.data("f") == (None if end == "unlink" else b"new")


@pytest.mark.parametrize("kind", ["UPLOAD_PART", "COMPLETE_UPLOAD"])
def test_an_upload_that_somebody_aborted_begins_anew_from_the_spool(spooled, kind):
    """A lifecycle rule (AbortIncompleteMultipartUpload), while a log file stays open for days."""
    mount = spooled
    fh = mount.create("f")
    mount.write(fh, LARGE[:40])
    mount.settle()
    mount.store.uploads.clear()
    if kind == "UPLOAD_PART":
        mount.write(fh, LARGE[40:], 40)
        mount.settle()
    mount.fsync(fh)
    assert mount.data("f") == (LARGE if kind == "UPLOAD_PART" else LARGE[:40])
    mount.close_file(fh)


def test_an_upload_that_somebody_aborted_is_never_a_missing_file(mounts):
    """ENOENT of close() would be read as "no such file"."""
    mount = mounts(write_part_bytes=8, min_part_bytes=4)
    fh = mount.create("f")
    mount.write(fh, LARGE)
    mount.settle()
    mount.store.uploads.clear()
    for call in (mount.flush, mount.release):
        with pytest.raises(Exception, match="no upload") as caught:
            call(fh)
        assert caught.value.errno == 5
        assert not isinstance(caught.value, NotFoundError)
