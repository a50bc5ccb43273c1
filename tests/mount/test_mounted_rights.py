"""Who may do what on a real mount, and what the log says of a refusal."""

import errno
import os

import pytest

from tests.mount.command import free_directory, mount
from tests.mount.mounted import OPEN, UID, Mounted, env, errno_of, here, minio, mounted, sh

__all__ = ["env", "here", "minio", "mounted"]


@pytest.fixture(scope="module")
def guarded(minio, env):
    """Without allow-delete and allow-overwrite, owned by root, for everybody."""
    with free_directory() as path:
        logs = path.parent / "logs"
        done = mount("data", path, "--allow-other", "--log-directory", logs, env=env)
        assert done.returncode == 0, done.stderr
        yield Mounted(minio, path, logs, env)


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda path: (path / "f").unlink(), "allow-delete"),
        (lambda path: (path / "d").rmdir(), "allow-delete"),
        (lambda path: (path / "f").write_text("x"), "allow-overwrite"),
        (lambda path: (path / "f").open("ab"), "allow-overwrite"),
        (lambda path: os.truncate(path / "f", 0), "allow-overwrite"),
    ],
)
def test_a_guard_says_eperm_and_the_log_names_the_option(guarded, call, option):
    guarded.put("guarded/f", b"there")
    guarded.put("guarded/d/", b"")
    with pytest.raises(PermissionError) as caught:
        call(guarded.path / "guarded")
    assert caught.value.errno == errno.EPERM
    # one line for each option, at most every ten seconds
    lines = [line["message"] for line in guarded.log() if line.get("code") == "not-permitted"]
    assert any("guarded/" in m and f"needs the mount option {option}" in m for m in lines)
    assert guarded.get("guarded/f") == b"there"


def test_new_files_need_no_option_and_their_creator_may_rewrite_them(guarded):
    path = guarded.path / "created"
    with path.open("wb", buffering=0) as file:
        file.write(b"first")
        file.truncate(0)
        file.seek(0)
        file.write(b"second")
    assert guarded.get("created") == b"second"
    with pytest.raises(PermissionError):
        path.unlink()


def test_a_temporary_file_of_its_creator_needs_no_option(guarded):
    path = guarded.path / "scratch"
    with path.open("w+b", buffering=0) as file:
        file.write(b"x")
        path.unlink()
        file.seek(0)
        assert file.read() == b"x"
    assert guarded.get("scratch") is None


def test_modes_and_owner_decide_for_other_users(guarded):
    """Promise: The kernel checks access by mode, uid and gid (`default_permissions`)."""
    guarded.put("private/f", b"for all to read")
    found = (guarded.path / "private/f").stat()
    assert (found.st_mode, found.st_uid, found.st_gid) == (0o100644, 0, 0)
    assert (guarded.path / "private").stat().st_mode == 0o40755
    done = sh("cat private/f; ! touch private/g; ! mkdir d", guarded.path, as_user=True)
    assert done.stdout == "for all to read"
    assert done.stderr.count("Permission denied") == 2


def test_a_pod_that_runs_as_the_volumes_uid_works_whatever_its_umask(here, mounted):
    sh("umask 077; echo x > f; mkdir d; echo y > d/g; cat f d/g; rm f", here, as_user=True)
    found = (here / "d").stat()
    assert (found.st_mode, found.st_uid, found.st_gid) == (0o40755, UID, UID)
    assert (here / "d/g").stat().st_mode == 0o100644


def test_modes_can_be_given(minio, env):
    with free_directory() as path:
        done = mount("data", path, *OPEN, "--dir-mode=0700", "--file-mode=0600", env=env)
        assert done.returncode == 0, done.stderr
        (path / "mode").write_text("x")
        assert path.stat().st_mode == 0o40700
        assert (path / "mode").stat().st_mode == 0o100600


def test_set_user_id_bits_and_devices_are_never_shown(here):
    sh("cp /bin/true t && chmod 4755 t", here)
    assert (here / "t").stat().st_mode == 0o100644


def test_a_read_only_mount_says_erofs_for_every_change(minio, env):
    """Promise: A mount with `read-only` gives EROFS for every change."""
    with free_directory() as path:
        assert mount("data", path, "--read-only", env=env).returncode == 0
        minio.request("PUT", "/data/ro", b"x", {"Content-Type": "text/plain"})
        for call in (
            (path / "new").touch,
            (path / "new").mkdir,
            (path / "ro").unlink,
            lambda: (path / "ro").write_text("y"),
            lambda: os.truncate(path / "ro", 0),
            lambda: (path / "ro").rename(path / "new"),
        ):
            assert errno_of(call) == errno.EROFS
        assert (path / "ro").read_text() == "x"
