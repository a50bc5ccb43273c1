"""Edits, exclusive creates and renames are interrupted at each of their awaits once.

A caller that gives up stops none of them (they are tasks of the mount), but for a request that has
not begun (turn 0). The mount's end stops them all, and the next worker finishes what is left.
"""

import os

import pytest

from csi_s3.errors import VolumeError
from tests.unit.fs_cancelling import (
    AT_EACH_AWAIT,
    cancelled_after,
    ended_after,
    open_handles,
    suspending,
)
from tests.unit.fs_mount import REWRITE, WRITE_NEW, mounts

__all__ = ["mounts"]

LARGE = bytes(range(40))
EXCLUSIVE = WRITE_NEW | os.O_EXCL
MAY_BE_KEPT = pytest.mark.warnings_expected("is kept in .* for the next worker")


@pytest.fixture
def slow(mounts, tmp_path):
    """A mount whose store suspends; parts of 8 bytes, a spool."""
    return suspending(mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state"))


def stored(mount):
    return {k: v.data for k, v in mount.store.objects.items()}


def check(mount):
    """What is shown is what is stored; nothing is under way."""
    mount.time.now_s += 5
    files = {k: v for k, v in stored(mount).items() if not k.endswith("/")}
    assert {k: v for k, v in mount.tree().items() if v is not None} == files
    assert mount.store.uploads == {}


# a caller gives up


@AT_EACH_AWAIT
@pytest.mark.parametrize("target", ["new", "over"])
@pytest.mark.parametrize("is_dirty", [False, True])
def test_a_cancelled_rename_of_a_file_is_done_once_it_has_begun(slow, turns, target, is_dirty):
    slow.put("f", LARGE)
    slow.put("over", b"precious")
    fh = slow.open("f", os.O_RDWR)
    if is_dirty:
        slow.write(fh, b"!", 20)
    for name in ("f", "over"):
        slow.lookup(name)
    cancelled_after(slow, turns, slow.fs.rename(1, b"f", 1, target.encode(), may_replace=True))
    assert slow.exists("f") == (turns == 0)
    if turns == 0:
        slow.rename("f", target)
    slow.close_file(fh)
    expected = LARGE[:20] + b"!" + LARGE[21:] if is_dirty else LARGE
    rest = {} if target == "over" else {"over": b"precious"}
    assert stored(slow) == {target: expected, **rest}
    check(slow)


@AT_EACH_AWAIT
def test_a_cancelled_rename_of_a_directory_is_done_once_it_has_begun(slow, turns):
    for name in ("d/", "d/a", "d/b/x"):
        slow.put(name, name.encode())
    fh = slow.open("d/a", os.O_RDWR)
    slow.write(fh, b"!")
    slow.lookup("d")
    cancelled_after(slow, turns, slow.fs.rename(1, b"d", 1, b"e", may_replace=True))
    assert slow.exists("d") == (turns == 0)
    if turns == 0:
        slow.rename("d", "e")
    slow.close_file(fh)
    assert stored(slow) == {"e/": b"d/", "e/a": b"!/a", "e/b/x": b"d/b/x"}
    check(slow)
    assert slow.spooled() == []


@AT_EACH_AWAIT
@pytest.mark.parametrize("call", ["flush", "fsync", "release"])
def test_an_edit_whose_store_was_cancelled_is_stored_by_the_close(slow, turns, call):
    slow.put("f", LARGE)
    fh = slow.open("f", os.O_RDWR)
    slow.write(fh, b"!", 20)
    slow.write(fh, b"+" * 20, 40)
    edited = LARGE[:20] + b"!" + LARGE[21:] + b"+" * 20
    task = cancelled_after(slow, turns, getattr(slow.fs.files, call)(fh))
    assert task.cancelled() or slow.data("f") == edited
    if call != "release" or turns == 0:
        slow.close_file(fh)
    assert slow.data("f") == edited
    check(slow)
    assert slow.spooled() == []


@AT_EACH_AWAIT
@pytest.mark.parametrize("offset", [0, 20, 40, 90])
def test_a_cancelled_write_into_a_file_is_in_it_as_far_as_it_says(slow, turns, offset):
    small, large = ("small", b"0123456"), ("large", LARGE)
    for name, old in (small, large) if offset else (small,):  # bytes within a large one: no wait
        slow.put(name, old)
        fh = slow.open(name, os.O_RDWR)
        task = cancelled_after(slow, turns, slow.fs.files.write(fh, offset, b"!" * 30))
        accepted = 0 if task.cancelled() else task.result()
        assert task.cancelled() or accepted > 0
        written = old
        if accepted:
            end = offset + accepted
            written = old[:offset].ljust(offset, b"\0") + b"!" * accepted + old[end:]
        assert slow.stat(name).size == len(written)
        if len(written) <= slow.config.write_part_bytes:  # else some is in parts only
            assert slow.read(fh) == written
        slow.write(fh, b"!" * (30 - accepted), offset + accepted)
        slow.close_file(fh)
        assert slow.data(name) == old[:offset].ljust(offset, b"\0") + b"!" * 30 + old[offset + 30 :]
    check(slow)


@AT_EACH_AWAIT
@pytest.mark.parametrize("size", [3, 33, 70])
def test_a_cancelled_truncation_to_another_size_is_done_or_not(slow, turns, size):
    slow.put("f", LARGE)
    cut = LARGE[:size].ljust(size, b"\0")
    task = cancelled_after(slow, turns, slow.fs.setattr(slow.ino("f"), size=size))
    assert slow.data("f") in ((LARGE, cut) if task.cancelled() else (cut,))
    check(slow)
    slow.truncate("f", size)
    assert slow.data("f") == cut
    check(slow)


@AT_EACH_AWAIT
@pytest.mark.parametrize("finds_out", [False, True])
def test_a_cancelled_exclusive_create_makes_the_file_or_not(slow, turns, finds_out):
    """finds_out: whether the store knows conditional writes is asked first."""
    if finds_out:
        slow.fs.files._exclusive_create._is_able = None
    task = cancelled_after(slow, turns, slow.fs.files.create(1, b"f", EXCLUSIVE))
    assert open_handles(slow) == ([] if task.cancelled() else [task.result()[0]])
    for handle in open_handles(slow):
        slow.write(handle, b"data")
        slow.close_file(handle)
    assert slow.data("f") in ((None, b"") if task.cancelled() else (b"data",))
    check(slow)
    if not slow.exists("f"):
        slow.close_file(slow.create("f", EXCLUSIVE))
        assert slow.data("f") == b""
    slow.close_file(slow.create("g", EXCLUSIVE))
    assert slow.data("g") == b""


@AT_EACH_AWAIT
def test_a_cancelled_unlink_of_an_edited_file_that_has_begun_keeps_it_for_its_handles(slow, turns):
    slow.put("f", LARGE)
    fh = slow.open("f", os.O_RDWR)
    slow.write(fh, b"!", 20)
    cancelled_after(slow, turns, slow.fs.unlink(1, b"f"))
    assert slow.exists("f") == (turns == 0)
    if turns == 0:
        slow.unlink("f")
    assert slow.read(fh) == LARGE[:20] + b"!" + LARGE[21:]
    slow.close_file(fh)
    assert slow.data("f") is None
    assert slow.spooled() == []
    assert slow.store.uploads == {}


@AT_EACH_AWAIT
def test_a_cancelled_open_to_write_leaves_no_handle(slow, turns):
    slow.put("f", LARGE)
    task = cancelled_after(slow, turns, slow.fs.files.open(slow.ino("f"), os.O_RDWR))
    assert open_handles(slow) == ([] if task.cancelled() else [task.result()])
    for handle in open_handles(slow):
        slow.close_file(handle)
    assert slow.data("f") == LARGE
    check(slow)
    fh = slow.open("f", os.O_RDWR)
    slow.write(fh, b"!", 20)
    slow.close_file(fh)
    assert slow.data("f") == LARGE[:20] + b"!" + LARGE[21:]


# the mount ends


@MAY_BE_KEPT
@AT_EACH_AWAIT
def test_a_rename_of_a_directory_is_done_or_undone_by_the_next_worker(slow, turns):
    for name in ("d/", "d/a", "d/b/x", "d/c"):
        slow.put(name, name.encode())
    slow.lookup("d")
    mount = ended_after(slow, turns, slow.fs.rename(1, b"d", 1, b"e", may_replace=True))
    there = {key[0] for key in stored(mount)}
    assert len(there) == 1, stored(mount)
    assert {k[1:]: v for k, v in stored(mount).items()} == {
        "/": b"d/", "/a": b"d/a", "/b/x": b"d/b/x", "/c": b"d/c",
    }  # fmt: skip
    assert mount.spooled() == []
    check(mount)
    if there == {"d"}:
        mount.rename("d", "e")
    assert set(stored(mount)) == {"e/", "e/a", "e/b/x", "e/c"}


@MAY_BE_KEPT
@pytest.mark.warnings_expected("failed again: .*(concurrent modification|or deleted)")
@AT_EACH_AWAIT
@pytest.mark.parametrize("target", ["new", "over"])
def test_a_file_is_whole_under_a_name_at_least_after_the_mounts_end_in_its_rename(
    slow, turns, target
):
    slow.put("f", LARGE)
    slow.put("over", b"precious")
    for name in ("f", "over"):
        slow.lookup(name)
    call = slow.fs.rename(1, b"f", 1, target.encode(), may_replace=True)
    mount = ended_after(slow, turns, call)
    assert LARGE in stored(mount).values()
    assert mount.data("over") in (LARGE, b"precious")
    check(mount)
    if mount.exists("f"):
        mount.rename("f", target)
    rest = {} if target == "over" else {"over": b"precious"}
    assert stored(mount) == {target: LARGE, **rest}


@MAY_BE_KEPT
@pytest.mark.warnings_expected("failed again: .*(concurrent modification|or deleted)")
@AT_EACH_AWAIT
@pytest.mark.parametrize("data", [b"small", b"+" * 30])
def test_an_edit_is_in_the_store_or_in_the_spool_after_the_mounts_end(slow, turns, data):
    slow.put("f", LARGE)
    fh = slow.open("f", os.O_RDWR)
    slow.write(fh, data, 9)
    expected = slow.read(fh)
    mount = ended_after(slow, turns, slow.fs.files.flush(fh))
    if mount.data("f") != expected:
        assert mount.data("f") == LARGE
        assert len(mount.spooled()) == 2
    assert all(u._key == "f" for u in mount.store.uploads.values())


@MAY_BE_KEPT
@pytest.mark.warnings_expected("failed again: ")
@AT_EACH_AWAIT
@pytest.mark.parametrize("flags", [WRITE_NEW, EXCLUSIVE, REWRITE])
def test_a_new_file_is_in_the_store_or_in_the_spool_after_the_mounts_end(slow, turns, flags):
    if flags == REWRITE:
        slow.put("f", b"old")
        fh = slow.open("f", REWRITE)
    else:
        fh = slow.create("f", flags)
    slow.write(fh, LARGE)
    mount = ended_after(slow, turns, slow.fs.files.release(fh))
    if mount.data("f") != LARGE:
        assert len(mount.spooled()) == 2, stored(mount)
    try:
        mount.close_file(mount.create("g", EXCLUSIVE))
    except VolumeError as exc:
        pytest.fail(f"the next worker: {exc}")
