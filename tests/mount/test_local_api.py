"""`csi_s3.Mount`: a bucket as a directory for the time of a `with` block."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import csi_s3
from csi_s3.errors import BadOptionError, MountError, NoSuchBucketError, WorkerDiedError
from tests.mount.command import (
    WITHIN_S,
    directory,
    env,
    free_directory,
    is_mounted,
    s3,
    worker,
    workers,
)

__all__ = ["directory", "env", "s3"]


@pytest.fixture(autouse=True)
def environment(env, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, env[name])


@pytest.fixture
def options(s3):
    return {"endpoint_url": s3.endpoint, "force_path_style": True}


def test_the_block_has_the_bucket_and_after_it_nothing_is_left(directory, options, s3):
    with csi_s3.Mount("s3://data/deep/", directory, **options) as path:
        assert path == directory
        assert (path / "er" / "note.txt").read_text() == "hello\n"
        (path / "api.txt").write_text("written\n")
        words = Path(f"/proc/{worker(directory)}/cmdline").read_bytes()
        assert b"csi_s3\0worker" in words  # another program, not a fork of this one
    assert s3.request("GET", "/data/deep/api.txt") == (200, b"written\n")
    assert not is_mounted(directory)
    assert workers(directory) == []


def test_mount_and_unmount_without_a_block_and_again(directory, options):
    mount = csi_s3.Mount("data", directory, read_only=True, **options)
    for _ in range(2):
        assert mount.mount() == directory
        assert mount.is_mounted
        with pytest.raises(OSError, match="Read-only"):
            (directory / "x").touch()
        mount.unmount()
        mount.unmount()
        assert not is_mounted(directory)


def test_anonymous_needs_no_credentials(directory, options, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with csi_s3.Mount("data", directory, anonymous=True, **options) as path:
        assert (path / "hello.txt").read_text() == "hello\n"


def test_two_mounts_on_one_directory_are_an_error_and_the_first_goes_on(directory, options):
    with csi_s3.Mount("data", directory, **options) as path:
        with pytest.raises(MountError, match="is already a mount point: s3://data/"):
            csi_s3.Mount("s3://data/deep/", directory, **options).mount()
        assert (path / "hello.txt").read_text() == "hello\n"


def test_errors_are_classes_of_ours(directory, options):
    with pytest.raises(NoSuchBucketError, match="nothing-here"):
        csi_s3.Mount("nothing-here", directory, **options).mount()
    assert not is_mounted(directory)
    with pytest.raises(BadOptionError, match="allow-delete"):
        csi_s3.Mount("data", directory, alow_delete=True)
    with pytest.raises(BadOptionError, match="foreground"):
        csi_s3.Mount("data", directory, foreground=True)


def test_a_worker_that_was_killed_is_reported_at_the_end_and_unmounted(directory, options):
    mount = csi_s3.Mount("data", directory, **options)
    mount.mount()
    os.kill(worker(directory), signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        mount.unmount()
    assert not is_mounted(directory)


def test_the_blocks_own_error_comes_out_with_a_note(directory, options):
    def block() -> None:
        with csi_s3.Mount("data", directory, **options):
            os.kill(worker(directory), signal.SIGKILL)
            raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        block()
    assert "SIGKILL" in caught.value.__notes__[0]


def test_it_works_from_threads_several_at_once(options):
    seen = []

    def work() -> None:
        with free_directory() as path, csi_s3.Mount("data", path, **options) as there:
            seen.append((there / "hello.txt").read_text())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert seen == ["hello\n"] * 3


async def test_it_works_below_a_running_loop_as_in_a_notebook(directory, options):
    with csi_s3.Mount("data", directory, **options) as path:
        assert (path / "hello.txt").read_text() == "hello\n"
    assert not is_mounted(directory)


def test_the_end_of_the_interpreter_unmounts(directory, options, env):
    script = (
        "import csi_s3, sys\n"
        "csi_s3.Mount('data', sys.argv[1], force_path_style=True).mount()\n"
        "open(sys.argv[1] + '/at-exit.txt', 'w').write('x')\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(directory)], env=env, check=True, timeout=WITHIN_S
    )
    assert not is_mounted(directory)
    assert workers(directory) == []


def test_a_forked_child_does_not_end_the_mount_of_its_parent(directory, options, env):
    script = (
        "import csi_s3, os, sys\n"
        "with csi_s3.Mount('data', sys.argv[1], force_path_style=True) as path:\n"
        "    pid = os.fork()\n"
        "    if pid == 0: sys.exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "    print((path / 'hello.txt').read_text())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        env=env,
        check=True,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.stdout == "hello\n\n"


def test_a_mount_that_was_made_in_a_forked_child_is_ended_there(directory, options, env):
    """As a pool of processes does it, whose parent made the object."""
    script = (
        "import csi_s3, os, sys\n"
        "mount = csi_s3.Mount('data', sys.argv[1], force_path_style=True)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    with mount as path:\n"
        "        os.listdir(path)\n"
        "    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(directory)], env=env, check=True, timeout=WITHIN_S
    )
    assert not is_mounted(directory)
    assert workers(directory) == []


def test_an_option_without_effect_is_a_warning(directory):
    with pytest.warns(UserWarning, match="option --cache has no effect: there is no disk cache"):
        csi_s3.Mount("data", directory, cache="/somewhere")


def test_anonymous_is_anonymous_whatever_else_is_given(directory):
    mount = csi_s3.Mount("data", directory, anonymous=True, no_sign_request=False)
    assert mount._command.config.bucket.no_sign_request
