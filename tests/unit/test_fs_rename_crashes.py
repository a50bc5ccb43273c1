"""rename of directories where S3 fails, or the worker dies: undone, or finished by the next one."""

import itertools

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    KeyTooLongError,
    StoreTimeoutError,
)
from csi_s3.fs.rename.journal import RenameRecord
from tests.unit.fs_mount import WRITE_NEW, Held, fail, mount, mounts, paged
from tests.unit.rename_case import (
    DENIED,
    DOWN,
    LEFT_OVER,
    MOVED,
    NOT_UNDONE,
    TREE,
    beside,
    killed,
    refuse_the_end,
    rename_now,
    stopped_at,
    stored,
    with_tree,
)

__all__ = ["mount", "mounts"]


@pytest.mark.parametrize("lost_answer", [False, True])
@pytest.mark.parametrize("error", [DOWN, DENIED, StoreTimeoutError("late")])
@pytest.mark.parametrize("kind", ["COPY", "LIST"])
def test_a_copy_that_fails_undoes_all(mounts, tmp_path, kind, error, lost_answer):
    if lost_answer and error is DENIED:
        return  # a refusal that took effect
    for n in itertools.count():
        mount = with_tree(mounts(state_dir=tmp_path / f"{n}"))
        paged(mount.store, 2)
        mount.lookup("d")
        seen = itertools.count()

        async def nth(operation, _key, n=n, seen=seen):
            if operation == kind and next(seen) == n:
                raise error

        setattr(mount.store, "after" if lost_answer else "gate", nth)
        renaming = mount.renaming("d", "e")
        mount.settle()
        if next(seen) <= n:
            mount.wait(renaming)
            break
        with pytest.raises(type(error)):
            mount.wait(renaming)
        mount.store_works()
        assert stored(mount) == beside(TREE)
        assert mount.spooled() == []
        assert mount.tree()["d/b/x"] == b"2"
        rename_now(mount)
        assert stored(mount) == beside(MOVED)
    assert n > 2


def test_a_key_that_would_be_too_long_is_found_before_it_is_copied(mount):
    mount.put("d/" + "x" * 250 + "/" + "y" * 250 + "/" + "z" * 250 + "/" + "f" * 200)
    mount.put("d/a")
    with pytest.raises(KeyTooLongError):
        rename_now(mount, new="e" * 200)
    assert mount.store.requests["COPY"] == 0


@pytest.mark.parametrize("error", [DOWN, DENIED])
def test_a_delete_that_fails_leaves_both_names_and_each_file_whole(mounts, tmp_path, error):
    mount = with_tree(mounts(state_dir=tmp_path / "state"))
    fh = mount.open("d/a")
    fail(mount.store, "DELETE_MANY", error)
    with pytest.raises(type(error)):
        rename_now(mount)
    assert stored(mount) == {**beside(TREE), **MOVED}
    assert mount.read(fh) == b"1"
    mount.release(fh)
    assert mount.cat("e/b/x") == mount.cat("d/b/x") == b"2"
    assert mount.spooled() == ["rename-1.json"]
    mount = mount.restarted()
    mount.recover()
    assert stored(mount) == beside(MOVED)
    assert mount.spooled() == []


@NOT_UNDONE
def test_copies_that_could_not_be_removed_are_removed_by_the_next_worker(mounts, tmp_path):
    mount = with_tree(mounts(state_dir=tmp_path / "state"))

    mount.store.gate = refuse_the_end
    with pytest.raises(AccessDeniedError):
        rename_now(mount)
    mount.store_works()
    assert set(stored(mount)) > {"e/a", "d/a"}
    mount.put("e/a", b"written there since")
    mount = mount.restarted()
    mount.recover()
    assert stored(mount) == beside({**TREE, "e/a": b"written there since"})
    assert mount.spooled() == []


# crashes


def crash_points(mounts, tmp_path, kind, *, after, size=2):
    """A mount whose worker was killed at the nth such request of a rename; until there is none."""
    for n in itertools.count():
        mount = with_tree(mounts(state_dir=tmp_path / f"{kind}{after}{n}"))
        paged(mount.store, size)
        renaming = stopped_at(mount, kind, n, after=after)
        if renaming.done():
            return
        yield killed(mount, renaming)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", ["LIST", "COPY", "DELETE_MANY"])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_crash_at_any_request_is_finished_by_the_next_worker(mounts, tmp_path, kind, after, size):
    """Promise: A directory rename that a crash interrupted is finished by the mount's next worker;
    one that was being undone is undone.
    """
    tried = 0
    for worker in crash_points(mounts, tmp_path, kind, after=after, size=size):
        tried += 1
        whole = {k[1:] for k in stored(worker) if k != "d-"}
        assert whole == {k[1:] for k in TREE}, "each file is whole under one name at least"
        worker.recover()
        assert stored(worker) == beside(MOVED)
        assert worker.spooled() == []
        assert worker.tree()["e/b/x"] == b"2"
    assert tried >= 1


def test_what_was_made_under_the_old_name_since_is_not_deleted(mounts, tmp_path):
    for worker in crash_points(mounts, tmp_path, "DELETE_MANY", after=True):
        worker.put("d/a", b"a new file of that name")
        worker.recover()
        assert stored(worker) == beside({**MOVED, "d/a": b"a new file of that name"})


def test_the_next_workers_own_changes_wait_for_it(mounts, tmp_path):
    mount = next(crash_points(mounts, tmp_path, "COPY", after=False))
    held = Held(mount.store, "COPY")
    recovering = mount.start(mount.fs.recover())
    directory = mount.ino("d")
    fh, made = mount.run(mount.fs.files.create(directory, b"late", WRITE_NEW))
    mount.held.append(made.ino)
    mount.write(fh, b"late")
    flushing = mount.start(mount.fs.files.flush(fh))
    mount.settle()
    assert not flushing.done()
    held.let_go()
    mount.wait(recovering)
    mount.wait(flushing)
    mount.release(fh)
    assert stored(mount) == beside({**MOVED, "d/late": b"late"})


@LEFT_OVER
def test_a_recovery_that_fails_is_tried_again_by_the_next(mounts, tmp_path):
    for worker in crash_points(mounts, tmp_path, "COPY", after=False):
        fail(worker.store, "COPY", DOWN, times=9)
        worker.recover()
        assert worker.spooled() == ["rename-1.json"]
        later = worker.restarted()
        later.store_works()
        later.recover()
        assert stored(later) == beside(MOVED)
        break


@pytest.mark.warnings_expected("rename-1.json cannot be read and is left alone")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"old": "d/", "new": "e/", "phase": "deleting", "began"',
        '{"old": 1, "what": 2}',
        '{"old": 1, "new": "e/", "phase": "copying", "began": 1000}',
        '{"old": "d/", "new": "e/", "phase": "later", "began": 1000}',
        '{"old": "d/", "new": "e/", "phase": "copying", "began": "x"}',
        '{"old": "d", "new": "e/", "phase": "deleting", "began": 1000, "newest": 9999}',
    ],
)
def test_an_intent_that_cannot_be_read_is_left_alone(mounts, tmp_path, text):
    (tmp_path / "rename-1.json").write_text(text)
    mount = with_tree(mounts(state_dir=tmp_path))
    mount.recover()
    assert stored(mount) == beside(TREE)
    rename_now(mount)
    assert mount.spooled() == ["rename-1.json"]


def test_several_are_finished_in_the_order_in_which_they_began(mounts, tmp_path):
    mount = mounts(state_dir=tmp_path / "state")
    intents = mount.fs._renames._directories._journal
    mount.put("9/x", b"1")
    names = [("none/", "none too/")] * 8 + [("9/", "10/"), ("10/", "z/")]
    for old, new in names:
        what = RenameRecord(old=old, new=new, phase="copying", began=mount.now_s())
        intents.begin(what)
    mount = mount.restarted()
    mount.recover()
    assert mount.spooled() == []
    assert stored(mount) == {"z/x": b"1"}


@pytest.mark.warnings_expected("a crash now would leave the rename of d/ half done")
def test_a_state_directory_that_refuses_does_not_stop_a_rename(mounts, tmp_path):
    (tmp_path / "file").write_text("")
    mount = with_tree(mounts(state_dir=tmp_path / "file" / "state"))
    rename_now(mount)
    assert stored(mount) == beside(MOVED)
