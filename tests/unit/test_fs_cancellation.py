"""A request of the kernel is cancelled at each of its awaits once: nothing is lost, nothing leaks.

Afterwards the same request, made once more, completes. The fixture's end looks for memory,
observations of directories and tasks that are left.
"""

import os

import pytest

from csi_s3.errors import NotFoundError
from tests.unit.fs_cancelling import AT_EACH_AWAIT, cancelled_after, open_handles, suspending
from tests.unit.fs_mount import REWRITE, Held, mounts

__all__ = ["mounts"]

LONG = b"more than a part"


@pytest.fixture
def slow(mounts):
    """A mount whose store suspends; parts of 4 bytes."""
    return suspending(mounts(write_part_bytes=4))


@AT_EACH_AWAIT
@pytest.mark.parametrize("data", [b"one", LONG])
def test_a_cancelled_flush_stores_all_or_nothing_and_the_close_stores_the_file(slow, turns, data):
    slow.put("f", b"old")
    fh = slow.open("f", REWRITE)
    slow.write(fh, data)
    task = cancelled_after(slow, turns, slow.fs.files.flush(fh))
    assert slow.data("f") in ((b"old", data) if task.cancelled() else (data,))
    slow.close_file(fh)
    assert slow.data("f") == data
    assert slow.stat("f").size == len(data)
    assert slow.store.uploads == {}


@AT_EACH_AWAIT
@pytest.mark.parametrize("data", [b"", b"one", LONG])
def test_a_cancelled_release_that_has_begun_stores_the_file(slow, turns, data):
    fh = slow.create("f")
    slow.write(fh, data)
    cancelled_after(slow, turns, slow.fs.files.release(fh))
    if turns == 0:  # it has not begun, and the handle is open
        assert open_handles(slow) == [fh]
        slow.release(fh)
    assert slow.data("f") == data
    assert slow.stat("f").size == len(data)
    assert slow.cat("f") == data
    assert slow.fs.usage().open_files == 0


@AT_EACH_AWAIT
def test_a_cancelled_write_is_in_the_file_as_far_as_it_says(slow, turns):
    fh = slow.create("f")
    slow.write(fh, b"12")
    task = cancelled_after(slow, turns, slow.fs.files.write(fh, 2, b"345678"))
    accepted = 0 if task.cancelled() else task.result()
    assert task.cancelled() or accepted > 0
    assert slow.stat("f").size == 2 + accepted
    slow.write(fh, b"345678"[accepted:], 2 + accepted)
    slow.write(fh, b"9", 8)
    slow.close_file(fh)
    assert slow.data("f") == b"123456789"


@AT_EACH_AWAIT
def test_a_cancelled_open_with_truncation_leaves_no_handle(slow, turns):
    fh = slow.create("f")
    slow.write(fh, LONG)
    task = cancelled_after(slow, turns, slow.fs.files.open(slow.ino("f"), REWRITE))
    assert open_handles(slow) == ([fh] if task.cancelled() else [fh, task.result()])
    for handle in open_handles(slow):
        slow.close_file(handle)
    assert slow.data("f") in ((b"", LONG) if task.cancelled() else (b"",))
    slow.close_file(slow.open("f", REWRITE))
    assert slow.data("f") == b""
    assert slow.store.uploads == {}


@AT_EACH_AWAIT
def test_a_cancelled_truncation_by_path_is_done_or_not(slow, turns):
    slow.put("f", b"old")
    task = cancelled_after(slow, turns, slow.fs.setattr(slow.ino("f"), size=0))
    assert slow.data("f") in ((b"old", b"") if task.cancelled() else (b"",))
    assert slow.stat("f").size == len(slow.data("f"))
    assert slow.cat("f") == slow.data("f")
    slow.truncate("f", 0)
    assert slow.data("f") == slow.cat("f") == b""


@AT_EACH_AWAIT
@pytest.mark.parametrize("big", [False, True])
def test_a_cancelled_open_to_read_leaves_no_handle(slow, turns, big):
    data = b"x" * ((2 << 20) if big else 3)
    slow.put("f", data)
    task = cancelled_after(slow, turns, slow.fs.files.open(slow.ino("f"), os.O_RDONLY))
    assert open_handles(slow) == ([] if task.cancelled() else [task.result()])
    for handle in open_handles(slow):
        slow.release(handle)
    assert slow.cat("f") == data[: 1 << 20]


@AT_EACH_AWAIT
def test_after_a_cancelled_read_the_same_bytes_are_read(slow, turns):
    data = bytes(range(256)) * (12 << 10)
    at = 1 << 20  # not yet read ahead
    expected = data[at:][: 1 << 20]
    slow.put("f", data)
    fh = slow.open("f")
    slow.read(fh, 0, 128 << 10)
    task = cancelled_after(slow, turns, slow.fs.files.read(fh, at, 1 << 20))
    assert task.cancelled() or b"".join(task.result()) == expected
    assert slow.read(fh, at, 1 << 20) == expected
    slow.release(fh)


@AT_EACH_AWAIT
@pytest.mark.parametrize("name", ["f", "d", "nothing"])
def test_a_cancelled_look_up_leaves_no_inode(slow, turns, name):
    slow.put("f", b"x")
    slow.put("d/x", b"x")
    before = slow.fs.usage().inodes
    task = cancelled_after(slow, turns, slow.fs.lookup(1, name.encode()))
    if task.cancelled():
        assert slow.fs.usage().inodes == before
    elif name == "nothing":
        assert isinstance(task.exception(), NotFoundError)
    else:
        assert task.result().ino == slow.ino(name)
        slow.held.append(task.result().ino)
    assert slow.exists(name) == (name != "nothing")
    slow.forget_all()
    assert slow.fs.usage().inodes == before


@AT_EACH_AWAIT
def test_after_a_cancelled_getattr_another_version_is_noticed_once(slow, turns):
    slow.put("f", b"old")
    slow.cat("f")
    ino = slow.ino("f")
    slow.put("f", b"newer")
    task = cancelled_after(slow, turns, slow.fs.getattr(ino))
    assert task.cancelled() or task.result().size == 5
    assert slow.stat("f").size == 5
    assert slow.cat("f") == b"newer"
    assert slow.kernel.dropped == [ino]


@AT_EACH_AWAIT
def test_after_a_cancelled_readdir_the_listing_is_whole(slow, turns):
    for name in "abc":
        slow.put(name, b"x")
    fh = slow.run(slow.fs.opendir(1))
    task = cancelled_after(slow, turns, slow.entries(fh))
    assert task.cancelled() or task.result() == ["a", "b", "c"]
    assert slow.run(slow.entries(fh)) == ["a", "b", "c"]
    slow.fs.releasedir(fh)
    assert slow.ls() == ["a", "b", "c"]


@AT_EACH_AWAIT
def test_a_cancelled_mkdir_makes_the_directory_or_not(slow, turns):
    task = cancelled_after(slow, turns, slow.fs.mkdir(1, b"d"))
    is_made = slow.exists("d")
    assert is_made or task.cancelled()
    assert slow.data("d/") == (b"" if is_made else None)
    if not is_made:
        slow.mkdir("d")
    assert slow.data("d/") == b""
    assert slow.ls() == ["d"]


@AT_EACH_AWAIT
def test_a_cancelled_rmdir_removes_the_directory_or_not(slow, turns):
    slow.put("d/")
    slow.ino("d")
    task = cancelled_after(slow, turns, slow.fs.rmdir(1, b"d"))
    is_there = slow.exists("d")
    assert task.cancelled() or not is_there
    assert slow.data("d/") == (b"" if is_there else None)
    if is_there:
        slow.rmdir("d")
    assert slow.data("d/") is None
    assert slow.ls() == []


@AT_EACH_AWAIT
def test_a_cancelled_rmdir_that_has_begun_removes_a_directory_that_was_emptied_here(slow, turns):
    """Such a directory is local: without a key it would otherwise stay until the mount's end."""
    slow.put("d/x")
    slow.put("d/")
    slow.unlink("d/x")
    fh = slow.run(slow.fs.opendir(1))
    cancelled_after(slow, turns, slow.fs.rmdir(1, b"d"))
    assert slow.exists("d") == (turns == 0)
    assert slow.run(slow.entries(fh)) == slow.ls() == (["d"] if turns == 0 else [])
    assert slow.data("d/") == (b"" if turns == 0 else None)
    slow.fs.releasedir(fh)
    if turns == 0:
        slow.rmdir("d")
    assert slow.ls() == []
    assert slow.store.objects == {}


@AT_EACH_AWAIT
def test_a_cancelled_unlink_removes_the_file_or_not(slow, turns):
    slow.put("f", b"x")
    slow.ino("f")
    task = cancelled_after(slow, turns, slow.fs.unlink(1, b"f"))
    is_there = slow.exists("f")
    assert task.cancelled() or not is_there
    assert slow.data("f") == (b"x" if is_there else None)
    if is_there:
        slow.unlink("f")
    assert slow.data("f") is None
    assert slow.ls() == []


@AT_EACH_AWAIT
@pytest.mark.parametrize("data", [b"one", LONG])
def test_a_cancelled_unlink_of_a_file_being_written_removes_it_or_not(slow, turns, data):
    slow.put("f", b"old")
    fh = slow.open("f", REWRITE)
    slow.write(fh, data)
    task = cancelled_after(slow, turns, slow.fs.unlink(*slow.parent("f")))
    slow.close_file(fh)
    is_there = slow.exists("f")
    assert task.cancelled() or not is_there
    assert slow.data("f") == (data if is_there else None)
    if is_there:
        slow.unlink("f")
    assert slow.data("f") is None
    assert slow.store.uploads == {}


@AT_EACH_AWAIT
def test_after_a_cancelled_drain_the_next_one_has_stored_everything(slow, turns):
    handles = {name: slow.create(name) for name in "abc"}
    for name, fh in handles.items():
        slow.write(fh, name.encode() * 6)
    task = cancelled_after(slow, turns, slow.fs.drain())
    expected = {name: name.encode() * 6 for name in "abc"}
    if not task.cancelled():
        assert task.result() == []
        assert {k: v.data for k, v in slow.store.objects.items()} == expected
    assert slow.run(slow.fs.drain()) == []
    assert {k: v.data for k, v in slow.store.objects.items()} == expected
    for fh in handles.values():
        slow.close_file(fh)


def test_a_file_whose_close_was_cancelled_is_stored_and_known(mounts):
    """The answer of the upload arrives when no request waits for it."""
    mount = mounts()
    fh = mount.create("f")
    mount.write(fh, b"data")
    held = Held(mount.store, "PUT")
    for call in (mount.fs.files.flush(fh), mount.fs.files.release(fh)):
        assert cancelled_after(mount, 3, call).cancelled()
    held.let_go()
    mount.settle()
    assert mount.data("f") == b"data"
    assert mount.stat("f").size == 4
    assert mount.cat("f") == b"data"
    mount.unlink("f")
    with pytest.raises(NotFoundError):
        mount.lookup("f")
