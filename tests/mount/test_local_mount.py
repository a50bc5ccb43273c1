"""`csi-s3 mount` as root: what it prints, returns, and leaves behind."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from csi_s3.kernel.mountinfo import mount_at
from csi_s3.local.mount_session import _state_dir
from tests.mount.command import (
    CSI_S3,
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


def test_it_returns_0_in_the_background_when_it_is_mounted_and_umount_ends_it(env, directory):
    done = mount("data", directory, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"bucket data is mounted at {directory}\n"
    assert names(directory) == ["deep", "hello.txt"]
    assert (directory / "hello.txt").read_text() == "hello\n"
    pid = worker(directory)
    subprocess.run(["umount", directory], check=True, timeout=WITHIN_S)
    wait_gone(pid)
    assert names(directory) == []


def test_a_source_with_a_prefix_shows_what_is_below_it(env, directory):
    assert mount("s3://data/deep/er/", directory, env=env).returncode == 0
    assert names(directory) == ["note.txt"]
    assert mount_at(str(directory)).source == "s3://data/deep/er/"


def test_what_is_written_through_the_mount_is_in_the_bucket(env, directory, s3):
    assert mount("data", directory, env=env).returncode == 0
    (directory / "new.txt").write_text("through the mount\n")
    assert s3.request("GET", "/data/new.txt") == (200, b"through the mount\n")


def test_the_foreground_process_stays_until_sigterm_and_uploads_open_files(env, directory, s3):
    with foreground("data", directory, env=env) as process:
        fd = os.open(directory / "open.txt", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"not closed\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 0, process.stderr.read()
        assert s3.request("GET", "/data/open.txt") == (200, b"not closed\n")
        assert not is_mounted(directory)
        with pytest.raises(OSError, match="Transport endpoint"):
            os.close(fd)
    assert workers(directory) == []


def test_ctrl_c_ends_the_foreground_process_with_0(env, directory):
    with foreground("data", directory, env=env) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_S) == 0
    assert not is_mounted(directory)


def test_umount_ends_the_foreground_process_with_0(env, directory):
    with foreground("data", directory, env=env) as process:
        subprocess.run(["umount", directory], check=True, timeout=WITHIN_S)
        assert process.wait(WITHIN_S) == 0


def test_a_killed_worker_leaves_no_mount_and_the_foreground_process_says_so(env, directory):
    with foreground("data", directory, env=env) as process:
        os.kill(worker(directory), signal.SIGKILL)
        assert process.wait(WITHIN_S) == 1
        error = process.stderr.read()
    assert f"the process that serves {directory} ended by signal SIGKILL" in error
    assert not is_mounted(directory)


def test_sigterm_to_the_worker_in_the_background_unmounts(env, directory):
    assert mount("data", directory, env=env).returncode == 0
    pid = worker(directory)
    os.kill(pid, signal.SIGTERM)
    wait_gone(pid)
    assert not is_mounted(directory)


@pytest.mark.parametrize("times", range(3))
def test_a_directory_may_be_mounted_again_right_after_umount(env, directory, times):
    """The first worker's end must not take the second mount down."""
    assert mount("data", directory, env=env).returncode == 0
    first = worker(directory)
    os.kill(first, signal.SIGSTOP)
    subprocess.run(["umount", "-l", directory], check=True, timeout=WITHIN_S)
    assert mount("data", directory, env=env).returncode == 0
    os.kill(first, signal.SIGCONT)
    wait_gone(first)
    assert is_mounted(directory)
    assert (directory / "hello.txt").read_text() == "hello\n"


def test_a_bucket_that_does_not_exist_is_named_and_nothing_is_left(env, directory):
    done = mount("no-such-bucket", directory, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("csi-s3: error: ")
    assert "no-such-bucket" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not is_mounted(directory)
    assert workers(directory) == []


def test_a_server_that_is_not_there_is_named_and_nothing_is_left(env, directory):
    done = mount(
        "data",
        directory,
        "--aws-max-attempts=1",
        env={**env, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    )
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert not is_mounted(directory)


def test_a_second_mount_on_the_directory_is_refused(env, directory):
    assert mount("data", directory, env=env).returncode == 0
    done = mount("data", directory, env=env)
    assert done.returncode == 1
    assert f"{directory} is already a mount point: s3://data/" in done.stderr
    assert "umount" in done.stderr
    assert (directory / "hello.txt").read_text() == "hello\n"


def test_a_symlink_to_a_mounted_directory_is_refused_as_well(env, directory):
    assert mount("data", directory, env=env).returncode == 0
    link = directory.parent / "link"
    link.symlink_to(directory)
    done = mount("data", link, env=env)
    assert done.returncode == 1
    assert f"{directory} is already a mount point" in done.stderr


def test_of_many_at_once_on_one_directory_exactly_one_wins(env, directory):
    words = [*CSI_S3, "mount", "data", str(directory), "--force-path-style"]
    started = [
        subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=WITHIN_S) for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, 1, 1, 1], outputs
    assert all("mount" in err for code, (_, err) in zip(codes, outputs, strict=True) if code)
    assert len(workers(directory)) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [("absent", "No such file or directory (mkdir -p"), ("file", "it is not a directory")],
)
def test_a_target_that_is_no_directory_is_named(env, directory, name, words):
    target = directory.parent / name
    if name == "file":
        target.touch()
    done = mount("data", target, env=env)
    assert done.returncode == 1
    assert f"cannot mount on {target}" in done.stderr
    assert words in done.stderr


def test_a_read_only_mount_answers_erofs(env, directory):
    assert mount("data", directory, "--read-only", env=env).returncode == 0
    with pytest.raises(OSError, match="Read-only") as caught:
        (directory / "x").touch()
    assert caught.value.errno == errno.EROFS


def test_a_read_only_mount_leaves_a_half_done_rename_to_the_next_that_may_write(env, directory, s3):
    put(s3, "half/a", b"1")
    state = _state_dir("s3://data/", str(directory))
    state.mkdir(parents=True)
    intent = state / "rename-1.json"
    what = {"old": "half/", "new": "done/", "phase": "copying", "began": time.time() + 60}
    intent.write_text(json.dumps(what))
    try:
        assert mount("data", directory, "--read-only", env=env).returncode == 0
        names(directory)
        unmount(directory)
        assert json.loads(intent.read_text()) == what
        assert s3.request("GET", "/data/half/a") == (200, b"1")
        assert mount("data", directory, env=env).returncode == 0
        deadline = time.monotonic() + WITHIN_S
        while intent.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (directory / "done/a").read_text() == "1"
        unmount(directory)
        assert s3.request("GET", "/data/half/a")[0] == 404
    finally:
        shutil.rmtree(state, ignore_errors=True)


def unmount(directory: Path) -> None:
    pid = worker(directory)
    subprocess.run(["umount", directory], check=True, timeout=WITHIN_S)
    wait_gone(pid)


def test_without_credentials_the_error_says_so_and_no_sign_request_mounts(env, directory):
    bare = {k: v for k, v in env.items() if "KEY" not in k}
    done = mount("data", directory, env=bare)
    assert done.returncode == 1
    assert "credentials" in done.stderr
    assert mount("data", directory, "--no-sign-request", env=bare).returncode == 0
    assert (directory / "hello.txt").read_text() == "hello\n"


def test_auto_unmount_unmounts_when_the_worker_is_killed(env, directory):
    assert mount("data", directory, "--auto-unmount", env=env).returncode == 0
    assert (directory / "hello.txt").read_text() == "hello\n"
    os.kill(worker(directory), signal.SIGKILL)
    wait_unmounted(directory)


def test_the_log_directory_gets_the_workers_lines(env, directory):
    logs = directory.parent / "logs"
    assert mount("data", directory, "--debug", "--log-directory", logs, env=env).returncode == 0
    names(directory)
    (log,) = logs.iterdir()
    assert log.stat().st_mode & 0o777 == 0o640
    pid = worker(directory)
    subprocess.run(["umount", directory], check=True, timeout=WITHIN_S)
    wait_gone(pid)
    assert '"program": "worker"' in log.read_text()
    assert env["AWS_SECRET_ACCESS_KEY"] not in log.read_text()


def test_without_dev_fuse_the_error_says_what_to_do(env, directory):
    words = [*CSI_S3, "mount", "data", str(directory)]
    script = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *words],
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == 1
    assert "cannot open /dev/fuse" in done.stderr
    assert "modprobe fuse" in done.stderr


def test_mount_8_and_fstab_work_by_mount_csi_s3(env, directory):
    """In a namespace of its own, where /sbin gets the link and /etc/fstab the line."""
    helper = Path(sys.executable).with_name("mount.csi-s3")
    above = directory.parent
    words = "noauto,user,_netdev,allow-delete,force-path-style"
    line = f"s3://data/deep/ {directory} csi-s3 {words} 0 0\n"
    (above / "fstab").write_text(line)
    script = f"""set -e
        mount -t tmpfs none {above}/upper
        mkdir {above}/upper/u {above}/upper/w
        mount -t overlay -o lowerdir=/usr/sbin,upperdir={above}/upper/u,workdir={above}/upper/w \
            none /usr/sbin
        ln -s {helper} /usr/sbin/mount.csi-s3
        mount --bind {above}/fstab /etc/fstab
        mount -t csi-s3 s3://data {directory} -o ro,force-path-style
        cat {directory}/hello.txt
        umount {directory}
        mount {directory}
        ls {directory}
        grep -q " {directory} .*noexec" /proc/self/mountinfo
        umount {directory}"""
    (above / "upper").mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, done.stderr
    first, second = f"bucket data is mounted at {directory}\n", "hello\n"
    assert done.stdout == f"{first}{second}{first}er\n"
    for pid in workers(directory):
        wait_gone(pid)
