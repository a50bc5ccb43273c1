"""mkdir, rmdir, unlink, and directories without a key."""

import stat

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    ExistsError,
    IsDirectoryError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    NotImplementedByStoreError,
    StoreUnavailableError,
)
from tests.unit.fs_mount import Held, fail, mount, mounts

__all__ = ["mount", "mounts"]


def test_mkdir_puts_the_marker_and_tells_what_is_there(mount):
    """Promise: mkdir puts the marker `dir/` with If-None-Match; EEXIST if anything is there."""
    with mount.requests(HEAD=2, LIST=1, PUT=1):
        mount.run(mount.fs.mkdir(1, b"d"))
    assert mount.data("d/") == b""
    mount.put("f")
    mount.put("p/x")
    for name in ("d", "f", "p"):
        with pytest.raises(ExistsError):
            mount.mkdir(name)


def test_mkdir_that_loses_the_race_for_its_marker_says_exists(mount):
    held = Held(mount.store, "PUT")
    making = mount.start(mount.fs.mkdir(1, b"d"))
    mount.settle()
    mount.put("d/", b"theirs")
    held.let_go()
    with pytest.raises(ExistsError):
        mount.wait(making)
    assert mount.data("d/") == b"theirs"


def test_mkdir_works_where_the_store_knows_no_conditions(mount):
    fail(mount.store, "PUT", NotImplementedByStoreError("501"))
    with mount.requests(HEAD=2, LIST=1, PUT=2):
        mount.run(mount.fs.mkdir(1, b"d"))
    assert mount.data("d/") == b""


def test_with_dir_markers_off_a_directory_is_local_until_a_file_is_in_it(mounts):
    """Promise: With `dir-markers=off` a new directory is local until a file is in it."""
    mount = mounts(dir_markers=False)
    with mount.requests(HEAD=2, LIST=1):
        mount.run(mount.fs.mkdir(1, b"d"))
    assert mount.tree() == {"d": None}
    mount.mkdir("d/e")
    mount.write_file("d/e/f", b"x")
    assert set(mount.store.objects) == {"d/e/f"}
    assert mount.tree() == {"d": None, "d/e": None, "d/e/f": b"x"}
    mount.unlink("d/e/f")
    mount.rmdir("d/e")
    mount.rmdir("d")
    assert mount.tree() == {}
    assert mount.store.objects == {}


@pytest.mark.parametrize("key", ["d/x", "d/e/", "d//", "d/./x"])
def test_rmdir_of_what_holds_anything_is_refused(mount, key):
    """Promise: rmdir gives ENOTEMPTY unless nothing but the marker is left."""
    mount.put("d/")
    mount.put(key)
    with pytest.raises(NotEmptyError):
        mount.rmdir("d")
    assert set(mount.store.objects) == {"d/", key}
    mount.delete(key)
    with mount.requests(LIST=1, DELETE=1):
        mount.run(mount.fs.rmdir(1, b"d"))
    assert mount.store.objects == {}
    with pytest.raises(NotFoundError):
        mount.lookup("d")


def test_rmdir_of_a_directory_with_a_file_that_is_being_written_is_refused(mount):
    mount.mkdir("d")
    fh = mount.create("d/f")
    with pytest.raises(NotEmptyError):
        mount.rmdir("d")
    mount.close_file(fh)
    with pytest.raises(NotEmptyError):
        mount.rmdir("d")


def test_rmdir_and_unlink_are_for_their_kind_only(mount):
    mount.put("f")
    mount.put("d/")
    with pytest.raises(NotDirectoryError):
        mount.rmdir("f")
    with pytest.raises(IsDirectoryError):
        mount.unlink("d")


def test_a_rmdir_that_s3_refuses_changes_nothing(mount):
    mount.put("d/")
    fail(mount.store, "DELETE", AccessDeniedError("403"))
    with pytest.raises(AccessDeniedError):
        mount.rmdir("d")
    assert mount.tree() == {"d": None}


def test_unlink_is_one_delete_at_once(mount):
    """Promise: unlink is DeleteObject at once."""
    mount.put("f", b"x")
    ino = mount.ino("f")
    with mount.requests(DELETE=1):
        mount.run(mount.fs.unlink(1, b"f"))
    assert mount.data("f") is None
    with pytest.raises(NotFoundError):
        mount.lookup("f")
    assert mount.run(mount.fs.getattr(ino)).nlink in (0, 1)


def test_unlink_that_s3_refuses_leaves_the_file(mount):
    """Promise: EACCES: S3 says 403."""
    mount.put("f", b"x")
    fail(mount.store, "DELETE", AccessDeniedError("DELETE f: 403"))
    with pytest.raises(AccessDeniedError) as caught:
        mount.unlink("f")
    assert caught.value.errno == 13
    assert mount.cat("f") == b"x"


def test_an_unlink_whose_answer_was_lost_may_be_repeated(mount):
    """Promise: EIO: a fault that persists after the retries."""
    mount.put("f", b"x")
    fail(mount.store, "DELETE", StoreUnavailableError("503"), after=True)
    with pytest.raises(StoreUnavailableError) as caught:
        mount.unlink("f")
    assert caught.value.errno == 5
    with pytest.raises(NotFoundError):
        mount.unlink("f")


def test_a_directory_emptied_here_stays_until_rmdir(mount):
    """Promise: A directory that was emptied through this mount stays until rmdir or unmount, so
    that `rm -r` and `rm x; cp y x` work."""
    mount.put("d/e/x", b"1")
    mount.unlink("d/e/x")
    mount.forget_all()
    mount.time.now_s += 100
    assert mount.tree() == {"d": None, "d/e": None}
    mount.write_file("d/e/x", b"2")
    assert mount.tree() == {"d": None, "d/e": None, "d/e/x": b"2"}
    mount.unlink("d/e/x")
    mount.rmdir("d/e")
    mount.rmdir("d")
    assert mount.tree() == {}
    assert mount.store.objects == {}


def test_rm_r_removes_all_and_costs_one_delete_for_each_key(mount):
    for key in ("d/", "d/a", "d/b/x", "d/b/y"):
        mount.put(key)
    before = mount.store.requests["DELETE"]
    for path in ("d/a", "d/b/x", "d/b/y"):
        mount.unlink(path)
    for path in ("d/b", "d"):
        mount.rmdir(path)
    assert mount.store.objects == {}
    assert mount.tree() == {}
    assert mount.store.requests["DELETE"] - before == 4


def test_a_directory_that_others_emptied_stays_while_the_kernel_holds_it(mount):
    """Promise: A directory that other clients emptied stays usable while the kernel holds it (a
    working directory, a subPath).
    """
    mount.put("d/x", b"1")
    ino = mount.ino("d")
    mount.delete("d/x")
    with pytest.raises(NotFoundError):
        mount.run(mount.fs.lookup(1, b"d"))
    assert stat.S_ISDIR(mount.run(mount.fs.getattr(ino)).mode)
    assert mount.run(mount.names(ino)) == []
    fh, _ = mount.run(mount.fs.files.create(ino, b"y", 1))
    mount.write(fh, b"2")
    mount.close_file(fh)
    assert mount.data("d/y") == b"2"
    assert mount.ino("d") == ino


def test_a_directory_that_was_removed_here_takes_no_new_names(mount):
    mount.put("d/")
    ino = mount.ino("d")
    mount.rmdir("d")
    with pytest.raises(NotFoundError, match="removed"):
        mount.run(mount.fs.files.create(ino, b"f", 1))
    with pytest.raises(NotFoundError, match="removed"):
        mount.run(mount.fs.mkdir(ino, b"e"))


def test_a_directory_that_became_a_file_elsewhere_is_a_file(mount):
    mount.put("d/x")
    old = mount.ino("d")
    mount.delete("d/x")
    mount.put("d", b"file")
    assert mount.cat("d") == b"file"
    assert mount.ino("d") != old


def test_a_file_that_became_a_directory_elsewhere_is_a_directory(mount):
    mount.put("d", b"file")
    old = mount.ino("d")
    mount.put("d/x", b"1")
    assert stat.S_ISDIR(mount.stat("d").mode)
    assert mount.ino("d") != old


def test_modes_owner_and_times_are_the_options(mounts):
    """Promise: chmod and chown succeed and change nothing (the mode shown is the option's)."""
    mount = mounts(uid=1, gid=2, dir_mode=0o750, file_mode=0o640)
    mount.put("f", b"xyz")
    mount.put("d/")
    file, directory = mount.stat("f"), mount.stat("d")
    assert (file.mode, file.uid, file.gid, file.nlink, file.size) == (0o100640, 1, 2, 1, 3)
    assert (directory.mode, directory.uid, directory.gid, directory.nlink) == (0o40750, 1, 2, 2)
    assert mount.run(mount.fs.setattr(mount.ino("f"))) == mount.stat("f")


def test_utimens_is_kept_while_the_version_is_ours(mount):
    """Promise: utimens and touch succeed; both times are kept while the version is the same and the
    kernel holds the inode; after that S3's LastModified is shown, in whole seconds."""
    mount.put("f", b"x")
    shown = mount.stat("f").mtime_ns
    assert shown % 1_000_000_000 == 0
    ino = mount.ino("f")
    mount.run(mount.fs.setattr(ino, mtime_ns=123))
    mount.run(mount.fs.setattr(ino, atime_ns=7))
    mount.time.now_s += 10
    assert (mount.stat("f").mtime_ns, mount.stat("f").atime_ns) == (123, 7)
    mount.put("f", b"other")
    assert mount.stat("f").mtime_ns > shown
    assert mount.stat("f").atime_ns == mount.stat("f").mtime_ns


def test_the_time_of_an_own_write_is_shown_after_close(mount):
    mount.write_file("f", b"x")
    assert mount.stat("f").mtime_ns == int(mount.time.now_s * 1e9)
    mount.time.now_s += 60
    assert mount.stat("f").mtime_ns == int((mount.time.now_s - 60) * 1e9)


def test_a_directorys_time_tells_of_names_made_and_removed_in_it(mount):
    """Promise: A directory's time is that of its creation, or of the last name created or removed
    in it through this mount, or the one set by utimens since, as long as the kernel holds it;
    otherwise the time of the mount. (Python's import system lists a directory again only when its
    time has changed.)
    """
    mounted_ns = int(mount.time.now_s * 10**9)
    mount.put("d/x")
    mount.put("e/x")
    assert mount.stat("d").mtime_ns == mounted_ns
    changes = [
        lambda: mount.write_file("d/f", b"x"),
        lambda: mount.mkdir("d/d"),
        lambda: mount.run(mount.fs.links.make(mount.ino("d"), b"l", b"f")),
        lambda: mount.unlink("d/f"),
        lambda: mount.rmdir("d/d"),
        lambda: mount.run(
            mount.fs.rename(*mount.parent("d/x"), mount.ino("e"), b"y", may_replace=True)
        ),
    ]
    for change in changes:
        mount.time.now_s += 5
        change()
        assert mount.stat("d").mtime_ns == int(mount.time.now_s * 10**9)
    assert mount.stat("e").mtime_ns == int(mount.time.now_s * 10**9)
    mount.run(mount.fs.setattr(mount.ino("d"), mtime_ns=17))
    mount.time.now_s += 5
    mount.write_file("e/y", b"another content")
    assert mount.stat("d").mtime_ns == 17


def test_the_time_of_a_directory_just_made_is_that_of_its_making(mount):
    mount.time.now_s += 5
    assert mount.mkdir("d").mtime_ns == int(mount.time.now_s * 10**9)
