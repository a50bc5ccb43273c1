"""Symbolic links on a real mount, and what is answered where S3 has no equivalent."""

import ctypes
import errno
import os
import stat
import subprocess
from contextlib import contextmanager

from tests.mount.command import WITHIN_S, free_directory, mount, names, wait_gone, worker
from tests.mount.mounted import env, errno_of, here, minio, mounted, sh

__all__ = ["env", "here", "minio", "mounted"]

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100


@contextmanager
def served(bucket, *options, env):
    """Another mount, unmounted at the end."""
    with free_directory() as place:
        assert mount(bucket, place, *options, env=env).returncode == 0
        yield place
        pid = worker(place)
        subprocess.run(["umount", place], check=True, timeout=WITHIN_S)
        wait_gone(pid)


def renameat2(old, new, flags):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_links_are_made_followed_replaced_and_removed(here, mounted):
    sh("mkdir d && echo x > d/f && ln -s d/f l && ln -s d e && test $(cat l) = x", here)
    sh("echo y >> l && echo z > e/g && test $(readlink l) = d/f && ls -l e/ | grep g", here)
    assert mounted.get(f"{here.name}/l.rclonelink") == b"d/f"
    assert mounted.get(f"{here.name}/d/f") == b"x\ny\n"
    sh("ln -sfn nowhere l && test $(readlink l) = nowhere && ! cat l 2>/dev/null", here)
    sh("ln -s l l 2>/dev/null", here, code=1)
    assert errno_of(lambda: (here / "l").symlink_to("x")) == errno.EEXIST
    assert errno_of((here / "l").mkdir) == errno.EEXIST
    assert errno_of((here / "l").rmdir) == errno.ENOTDIR
    assert errno_of(lambda: os.open(here / "l", os.O_RDONLY | os.O_NOFOLLOW)) == errno.ELOOP
    sh('rm l e && test -e d/f && rm -r d && test -z "$(ls -A .)"', here)
    assert mounted.get(f"{here.name}/l.rclonelink") is None


def test_a_link_to_nothing_creates_its_target(here, mounted):
    sh("ln -s target l && echo x > l && test $(cat target) = x && test -L l", here)
    assert mounted.get(f"{here.name}/target") == b"x\n"


def test_a_link_shows_its_length_and_a_listing_its_kind(here, mounted):
    mounted.put(f"{here.name}/l.rclonelink", b"../some where")
    mounted.put(f"{here.name}/d/x", b"")
    with os.scandir(here) as entries:
        kinds = {e.name: (e.is_symlink(), e.is_dir(follow_symlinks=False)) for e in entries}
    assert kinds == {"l": (True, False), "d": (False, True)}
    found = (here / "l").lstat()
    assert (stat.S_ISLNK(found.st_mode), found.st_size) == (True, 13)
    assert str((here / "l").readlink()) == "../some where"
    assert names(here) == ["d", "l"]


def test_links_keep_odd_targets(here):
    for target in (b"/", b"a b\n", b"\xff\xfe", b"x" * 4095, "\u00e9".encode()):
        (here / "l").symlink_to(os.fsdecode(target))
        assert os.fsencode((here / "l").readlink()) == target
        (here / "l").unlink()


def test_a_links_time_is_kept_and_its_owner_and_mode_are_not(here):
    (here / "l").symlink_to("x")
    os.utime(here / "l", (5, 17), follow_symlinks=False)
    os.chown(here / "l", 1, 1, follow_symlinks=False)
    found = (here / "l").lstat()
    assert (found.st_mtime, found.st_uid, found.st_mode) == (17, 12574, stat.S_IFLNK | 0o777)


def test_no_file_is_named_as_a_links_object(here):
    assert errno_of(lambda: (here / "x.rclonelink").open("w")) == errno.EINVAL
    (here / "f").write_text("x")
    assert errno_of(lambda: (here / "f").rename(here / "x.rclonelink")) == errno.EINVAL
    assert not (here / "x.rclonelink").exists()


def test_a_bad_links_object_gives_eio_and_can_be_removed(here, mounted):
    mounted.put(f"{here.name}/l.rclonelink", b"")
    assert errno_of((here / "l").readlink) == errno.EIO
    assert errno_of((here / "l").open) == errno.EIO
    (here / "l").unlink()


def test_with_symlinks_off_they_are_files(mounted, env):
    mounted.put("off/l.rclonelink", b"target")
    with served("data", "--symlinks=off", "--prefix=off/", env=env) as place:
        assert names(place) == ["l.rclonelink"]
        assert (place / "l.rclonelink").read_text() == "target"
        assert errno_of(lambda: (place / "m").symlink_to("x")) == errno.EPERM


def test_rename_flags(here):
    """RENAME_NOREPLACE is one winner; RENAME_EXCHANGE cannot be had."""
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    for old, new in (("a", "b"), ("a", "a2")):
        exchanged = errno_of(lambda o=old, n=new: renameat2(here / o, here / n, RENAME_EXCHANGE))
        assert exchanged in (errno.EINVAL, errno.ENOENT)
    assert errno_of(lambda: renameat2(here / "a", here / "b", RENAME_NOREPLACE)) == errno.EEXIST
    renameat2(here / "a", here / "c", RENAME_NOREPLACE)
    assert ((here / "b").read_text(), (here / "c").read_text()) == ("b", "a")
    assert names(here) == ["b", "c"]


def test_a_bucket_that_is_deleted_is_no_empty_directory(minio, env, tmp_path):
    minio.create_bucket("doomed")
    with served("doomed", env=env) as place:
        assert names(place) == []
        assert minio.request("DELETE", "/doomed")[0] == 204
        assert errno_of(lambda: names(place)) == errno.EIO
        assert "Input/output error" in sh(f"ls {place}", tmp_path, code=2).stderr
        assert errno_of((place / "x").stat) == errno.EIO
