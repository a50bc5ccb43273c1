"""A request of the kernel is cancelled at each of its awaits once: nothing is lost, nothing leaks.

Every request of the store here suspends before and after it takes effect, so that each turn of the
event loop is another await. The fixture's end looks for memory, observations and tasks left.
"""

import asyncio
import os

import pytest

from csi_s3.errors import NotFoundError
from tests.unit.fs_mount import REWRITE, Held, mounts

__all__ = ["mounts"]

TURNS = range(24)


@pytest.fixture
def slow(mounts):
    """A mount whose store suspends; parts of 4 bytes."""

    async def suspend(_operation, _key):
        await asyncio.sleep(0)

    mount = mounts(write_part_bytes=4)
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
        return task.cancelled()

    cancelled = mount.run(run())
    mount.settle()
    return cancelled


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("data", [b"one", b"more than a part"])
def test_flush(slow, turns, data):
    slow.put("f", b"old")
    fh = slow.open("f", REWRITE)
    slow.write(fh, data)
    cancelled_after(slow, turns, slow.fs.files.flush(fh))
    assert slow.data("f") in (b"old", data)
    slow.close_file(fh)
    assert slow.data("f") == data
    assert slow.stat("f").size == len(data)
    assert slow.store.uploads == {}


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("data", [b"", b"one", b"more than a part"])
def test_release(slow, turns, data):
    fh = slow.create("f")
    slow.write(fh, data)
    cancelled_after(slow, turns, slow.fs.files.release(fh))
    if turns == 0:
        return  # the release never began: the handle is open
    assert slow.data("f") == data
    assert slow.stat("f").size == len(data)
    assert slow.cat("f") == data
    assert slow.fs.usage().open_files == 0


@pytest.mark.parametrize("turns", TURNS)
def test_write(slow, turns):
    fh = slow.create("f")
    slow.write(fh, b"12")
    cancelled_after(slow, turns, slow.fs.files.write(fh, 2, b"345678"))
    expected = b"12" if turns == 0 else b"12345678"
    slow.close_file(fh)
    assert slow.data("f") == expected


@pytest.mark.parametrize("turns", TURNS)
def test_open_with_truncation(slow, turns):
    fh = slow.create("f")
    slow.write(fh, b"more than a part")
    cancelled_after(slow, turns, slow.fs.files.open(slow.ino("f"), REWRITE))
    for handle in list(slow.fs._handles._open):
        slow.close_file(handle)
    assert slow.data("f") in (b"", b"more than a part")
    assert slow.store.uploads == {}


@pytest.mark.parametrize("turns", TURNS)
def test_truncation_by_path(slow, turns):
    slow.put("f", b"old")
    ino = slow.ino("f")
    cancelled_after(slow, turns, slow.fs.setattr(ino, size=0))
    assert slow.data("f") in (b"old", b"")
    assert slow.stat("f").size == len(slow.data("f"))
    assert slow.cat("f") == slow.data("f")


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("big", [False, True])
def test_open_to_read(slow, turns, big):
    data = b"x" * ((2 << 20) if big else 3)
    slow.put("f", data)
    ino = slow.ino("f")
    cancelled_after(slow, turns, slow.fs.files.open(ino, os.O_RDONLY))
    for handle in list(slow.fs._handles._open):
        slow.release(handle)
    assert slow.cat("f") == data[: 1 << 20]


@pytest.mark.parametrize("turns", TURNS)
def test_read(slow, turns):
    data = bytes(range(256)) * (12 << 10)
    slow.put("f", data)
    fh = slow.open("f")
    slow.read(fh, 0, 128 << 10)
    cancelled_after(slow, turns, slow.fs.files.read(fh, 128 << 10, 1 << 20))
    assert slow.read(fh, 128 << 10, 1 << 20) == data[128 << 10 :][: 1 << 20]
    slow.release(fh)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", ["f", "d", "nothing"])
def test_lookup(slow, turns, name):
    slow.put("f", b"x")
    slow.put("d/x", b"x")
    before = slow.fs.usage().inodes
    if cancelled_after(slow, turns, slow.fs.lookup(1, name.encode())):
        assert slow.fs.usage().inodes == before
    elif name != "nothing":
        slow.held.append(slow.ino(name))
    assert slow.exists(name) == (name != "nothing")
    slow.forget_all()


@pytest.mark.parametrize("turns", TURNS)
def test_getattr_of_another_version(slow, turns):
    slow.put("f", b"old")
    slow.cat("f")
    ino = slow.ino("f")
    slow.put("f", b"newer")
    cancelled_after(slow, turns, slow.fs.getattr(ino))
    assert slow.stat("f").size == 5
    assert slow.cat("f") == b"newer"
    assert slow.kernel.dropped == [ino]


@pytest.mark.parametrize("turns", TURNS)
def test_readdir(slow, turns):
    for name in "abc":
        slow.put(name, b"x")
    fh = slow.run(slow.fs.opendir(1))
    cancelled_after(slow, turns, slow.entries(fh))
    assert slow.run(slow.entries(fh)) == ["a", "b", "c"]
    slow.fs.releasedir(fh)
    assert slow.ls() == ["a", "b", "c"]


@pytest.mark.parametrize("turns", TURNS)
def test_mkdir(slow, turns):
    cancelled_after(slow, turns, slow.fs.mkdir(1, b"d"))
    assert slow.exists("d") == (slow.data("d/") is not None)


@pytest.mark.parametrize("turns", TURNS)
def test_rmdir(slow, turns):
    slow.put("d/")
    slow.ino("d")
    cancelled_after(slow, turns, slow.fs.rmdir(1, b"d"))
    assert slow.exists("d") == (slow.data("d/") is not None)


@pytest.mark.parametrize("turns", TURNS)
def test_rmdir_of_what_was_emptied_here(slow, turns):
    """Who gives up does not stop it; so a directory without a key stays only if nothing began."""
    slow.put("d/x")
    slow.put("d/")
    slow.unlink("d/x")
    fh = slow.run(slow.fs.opendir(1))
    cancelled_after(slow, turns, slow.fs.rmdir(1, b"d"))
    assert slow.exists("d") == (turns == 0)
    assert slow.run(slow.entries(fh)) == slow.ls() == (["d"] if turns == 0 else [])
    assert slow.data("d/") == (b"" if turns == 0 else None)
    slow.fs.releasedir(fh)


@pytest.mark.parametrize("turns", TURNS)
def test_unlink(slow, turns):
    slow.put("f", b"x")
    slow.ino("f")
    cancelled_after(slow, turns, slow.fs.unlink(1, b"f"))
    assert slow.exists("f") == (slow.data("f") is not None)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("data", [b"one", b"more than a part"])
def test_unlink_of_a_file_being_written(slow, turns, data):
    slow.put("f", b"old")
    fh = slow.open("f", REWRITE)
    slow.write(fh, data)
    ino, name = slow.parent("f")
    cancelled_after(slow, turns, slow.fs.unlink(ino, name))
    slow.close_file(fh)
    assert slow.data("f") in (None, data)
    assert slow.exists("f") == (slow.data("f") is not None)
    assert slow.store.uploads == {}


@pytest.mark.parametrize("turns", TURNS)
def test_drain(slow, turns):
    handles = {name: slow.create(name) for name in "abc"}
    for name, fh in handles.items():
        slow.write(fh, name.encode() * 6)
    cancelled_after(slow, turns, slow.fs.drain())
    assert slow.run(slow.fs.drain()) == []
    assert {k: v.data for k, v in slow.store.objects.items()} == {
        name: name.encode() * 6 for name in "abc"
    }
    for fh in handles.values():
        slow.close_file(fh)


def test_a_close_that_gave_up_is_still_stored_and_known(mounts):
    """The answer of the upload comes when nobody waits for it any more."""
    mount = mounts()
    fh = mount.create("f")
    mount.write(fh, b"data")
    held = Held(mount.store, "PUT")
    for call in (mount.fs.files.flush(fh), mount.fs.files.release(fh)):
        cancelled_after(mount, 3, call)
    held.let_go()
    mount.settle()
    assert mount.data("f") == b"data"
    assert mount.stat("f").size == 4
    assert mount.cat("f") == b"data"
    mount.unlink("f")
    with pytest.raises(NotFoundError):
        mount.lookup("f")
