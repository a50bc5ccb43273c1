"""rename of a directory while other mounts write below both names, and what the log says of it."""

import logging

import pytest

from csi_s3.errors import AccessDeniedError, StoreRefusedError, StoreUnavailableError
from csi_s3.s3.store import Undeleted
from tests.unit.fs_mount import Held, fail, mount, mounts, paged
from tests.unit.rename_case import DOWN, MOVED, TREE, beside, rename_now, stored, with_tree
from tests.unit.test_fs_rename_crashes import crash_points

__all__ = ["mount", "mounts"]


def half_way(mount, kind):
    """A rename of d to e that is held before its first such request."""
    with_tree(mount)
    mount.lookup("d")
    held = Held(mount.store, kind)
    renaming = mount.renaming("d", "e")
    mount.settle()
    assert held.waiting

    def go_on():
        held.let_go()
        mount.wait(renaming)

    return go_on


def test_what_others_write_between_copy_and_delete_stays_under_the_old_name(mount, caplog):
    """Promise: Files that other mounts write below a directory that is being renamed, after its
    keys were listed or copied, stay under the old name; the log names the files that they replaced.
    (MinIO, versitygw and other stores whose batch delete does not compare versions delete a file
    that was replaced after it was copied.)
    """
    caplog.set_level(logging.INFO)
    go_on = half_way(mount, "DELETE_MANY")
    mount.store.put_now("d/a", b"theirs")
    mount.store.put_now("d/new", b"new")
    go_on()
    assert stored(mount) == beside({**MOVED, "d/a": b"theirs", "d/new": b"new"})
    assert "they were modified concurrently, the first is d/a" in caplog.text
    assert mount.cat("d/a") == b"theirs"
    assert mount.cat("e/a") == b"1"


@pytest.mark.parametrize("may_replace", [True, False])
def test_what_others_put_at_the_new_name_meanwhile_is_kept_but_for_the_same_keys(
    mount, may_replace
):
    """Promise: Files that other mounts create at a directory's new name during the rename are kept,
    unless a copy has the same key.
    """
    with_tree(mount)
    mount.lookup("d")
    held = Held(mount.store, "COPY")
    renaming = mount.renaming("d", "e", may_replace=may_replace)
    mount.settle()
    mount.store.put_now("e/a", b"theirs")
    mount.store.put_now("e/theirs", b"theirs")
    held.let_go()
    mount.wait(renaming)
    assert stored(mount) == beside({**MOVED, "e/theirs": b"theirs"})
    assert mount.cat("e/theirs") == b"theirs"


def test_a_listing_under_way_shows_the_old_name_that_others_keep(mount):
    go_on = half_way(mount, "DELETE_MANY")
    fh = mount.run(mount.fs.opendir(1))
    mount.store.put_now("d/a", b"theirs")
    go_on()
    assert sorted(mount.run(mount.entries(fh))) == ["d", "d-", "e"]
    mount.fs.releasedir(fh)


def test_what_others_write_at_the_new_name_is_not_taken_back(mount):
    with_tree(mount)

    async def refuse(operation, key):
        if operation == "COPY" and key == "e/c-":
            mount.store.put_now("e/a", b"theirs")
            raise DOWN

    paged(mount.store, 1)
    mount.store.gate = refuse
    with pytest.raises(StoreUnavailableError):
        rename_now(mount)
    mount.store_works()
    assert stored(mount) == beside({**TREE, "e/a": b"theirs"})
    assert mount.spooled() == []


@pytest.mark.parametrize("error", [DOWN, AccessDeniedError("403")])
def test_after_a_failed_delete_both_names_are_shown(mount, error):
    with_tree(mount)
    fh = mount.run(mount.fs.opendir(1))
    assert sorted(mount.run(mount.entries(fh))) == ["d", "d-"]
    fail(mount.store, "DELETE_MANY", error)
    with pytest.raises(type(error)):
        rename_now(mount)
    assert sorted(mount.ls()) == sorted(mount.run(mount.entries(fh, 0))) == ["d", "d-", "e"]
    mount.fs.releasedir(fh)


@pytest.mark.parametrize(
    ("why", "raised"),
    [
        (AccessDeniedError("AccessDenied: no"), AccessDeniedError),
        (StoreRefusedError("InvalidArgument: no"), StoreRefusedError),
        (DOWN, StoreUnavailableError),
    ],
)
def test_keys_that_remain_are_named_and_give_their_errno(mount, why, raised):
    whole = with_tree(mount).store.delete_many

    async def refusing(objects):
        await whole([o for o in objects if o[0] != "d/a"])
        remain = Undeleted()
        remain.add("d/a", why)
        return remain

    mount.store.delete_many = refusing
    with pytest.raises(raised, match=rf"1 of 5 objects.*first d/a: {why.what}"):
        rename_now(mount)
    assert mount.cat("d/a") == mount.cat("e/a") == b"1"


def test_batches_are_progress(mount, monkeypatch):
    """A million keys take longer to delete than one waits for nothing."""
    for n in range(2500):
        mount.put(f"d/{n}")
    seen = []
    patience = mount.fs._progress_timeout
    monkeypatch.setattr(patience.rename, "at_s", 0.0)

    async def watch(operation, _key):
        if operation == "DELETE_MANY":
            seen.append(patience.rename.at_s)
            patience.rename.at_s = 0.0

    mount.store.after = watch
    rename_now(mount)
    assert len(seen) == 3
    assert all(seen)


# the next worker


def test_what_was_removed_at_the_new_name_since_stays_at_the_old_one(mounts, tmp_path):
    """A client that saw both may have taken the new one for the incomplete copy that it is."""
    for worker in crash_points(mounts, tmp_path, "DELETE_MANY", after=False):
        for key in MOVED:
            worker.delete(key)
        worker.recover()
        assert stored(worker) == beside(TREE)
        assert worker.spooled() == []


def test_what_was_removed_after_a_failed_rename_is_not_lost_with_the_next_worker(mounts, tmp_path):
    mount = with_tree(mounts(state_dir=tmp_path / "state"))
    fail(mount.store, "DELETE_MANY", DOWN)
    with pytest.raises(StoreUnavailableError):
        rename_now(mount)
    for name in ("e/a", "e/b/x", "e/c-"):
        mount.unlink(name)
    for name in ("e/b/y", "e/b", "e"):
        mount.rmdir(name)
    mount = mount.restarted()
    mount.recover()
    assert stored(mount) == beside(TREE)


def test_what_others_wrote_at_the_new_name_since_is_not_overwritten(mounts, tmp_path, caplog):
    """Promise: The next worker removes no old key whose new key does not exist, and overwrites
    nothing that other clients have written at the new name since: both stay.
    """
    caplog.set_level(logging.INFO)
    for worker in crash_points(mounts, tmp_path, "COPY", after=True):
        worker.put("e/a", b"theirs, since")
        worker.recover()
        assert stored(worker) == beside({**MOVED, "e/a": b"theirs, since", "d/a": b"1"})
        assert "d/a stays" in caplog.text
        assert worker.spooled() == []
        break


def test_what_others_replace_while_it_is_finished_stays(mounts, tmp_path):
    worker = next(crash_points(mounts, tmp_path, "DELETE_MANY", after=False))
    held = Held(worker.store, "DELETE_MANY")
    recovering = worker.start(worker.fs.recover())
    worker.settle()
    worker.put("d/a", b"theirs")
    held.let_go()
    worker.wait(recovering)
    assert stored(worker) == beside({**MOVED, "d/a": b"theirs"})
    assert worker.spooled() == []


def test_what_is_left_is_copied_in_parallel(mounts, tmp_path):
    mount = mounts(state_dir=tmp_path / "state")
    for n in range(100):
        mount.put(f"d/{n}")
    mount.lookup("d")
    held = Held(mount.store, "COPY")
    renaming = mount.renaming("d", "e")
    mount.settle()
    worker = mount.succeeded()
    renaming.cancel()
    held = Held(worker.store, "COPY")
    recovering = worker.start(worker.fs.recover())
    worker.settle()
    assert held.waiting == 64
    held.let_go()
    worker.wait(recovering)
    assert set(stored(worker)) == {f"e/{n}" for n in range(100)}


def test_copies_are_taken_back_with_one_list_for_a_thousand(mounts, tmp_path):
    mount = with_tree(mounts(state_dir=tmp_path / "state"))
    mount.lookup("d")
    held = Held(mount.store, "COPY")

    async def third(operation, key):
        if operation == "COPY" and key == "e/c-":
            raise DOWN
        if operation == "DELETE_MANY":
            await held._stop("COPY", key)

    mount.store.gate = third
    renaming = mount.renaming("d", "e")
    mount.settle()
    assert held.waiting
    worker = mount.succeeded()
    renaming.cancel()
    worker.store_works()
    worker.put("e/a", b"theirs")
    with worker.requests(LIST=1, DELETE_MANY=1):
        worker.recover()
    assert stored(worker) == beside({**TREE, "e/a": b"theirs"})
    assert worker.spooled() == []
