"""A change of a name whose caller has given up goes on, and what comes next waits for it.

The kernel locks a directory only until a request is answered, so nothing else keeps them apart.
"""

import asyncio
import os

import pytest

from csi_s3.errors import AccessDeniedError, ExistsError, NotFoundError, StaleError, VolumeError
from tests.unit.fs_mount import WRITE_NEW, Held, fail, mounts

__all__ = ["mounts"]


@pytest.fixture
def mount(mounts):
    return mounts()


def given_up(mount, call):
    """Start a request whose caller gives up once the request is under way."""
    task = mount.start(call)
    mount.settle()
    assert not task.done()
    task.cancel()
    mount.settle()
    assert task.cancelled()


def waiting(mount, call):
    """A request that waits for what was given up."""
    task = mount.start(call)
    mount.settle()
    assert not task.done(), "it did not wait"
    return task


def test_a_delete_that_comes_late_does_not_remove_what_was_made_since(mount):
    """A DELETE has taken effect, its answer is lost, and it is sent once more."""
    mount.put("f", b"old")
    mount.lookup("f")
    held = Held(mount.store, "DELETE", after=True)
    given_up(mount, mount.fs.unlink(1, b"f"))
    assert mount.data("f") is None
    made = mount.start(mount.fs.files.create(1, b"f", WRITE_NEW))
    mount.settle()
    if made.done():
        fh, _ = made.result()
        mount.write(fh, b"new")
        mount.start(mount.fs.files.flush(fh))
        mount.settle()
    mount.store.delete_now("f")
    held.let_go()
    mount.settle()
    mount.store_works()
    fh, attributes = mount.wait(made)
    mount.held.append(attributes.ino)
    mount.write(fh, b"new")
    mount.close_file(fh)
    assert mount.data("f") == b"new"
    assert mount.ls() == ["f"]


def test_a_look_up_waits_for_an_unlink_and_then_finds_nothing(mount):
    mount.put("f", b"old")
    mount.lookup("f")
    held = Held(mount.store, "DELETE")
    given_up(mount, mount.fs.unlink(1, b"f"))
    lookup = waiting(mount, mount.fs.lookup(1, b"f"))
    other = mount.start(mount.fs.lookup(1, b"g"))
    mount.settle()
    assert isinstance(other.exception(), NotFoundError), "another name does not wait"
    held.let_go()
    with pytest.raises(NotFoundError):
        mount.wait(lookup)


def test_a_directory_that_is_made_late_is_found_by_the_next_look_up(mount):
    held = Held(mount.store, "PUT")
    given_up(mount, mount.fs.mkdir(1, b"d"))
    assert mount.fs.usage().inodes == 1
    lookup = waiting(mount, mount.fs.lookup(1, b"d"))
    again = waiting(mount, mount.fs.mkdir(1, b"d"))
    held.let_go()
    found = mount.wait(lookup)
    with pytest.raises(ExistsError):
        mount.wait(again)
    mount.fs.forget(found.ino, 1)
    assert mount.fs.usage().inodes == 1
    assert mount.ls() == ["d"]
    mount.rmdir("d")
    assert mount.store.objects == {}


def test_a_directory_that_was_made_late_may_be_removed_by_who_made_it(mounts):
    mount = mounts(allow_delete=False)
    held = Held(mount.store, "PUT")
    given_up(mount, mount.fs.mkdir(1, b"d"))
    held.let_go()
    mount.settle()
    mount.rmdir("d")
    assert mount.store.objects == {}


def test_a_symbolic_link_that_is_made_late_is_found_by_the_next_look_up(mount):
    held = Held(mount.store, "PUT")
    given_up(mount, mount.fs.links.make(1, b"l", b"target"))
    lookup = waiting(mount, mount.fs.lookup(1, b"l"))
    again = waiting(mount, mount.fs.links.make(1, b"l", b"other"))
    held.let_go()
    found = mount.wait(lookup)
    mount.held.append(found.ino)
    with pytest.raises(ExistsError):
        mount.wait(again)
    assert mount.run(mount.fs.links.read(found.ino)) == b"target"


def test_an_exclusive_create_whose_caller_gave_up_leaves_an_empty_file(mount):
    fh = mount.run(mount.fs.opendir(1))
    assert mount.run(mount.entries(fh)) == []
    held = Held(mount.store, "PUT")
    given_up(mount, mount.fs.files.create(1, b"f", WRITE_NEW | os.O_EXCL))
    again = waiting(mount, mount.fs.files.create(1, b"f", WRITE_NEW | os.O_EXCL))
    held.let_go()
    with pytest.raises(ExistsError):
        mount.wait(again)
    assert mount.data("f") == b""
    assert mount.stat("f").size == 0
    mount.fs.releasedir(fh)
    assert mount.ls() == ["f"], "a listing that is known has it"
    mount.write_file("f", b"data")
    assert mount.data("f") == b"data"


def test_a_file_that_is_made_at_the_new_name_of_a_rename_waits_and_is_another_one(mount):
    mount.put("a", b"moved")
    mount.lookup("a")
    held = Held(mount.store, "COPY")
    given_up(mount, mount.fs.rename(1, b"a", 1, b"b", may_replace=True))
    made = waiting(mount, mount.fs.files.create(1, b"b", WRITE_NEW | os.O_EXCL))
    old = waiting(mount, mount.fs.lookup(1, b"a"))
    held.let_go()
    with pytest.raises(ExistsError):
        mount.wait(made)
    with pytest.raises(NotFoundError):
        mount.wait(old)
    assert mount.tree() == {"b": b"moved"}


def test_a_rename_is_done_although_the_kernel_forgets_the_file(mount):
    mount.put("d/a", b"moved")
    mount.put("e/x", b"x")
    for path in ("d", "d/a", "e"):
        mount.lookup(path)
    call = mount.fs.rename(*mount.parent("d/a"), mount.ino("e"), b"b", may_replace=True)
    held = Held(mount.store, "COPY", after=True)
    given_up(mount, call)
    mount.forget_all()
    held.let_go()
    mount.settle()
    mount.store_works()
    assert mount.fs.usage().inodes <= 2, "the root, and the directory that was emptied here"
    assert {k: v.data for k, v in mount.store.objects.items()} == {"e/b": b"moved", "e/x": b"x"}


def test_a_directory_is_not_removed_before_an_unlink_below_it_has_ended(mount):
    mount.put("d/")
    mount.put("d/f", b"old")
    mount.lookup("d")
    mount.lookup("d/f")
    held = Held(mount.store, "DELETE", after=True)
    given_up(mount, mount.fs.unlink(*mount.parent("d/f")))
    removed = waiting(mount, mount.fs.rmdir(1, b"d"))
    held.let_go()
    mount.wait(removed)
    assert mount.store.objects == {}
    assert mount.ls() == []


def test_the_mounts_end_waits_for_changes_whose_callers_have_given_up(mount):
    mount.put("f", b"old")
    mount.lookup("f")
    held = Held(mount.store, "DELETE")
    given_up(mount, mount.fs.unlink(1, b"f"))
    drain = waiting(mount, mount.fs.drain())
    held.let_go()
    assert mount.wait(drain) == []
    assert mount.data("f") is None


@pytest.mark.warnings_expected("failed in the end: 403")
def test_the_failure_of_a_change_whose_caller_has_given_up_is_in_the_log(mount, caplog):
    caplog.set_level("INFO", logger="csi_s3")
    mount.put("f", b"old")
    mount.lookup("f")
    gate = asyncio.Event()

    async def refuse(operation, _key):
        if operation == "DELETE":
            await gate.wait()
            raise AccessDeniedError("403")

    mount.store.gate = refuse
    given_up(mount, mount.fs.unlink(1, b"f"))
    gate.set()
    mount.settle()
    (line,) = [r for r in caplog.records if "failed in the end" in r.getMessage()]
    assert line.getMessage() == "unlink of f failed in the end: 403"
    assert mount.cat("f") == b"old"


def test_a_failure_that_a_caller_gets_is_not_logged_twice(mount, caplog):
    caplog.set_level("INFO", logger="csi_s3")
    mount.put("f", b"old")
    mount.lookup("f")
    fail(mount.store, "DELETE", AccessDeniedError("403"))
    with pytest.raises(VolumeError):
        mount.run(mount.fs.unlink(1, b"f"))
    assert not [r for r in caplog.records if "failed in the end" in r.getMessage()]


def test_a_directory_can_be_read_while_a_rename_in_it_goes_on(mount):
    mount.put("a", b"moved")
    mount.lookup("a")
    held = Held(mount.store, "COPY")
    given_up(mount, mount.fs.rename(1, b"a", 1, b"b", may_replace=True))
    mount.store.put_now("a", b"another version")
    listing = waiting(mount, mount.names(1))  # it adopts that version after the rename
    held.let_go()
    shown = mount.wait(listing)
    assert shown in (["a"], ["b"], []), "a name that is renamed is listed once at most"
    assert mount.ls() == sorted(mount.tree())


def test_a_look_up_does_not_wait_for_a_rename_whose_caller_waits(mount):
    """It may take minutes, in which the old names can be used."""
    mount.put("d/f", b"data")
    mount.lookup("d")
    held = Held(mount.store, "COPY")
    renaming = mount.renaming("d", "e")
    mount.settle()
    assert mount.cat("d/f") == b"data"
    held.let_go()
    mount.wait(renaming)
    assert mount.cat("e/f") == b"data"


def test_a_change_whose_caller_gave_up_is_forgotten_with_its_end(mount):
    mount.put("f", b"old")
    mount.lookup("f")
    changes = mount.fs._tree.name_changes
    held = Held(mount.store, "DELETE")
    given_up(mount, mount.fs.unlink(1, b"f"))
    assert changes.is_left((1, "f"))
    held.let_go()
    mount.settle()
    assert not changes.is_left((1, "f"))
    assert not changes._left


@pytest.mark.parametrize("when", ["before", "begun"])
def test_a_change_that_comes_when_the_mount_has_ended_holds_nothing(mount, when):
    mount.put("f", b"old")
    mount.lookup("f")
    inode = mount.fs._inodes.child(1, "f")
    task = None
    if when == "begun":  # its work has not had its first step
        task = mount.start(mount.fs.unlink(1, b"f"))
        mount.run(asyncio.sleep(0))
    mount.fs._context.progress_timeout.close()
    if task is None:
        with pytest.raises(StaleError, match="the mount has ended"):
            mount.run(mount.fs.unlink(1, b"f"))
    else:
        mount.settle()
        assert task.done()
    assert inode.lookups == 1
