"""rename of files that others change meanwhile, and where S3 fails."""

import os

import pytest

from csi_s3.errors import AccessDeniedError, NotFoundError, StaleError, StoreUnavailableError
from tests.unit.fs_mount import REWRITE, Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

DOWN = StoreUnavailableError("S3 is down")
DENIED = AccessDeniedError("403")


def stored(mount):
    return {k: v.data for k, v in mount.store.objects.items()}


def test_what_somebody_replaced_while_it_is_open_here_is_stale(mount):
    """Theirs has the name; what the handle stands for is gone."""
    mount.put("f", b"old")
    fh = mount.open("f")
    mount.store.put_now("f", b"theirs")
    with pytest.raises(StaleError):
        mount.run(mount.fs.rename(1, b"f", 1, b"g", may_replace=True))
    mount.release(fh)
    assert stored(mount) == {"f": b"theirs"}


def test_pages_of_a_version_that_was_replaced_are_dropped_by_the_rename(mount):
    mount.put("f", b"old")
    mount.cat("f")
    ino = mount.ino("f")
    mount.store.put_now("f", b"theirs")
    mount.run(mount.fs.rename(1, b"f", 1, b"g", may_replace=True))
    assert mount.kernel.dropped == [ino]
    assert mount.cat("g") == b"theirs"


def test_pages_of_bytes_that_could_not_be_stored_are_dropped_by_the_rename(mount):
    mount.put("f", b"old")
    fh = mount.open("f", REWRITE)
    mount.write(fh, b"lost")
    ino = mount.run(mount.fs.lookup(1, b"f")).ino
    fail(mount.store, "PUT", DOWN, times=9)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
    mount.run(mount.fs.rename(1, b"f", 1, b"g", may_replace=True))
    assert ino in mount.kernel.dropped
    assert mount.cat("g") == b"old"
    mount.fs.forget(ino, 1)


def test_what_somebody_removed_since_the_look_up_is_not_found(mount):
    mount.put("f", b"old")
    mount.put("g", b"target")
    mount.lookup("f")
    mount.lookup("g")
    mount.delete("f")
    with pytest.raises(NotFoundError):
        mount.run(mount.fs.rename(1, b"f", 1, b"g", may_replace=True))
    assert stored(mount) == {"g": b"target"}
    assert mount.cat("g") == b"target"


def test_what_somebody_writes_to_the_old_name_meanwhile_stays_there(mount):
    mount.put("f", b"ours")
    mount.lookup("f")
    held = Held(mount.store, "DELETE")
    renaming = mount.renaming("f", "g")
    mount.settle()
    mount.put("f", b"theirs")
    held.let_go()
    mount.wait(renaming)
    assert stored(mount) == {"f": b"theirs", "g": b"ours"}
    assert mount.cat("f") == b"theirs"


# failures


@pytest.mark.parametrize("error", [DOWN, DENIED])
def test_a_copy_that_fails_changes_nothing(mount, error):
    """Promise: A rename that is refused leaves the old name complete and nothing at the new one; if
    S3 fails while old keys are deleted, both names may exist, each file complete.
    """
    mount.put("f", b"data")
    mount.put("target", b"precious")
    fh = mount.open("target")
    for new in ("g", "target"):
        fail(mount.store, "COPY", error)
        with pytest.raises(type(error)):
            mount.rename("f", new)
        assert stored(mount) == {"f": b"data", "target": b"precious"}
    assert mount.cat("f") == b"data"
    assert mount.read(fh) == b"precious"
    mount.release(fh)
    mount.rename("f", "g")


def test_a_delete_that_is_refused_is_undone(mount):
    mount.put("f", b"data")
    fh = mount.open("f")
    fail(mount.store, "DELETE", DENIED)
    with pytest.raises(AccessDeniedError):
        mount.rename("f", "g")
    assert stored(mount) == {"f": b"data"}
    assert mount.read(fh) == b"data"
    mount.release(fh)
    assert mount.tree() == {"f": b"data"}


def test_a_delete_that_is_refused_and_cannot_be_undone_leaves_both(mount):
    mount.put("f", b"data")
    mount.put("g", b"replaced")
    fail(mount.store, "DELETE", DENIED, times=2)
    for new in ("g", "h"):
        with pytest.raises(AccessDeniedError):
            mount.rename("f", new)
        mount.store_works()
        assert mount.cat("f") == mount.cat(new) == b"data"
        fail(mount.store, "DELETE", DENIED, times=2)


def test_a_delete_that_may_yet_work_is_not_undone(mount):
    """The only copy would be gone if it did."""
    mount.put("f", b"data")
    fail(mount.store, "DELETE", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.rename("f", "g")
    assert stored(mount) == {"f": b"data", "g": b"data"}
    assert mount.tree() == {"f": b"data", "g": b"data"}


def test_a_delete_whose_answer_was_lost_has_worked(mount):
    mount.put("f", b"data")
    fail(mount.store, "DELETE", DOWN, after=True)
    mount.rename("f", "g")
    assert stored(mount) == {"g": b"data"}
    assert mount.tree() == {"g": b"data"}


def test_a_dirty_file_whose_rename_failed_goes_on_under_its_old_name(mount):
    mount.put("f", b"old")
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"new")
    fail(mount.store, "DELETE", DENIED)
    with pytest.raises(AccessDeniedError):
        mount.rename("f", "g")
    mount.store_works()
    mount.close_file(fh)
    assert stored(mount) == {"f": b"new"}
