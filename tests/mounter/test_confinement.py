"""A worker in which code runs: what it can reach of another volume's."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from csi_s3.kernel import landlock

ALLOWED = {"own state", "own port", "name service", "pair of sockets"}
FILES = {"state", "plant", "list", "link", "another file", "program"}
PORTS, SIGNALS = {"other port", "listen"}, {"signal"}
WITHIN_S = 120
PID_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture
def directory():
    """Where a user other than root may go, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="csi-s3-test-", dir="/tmp") as made:
        path = Path(made)
        path.chmod(0o755)
        for name in ("victim", "hostile"):
            (path / name).mkdir(mode=0o700)
            os.chown(path / name, 65532, 65532)
        (path / "victim/kept").write_bytes(b"bytes of another volume")
        os.chown(path / "victim/kept", 65532, 65532)
        (path / "token").write_bytes(b"of another identity")
        yield path


@pytest.fixture
def ports():
    """Two ports that answer: of the store, and of something else."""
    here = ("127.0.0.1", 0)
    with socket.create_server(here) as store, socket.create_server(here) as other:
        yield store.getsockname()[1], other.getsockname()[1]


def attack(directory, ports, how: str) -> dict[str, str]:
    with socket.socket(socket.AF_UNIX) as node:
        node.bind(str(directory / "node.sock"))
        (directory / "node.sock").chmod(0o777)
        node.listen()
        command = [sys.executable, "-m", "tests.mounter.hostile_worker", str(directory)]
        done = subprocess.run(
            [*PID_NAMESPACE, *command, *map(str, ports), how],
            capture_output=True,
            timeout=WITHIN_S,
            check=False,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


WITHOUT_LANDLOCK = """
import ctypes, logging, struct
from csi_s3.kernel.process_limits import give_up_privileges
from csi_s3.mounter.confinement import confine
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.s3.reach import Reach

class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))

# landlock_create_ruleset fails with EPERM, as under the profile of an older container runtime
checks = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *check) for check in checks)
give_up_privileges()
assert ctypes.CDLL(None).prctl(22, 2, ctypes.byref(Program(4, code)), 0, 0) == 0
logging.basicConfig(format="%(levelname)s %(message)s")
confine(Reach(files=[], ports=set()), None)
print(metrics.LANDLOCK_ABI.values())
print(open("/etc/hosts").read() and "still there")
"""


def test_a_kernel_without_landlock_is_named_and_the_volume_is_served():
    command = [sys.executable, "-c", WITHOUT_LANDLOCK]
    done = subprocess.run(command, capture_output=True, timeout=WITHIN_S, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING this kernel has no Landlock" in done.stderr
    assert done.stdout.splitlines() == ["{(): 0}", "still there"]


def test_without_walls_each_attack_succeeds(directory, ports):
    outcomes = attack(directory, ports, "open")
    outcomes.pop("io_uring")  # the machine's own setting
    assert {name: text for name, text in outcomes.items() if text != "done"} == {}


def test_a_hostile_worker_reaches_nothing_of_another_volume(directory, ports):
    """Or no more than its kernel's Landlock lacks."""
    abi = landlock.abi()
    lacks = SIGNALS if abi < landlock.SIGNALS_ABI else set()
    lacks |= PORTS if abi < landlock.PORTS_ABI else set()
    lacks |= set() if abi else FILES
    outcomes = attack(directory, ports, "confined")
    assert {name for name, text in outcomes.items() if text == "done"} == ALLOWED | lacks
    assert set(outcomes.values()) <= {"done", "EACCES", "EPERM", "EXDEV"}
