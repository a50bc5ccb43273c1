"""`csi-s3 mount` as an ordinary user, through fusermount3."""

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from csi_s3.kernel.mountinfo import mount_at
from tests.mount.command import (
    AS_USER,
    UID,
    WITHIN_S,
    directory,
    env,
    foreground,
    is_mounted,
    mount,
    names,
    put,
    s3,
    wait_gone,
    wait_unmounted,
    worker,
    workers,
)

__all__ = ["directory", "env", "s3"]


def as_user(*words: object) -> str:
    done = subprocess.run(
        [*AS_USER, *map(str, words)], check=False, capture_output=True, text=True, timeout=WITHIN_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def dev_fuse(tmp_path_factory):
    """Open to everybody, as udev makes it; in a container only root may open it."""
    if Path("/dev/fuse").stat().st_mode & 0o666 == 0o666:
        yield
        return
    node = tmp_path_factory.mktemp("dev") / "fuse"
    os.mknod(node, 0o666 | stat.S_IFCHR, Path("/dev/fuse").stat().st_rdev)
    node.chmod(0o666)
    subprocess.run(["mount", "--bind", node, "/dev/fuse"], check=True, timeout=WITHIN_S)
    yield
    subprocess.run(["umount", "/dev/fuse"], check=True, timeout=WITHIN_S)


def test_a_dev_fuse_that_only_root_may_open_is_named(env, directory, tmp_path):
    os.mknod(tmp_path / "fuse", 0o600 | stat.S_IFCHR, Path("/dev/fuse").stat().st_rdev)
    closed = f'mount --bind {tmp_path / "fuse"} /dev/fuse && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", closed, "sh", *AS_USER]
    done = mount("data", directory, env=env, before=before)
    assert done.returncode == 1
    assert "/dev/fuse: Permission denied" in done.stderr
    assert "chmod 666 /dev/fuse" in done.stderr


@pytest.fixture
def allow_other_by_fuse_conf(directory):
    conf = directory.parent / "fuse.conf"
    conf.write_text("user_allow_other\n")
    subprocess.run(["mount", "--bind", conf, "/etc/fuse.conf"], check=True, timeout=WITHIN_S)
    yield
    subprocess.run(["umount", "/etc/fuse.conf"], check=True, timeout=WITHIN_S)


def test_an_ordinary_user_mounts_reads_writes_and_unmounts(env, directory, s3):
    done = mount("data", directory, env=env, before=AS_USER)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"bucket data is mounted at {directory}\n"
    entry = mount_at(str(directory))
    assert (entry.fs_type, entry.source) == ("fuse.csi-s3", "s3://data/")
    assert {"nosuid", "nodev"} <= entry.options
    assert as_user("stat", "-c", "%u:%g", directory / "hello.txt") == f"{UID}:{UID}\n"
    as_user("sh", "-c", f"echo mine > {directory}/mine.txt")
    assert s3.request("GET", "/data/mine.txt") == (200, b"mine\n")
    with pytest.raises(PermissionError):
        names(directory)  # no other user, not even root
    pid = worker(directory)
    as_user("fusermount3", "-u", directory)
    wait_gone(pid)
    assert not is_mounted(directory)


def test_a_failure_leaves_no_mount(env, directory):
    done = mount("no-such-bucket", directory, env=env, before=AS_USER)
    assert done.returncode == 1
    assert "no-such-bucket" in done.stderr
    assert not is_mounted(directory)
    assert workers(directory) == []


def test_a_directory_of_another_user_is_refused_with_the_reason(env, directory):
    os.chown(directory, 0, 0)
    done = mount("data", directory, env=env, before=AS_USER)
    assert done.returncode == 1
    assert f"cannot mount on {directory}" in done.stderr
    assert "that they own" in done.stderr
    assert not is_mounted(directory)


def test_a_user_without_a_name_is_told_why_fusermount3_refuses(env, directory):
    os.chown(directory, 54321, 54321)
    nameless = [word.replace(str(UID), "54321") for word in AS_USER]
    done = mount("data", directory, env=env, before=nameless)
    assert done.returncode == 1
    assert "add a line for this uid" in done.stderr


def test_allow_other_needs_the_line_in_fuse_conf(env, directory):
    done = mount("data", directory, "--allow-other", env=env, before=AS_USER)
    assert done.returncode == 2
    assert "user_allow_other" in done.stderr
    assert "/etc/fuse.conf" in done.stderr
    assert not is_mounted(directory)


def test_allow_other_lets_others_in(env, directory, allow_other_by_fuse_conf):
    done = mount("data", directory, "--allow-other", env=env, before=AS_USER)
    assert done.returncode == 0, done.stderr
    assert names(directory)[0] == "deep"


def test_allow_root_lets_root_in_and_no_other_user(env, directory, allow_other_by_fuse_conf):
    done = mount("data", directory, "--allow-root", env=env, before=AS_USER)
    assert done.returncode == 0, done.stderr
    assert names(directory)[0] == "deep"
    assert as_user("cat", directory / "hello.txt")
    stranger = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    for words in (["ls", directory], ["cat", directory / "hello.txt"]):
        turned_away = subprocess.run(
            [*stranger, *words], capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
        assert turned_away.returncode != 0
        assert "Permission denied" in turned_away.stderr


def test_allow_root_needs_the_line_in_fuse_conf(env, directory):
    done = mount("data", directory, "--allow-root", env=env, before=AS_USER)
    assert done.returncode == 2
    assert "allow-root: " in done.stderr
    assert "user_allow_other" in done.stderr
    assert not is_mounted(directory)


def test_a_read_only_mount_is_read_only(env, directory):
    assert mount("data", directory, "--read-only", env=env, before=AS_USER).returncode == 0
    assert "ro" in mount_at(str(directory)).options


def test_a_prefix_with_comma_and_backslash_is_shown_as_it_is(env, directory, s3):
    put(s3, "a%2Cro%5C/x", b"x")
    done = mount("s3://data/a,ro\\/", directory, env=env, before=AS_USER)
    assert done.returncode == 0, done.stderr
    entry = mount_at(str(directory))
    assert entry.source == "s3://data/a,ro\\/"
    assert "rw" in entry.options
    assert as_user("ls", directory) == "x\n"


def test_sigterm_to_the_foreground_process_unmounts(env, directory):
    with foreground("data", directory, env=env, before=AS_USER) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 0, process.stderr.read()
    assert not is_mounted(directory)


def test_sigterm_to_the_worker_unmounts(env, directory):
    assert mount("data", directory, env=env, before=AS_USER).returncode == 0
    pid = worker(directory)
    os.kill(pid, signal.SIGTERM)
    wait_gone(pid)
    assert not is_mounted(directory)


def test_auto_unmount_unmounts_when_the_worker_is_killed(env, directory):
    assert mount("data", directory, "--auto-unmount", env=env, before=AS_USER).returncode == 0
    os.kill(worker(directory), signal.SIGKILL)
    wait_unmounted(directory)


def test_without_fusermount3_the_error_says_what_to_install(env, directory):
    missing = 'mount --bind /dev/null "$(command -v fusermount3)" && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", missing, "sh", *AS_USER]
    done = mount("data", directory, env=env, before=before)
    assert done.returncode == 1
    assert "fusermount3 is not installed" in done.stderr
    assert "package fuse3" in done.stderr
