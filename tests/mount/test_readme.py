"""The docs' commands for one machine, run as written but for the names in capitals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount.command import (
    WITHIN_S,
    directory,
    env,
    s3,
    wait_gone,
    workers,
)
from tests.readme import blocks, put_in, script
from tests.servers import REGION

__all__ = ["directory", "env", "s3"]
PAGE = "docs/command-line.md"


@pytest.fixture
def shell(env, tmp_path):
    """Runs blocks in a bash that has the commands on its PATH; returns what they print."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(*pasted: str) -> str:
        done = subprocess.run(
            ["bash", "-e"],
            input=script(*pasted),
            env={**env, "PATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_in_a_shell(shell, directory):
    block, _ = blocks(PAGE, "## Mount from a shell")
    names = {
        "s3://BUCKET/PREFIX/": "s3://data/deep/",
        "mount BUCKET": "mount data",
        "DIRECTORY": str(directory),
        "REGION": REGION,
    }
    printed = shell(put_in(block, names), f"cat {directory}/er/note.txt\numount {directory}\n")
    assert printed == f"bucket data is mounted at {directory}\n" * 2 + "hello\n"


def test_in_fstab(shell, directory):
    """In a namespace of its own, where /sbin can get the link and /etc/fstab the line."""
    _, line = blocks(PAGE, "## Mount from a shell")
    above = directory.parent
    (above / "upper").mkdir()
    (above / "fstab").write_text(
        put_in(line, {"BUCKET/PREFIX/": "data/deep/", "/mnt/data": str(directory)})
    )
    inside = f"""
        mount -t tmpfs none {above}/upper
        mkdir {above}/upper/u {above}/upper/w
        mount -t overlay -o lowerdir=/usr/sbin,upperdir={above}/upper/u,workdir={above}/upper/w \\
            none /usr/sbin
        ln -s "$(command -v mount.csi-s3)" /sbin/mount.csi-s3
        mount --bind {above}/fstab /etc/fstab
        mount {directory}
        cat {directory}/er/note.txt
        umount {directory}
    """
    printed = shell(f"unshare --mount bash -e <<'END'\n{inside}\nEND\n")
    assert printed == f"bucket data is mounted at {directory}\nhello\n"
    for pid in workers(directory):
        wait_gone(pid)


def test_in_python(env, directory):
    (block,) = blocks(PAGE, "## Mount from Python")
    names = {"s3://bucket/prefix/": "s3://data/deep/", "/data/here": str(directory)}
    done = subprocess.run(
        [sys.executable, "-c", put_in(block, names)],
        env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"[PosixPath('{directory}/er')]\n"


def test_the_demo_on_a_bucket(shell, s3):
    make, block = blocks(PAGE, "## Demo")
    assert make == "make demo\n"  # test_local_demo runs it
    names = {
        "BUCKET": "data",
        "[--endpoint-url URL]": f"--endpoint-url {s3.endpoint}",
        "[--region REGION]": f"--region {REGION}",
        ".venv/bin/": "",
    }
    assert "nothing is left" in shell(put_in(block, names))


def test_the_driver_by_hand(shell, tmp_path):
    (block,) = blocks(PAGE, "## Run the driver by hand")
    printed = shell(put_in(block, {"/tmp/csi": str(tmp_path / "csi"), "BUCKET": "data"}), "wait\n")
    assert " hello.txt\n" in printed
    assert not (tmp_path / "csi" / "kubelet" / "pods" / "mount").exists()
