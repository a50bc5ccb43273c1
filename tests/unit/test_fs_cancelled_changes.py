"""Edits, exclusive creates and renames are cancelled at each of their awaits once.

A caller that gives up stops none of them (they are tasks of the mount); the mount's end stops
them all, and then the next worker finds what is to be done.
"""

import asyncio
import contextlib
import os

import pytest

from csi_s3.errors import VolumeError
from tests.unit.fs_mount import REWRITE, WRITE_NEW, mounts

__all__ = ["mounts"]

TURNS = range(30)
LARGE = bytes(range(40))
EXCLUSIVE = WRITE_NEW | os.O_EXCL
MAY_BE_KEPT = pytest.mark.warnings_expected("is kept in .* for the next worker")


async def suspend(_operation, _key):
    await asyncio.sleep(0)


@pytest.fixture
def slow(mounts, tmp_path):
    """A mount whose store suspends; parts of 8 bytes, a spool."""
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")
    mount.store.gate = mount.store.after = suspend
    return mount


def cancelled_after(mount, turns, call):
    """Run a request for so many turns, cancel it, let all run out; whether it was cancelled."""

    async def run():
        task = asyncio.create_task(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        return task.cancelled()

    cancelled = mount.run(run())
    mount.settle()
    mount.settle()
    return cancelled


def ended_after(mount, turns, call):
    """Run a request for so many turns, then end the mount's worker; returns the next one."""

    async def run():
        task = asyncio.create_task(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        mount.fs.close()
        for _ in range(60):
            await asyncio.sleep(0)
        assert task.done(), "the mount's end waits for nobody"
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()

    mount.run(run())
    successor = mount.restarted()
    successor.recover()
    return successor


def stored(mount):
    return {k: v.data for k, v in mount.store.objects.items()}


def check(mount):
    """What is shown is what is stored; nothing is under way."""
    mount.time.now_s += 5
    files = {k: v for k, v in stored(mount).items() if not k.endswith("/")}
    assert {k: v for k, v in mount.tree().items() if v is not None} == files
    assert mount.store.uploads == {}


# a caller gives up


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("target", ["new", "over"])
@pytest.mark.parametrize("is_dirty", [False, True])
def test_rename_of_a_file(slow, turns, target, is_dirty):
    slow.put("f", LARGE)
    slow.put("over", b"precious")
    fh = slow.open("f", os.O_RDWR)
    if is_dirty:
        slow.write(fh, b"!", 20)
    for name in ("f", "over"):
        slow.lookup(name)
    cancelled_after(slow, turns, slow.fs.rename(1, b"f", 1, target.encode(), may_replace=True))
    slow.close_file(fh)
    expected = LARGE[:20] + b"!" + LARGE[21:] if is_dirty else LARGE
    rest = {} if target == "over" and turns > 0 else {"over": b"precious"}
    assert stored(slow) == {"f" if turns == 0 else target: expected, **rest}
    check(slow)


@pytest.mark.parametrize("turns", TURNS)
def test_rename_of_a_directory(slow, turns):
    for name in ("d/", "d/a", "d/b/x"):
        slow.put(name, name.encode())
    fh = slow.open("d/a", os.O_RDWR)
    slow.write(fh, b"!")
    slow.lookup("d")
    cancelled_after(slow, turns, slow.fs.rename(1, b"d", 1, b"e", may_replace=True))
    slow.close_file(fh)
    there = "d" if turns == 0 else "e"
    assert stored(slow) == {f"{there}/": b"d/", f"{there}/a": b"!/a", f"{there}/b/x": b"d/b/x"}
    check(slow)
    assert slow.spooled() == []


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("call", ["flush", "fsync", "release"])
def test_store_of_an_edit(slow, turns, call):
    slow.put("f", LARGE)
    fh = slow.open("f", os.O_RDWR)
    slow.write(fh, b"!", 20)
    slow.write(fh, b"+" * 20, 40)
    cancelled_after(slow, turns, getattr(slow.fs.files, call)(fh))
    if call != "release" or turns == 0:
        slow.close_file(fh)
    assert slow.data("f") == LARGE[:20] + b"!" + LARGE[21:] + b"+" * 20
    check(slow)
    assert slow.spooled() == []


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("offset", [0, 20, 40, 90])
def test_write_into_a_small_and_a_large_file(slow, turns, offset):
    for name, old in (("small", b"0123456"), ("large", LARGE)):
        slow.put(name, old)
        fh = slow.open(name, os.O_RDWR)
        cancelled_after(slow, turns, slow.fs.files.write(fh, offset, b"!" * 30))
        slow.close_file(fh)
        written = old[:offset].ljust(offset, b"\0") + b"!" * 30 + old[offset + 30 :]
        assert slow.data(name) == (old if turns == 0 else written)
    check(slow)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("size", [3, 33, 70])
def test_truncation_to_another_size(slow, turns, size):
    slow.put("f", LARGE)
    ino = slow.ino("f")
    cancelled_after(slow, turns, slow.fs.setattr(ino, size=size))
    cut = LARGE[:size].ljust(size, b"\0")
    assert slow.data("f") in (LARGE, cut)
    check(slow)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("finds_out", [False, True])
def test_exclusive_create(slow, turns, finds_out):
    if finds_out:
        slow.fs.files._exclusive_create._is_able = None
    cancelled_after(slow, turns, slow.fs.files.create(1, b"f", EXCLUSIVE))
    for handle in list(slow.fs._handles._open):
        slow.write(handle, b"data")
        slow.close_file(handle)
    assert slow.data("f") in (None, b"", b"data")
    check(slow)
    fh = slow.create("g", EXCLUSIVE)
    slow.close_file(fh)
    assert slow.data("g") == b""


@pytest.mark.parametrize("turns", TURNS)
def test_unlink_of_what_is_fetched_before(slow, turns):
    slow.put("f", LARGE)
    fh = slow.open("f", os.O_RDWR)
    slow.write(fh, b"!", 20)
    cancelled_after(slow, turns, slow.fs.unlink(1, b"f"))
    changed = LARGE[:20] + b"!" + LARGE[21:]
    assert slow.read(fh) == changed
    slow.close_file(fh)
    assert slow.data("f") == (changed if turns == 0 else None)
    assert slow.spooled() == []
    assert slow.store.uploads == {}


@pytest.mark.parametrize("turns", TURNS)
def test_open_to_write(slow, turns):
    slow.put("f", LARGE)
    ino = slow.ino("f")
    cancelled_after(slow, turns, slow.fs.files.open(ino, os.O_RDWR))
    for handle in list(slow.fs._handles._open):
        slow.close_file(handle)
    assert slow.data("f") == LARGE
    check(slow)


# the mount ends


@MAY_BE_KEPT
@pytest.mark.parametrize("turns", TURNS)
def test_the_mounts_end_in_a_rename_of_a_directory(slow, turns):
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


@MAY_BE_KEPT
@pytest.mark.warnings_expected("failed again: .*(concurrent modification|or deleted)")
@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("target", ["new", "over"])
def test_the_mounts_end_in_a_rename_of_a_file(slow, turns, target):
    """A crash may leave it under both names, but whole under one at least."""
    slow.put("f", LARGE)
    slow.put("over", b"precious")
    for name in ("f", "over"):
        slow.lookup(name)
    call = slow.fs.rename(1, b"f", 1, target.encode(), may_replace=True)
    mount = ended_after(slow, turns, call)
    assert LARGE in stored(mount).values()
    assert mount.data("over") in (LARGE, b"precious")
    check(mount)


@MAY_BE_KEPT
@pytest.mark.warnings_expected("failed again: .*(concurrent modification|or deleted)")
@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("data", [b"small", b"+" * 30])
def test_the_mounts_end_in_the_store_of_an_edit(slow, turns, data):
    """It is in S3, or the next worker brings it there; else the spool has it: the log says so."""
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
@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("flags", [WRITE_NEW, EXCLUSIVE, REWRITE])
def test_the_mounts_end_in_the_store_of_a_new_file(slow, turns, flags):
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
