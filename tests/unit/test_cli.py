"""What a person sees who starts csi-s3 and asks wrongly, or for help."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import csi_s3


def csi_s3_says(*words: str, name: str = "csi-s3") -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(name)
    return subprocess.run(
        [program, *words], check=False, capture_output=True, text=True, timeout=60
    )


def test_help_names_the_programs():
    done = csi_s3_says("--help")
    assert done.returncode == 0
    for name in ("mount", "demo", "node", "mounter", "csi"):
        assert f"  {name} " in done.stdout


def test_the_version_is_the_packages():
    assert csi_s3_says("--version").stdout == f"csi-s3 {csi_s3.__version__}\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "no command given"),
        (["mont"], "unknown command 'mont'"),
        (["mount", "b"], "DIRECTORY is missing"),
        (["mount", "b", "d", "--alow-delete"], "--allow-delete"),
        (["node", "--endpoint", "unix:///x"], "--node-id is missing"),
        (["mounter"], "--socket is missing"),
    ],
)
def test_a_wrong_question_is_one_line_and_exit_code_2(words, error):
    done = csi_s3_says(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("csi-s3: error: ")
    assert error in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_comes_from_outside_cannot_drive_the_terminal():
    done = csi_s3_says("\x1b[2J\nok")
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["mount-s3", "mount.csi-s3"])
def test_other_names_are_the_mount_command(name):
    assert csi_s3_says("--help", name=name).stdout == csi_s3_says("mount", "--help").stdout
    assert "BUCKET is missing" in csi_s3_says(name=name).stderr


def test_a_link_to_csi_s3_with_the_name_of_mount_s3_is_the_mount_command(tmp_path):
    link = tmp_path / "mount-s3"
    link.symlink_to(Path(sys.executable).with_name("csi-s3"))
    done = subprocess.run([link, "--help"], check=False, capture_output=True, text=True, timeout=60)
    assert "mount-s3 BUCKET" in done.stdout


def test_help_of_the_mount_command_imports_neither_s3_nor_fuse():
    script = (
        "import sys; sys.argv = ['csi-s3', 'mount', '--help']\n"
        "from csi_s3.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'aiohttp', 'botocore', 'pyfuse3', 'grpc', 'uvloop'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.endswith("set()\n"), done.stderr


FIRST_PROCESS = """
import os, signal, sys
from csi_s3 import cli

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGTERM)
            print("went on", flush=True)

assert os.getpid() == 1
sys.meta_path.insert(0, Importing())
sys.exit(cli._PROGRAMS[sys.argv[1]](sys.argv[3:]))
"""
NODE = [
    "--endpoint=unix:///x",
    "--node-id=n",
    "--state-dir=/x",
    "--kubelet-dir=/x",
    "--mounter=/x/m",
]


@pytest.mark.parametrize(
    ("program", "loads", "words"),
    [
        ("node", "csi_s3.node.server", NODE),
        ("mounter", "csi_s3.mounter.keeper", ["--socket=/x/m"]),
    ],
)
def test_a_containers_first_process_ends_at_sigterm_while_it_still_loads(program, loads, words):
    """It has no default handler: the signal would be lost."""
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", FIRST_PROCESS,
         program, loads, *words],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stdout == ""
