"""The guards of tests/guards.py, each seen to fail the test that it is there for."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import watchdog

ROOT = Path(__file__).parents[2]
WITHIN_S = 60
LIST = """
import os, sys
try:
    os.listdir(sys.argv[1])
except OSError as exc:
    print(exc.strerror)
"""
INNER = """
import asyncio, logging, os, time
import pytest, pytest_asyncio
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule
from tests import slow_steps, watchdog

log = logging.getLogger("csi_s3.s3.bucket")

async def forgotten():
    await asyncio.sleep(60)

async def test_leaves_task():
    asyncio.get_running_loop().create_task(forgotten())

@pytest.fixture
async def beat():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(60))
    yield
    task.cancel()

async def test_task_of_a_fixture(beat):
    await asyncio.sleep(0)

async def computing(share):
    until = time.thread_time() + share * slow_steps.bound_s()
    while time.thread_time() < until:
        pass

async def test_has_a_long_step():
    await asyncio.get_running_loop().create_task(computing(1.1))

async def test_has_a_short_step():
    await asyncio.get_running_loop().create_task(computing(0.5))

def test_leaves_descriptor():
    os.open("/dev/null", os.O_RDONLY)

def test_leaves_descriptor_and_fails():
    os.open("/dev/null", os.O_RDONLY)
    assert False

def mount(path):
    watchdog._call("mount", b"none", os.fsencode(path), b"tmpfs", 0, None)

def test_leaves_mount(tmp_path):
    mount(tmp_path)

@pytest.fixture(scope="session")
def server(tmp_path_factory):
    path, fd = tmp_path_factory.mktemp("m"), os.open("/dev/null", os.O_RDONLY)
    mount(path)
    yield
    watchdog._call("umount2", os.fsencode(path), 0)
    os.close(fd)

@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client():
    yield 1

def test_session_fixture(server):
    pass

def test_module_loop(server, client):
    pass

@pytest.mark.asyncio(loop_scope="module")
async def test_in_module_loop(server, client):
    pass

def test_undeclared():
    log.warning("upload %s refused", "u1")

@pytest.mark.warnings_expected("s3.bucket: upload .* refused")
def test_declared():
    log.warning("upload %s refused", "u2")

def test_info():
    log.info("fine")

def test_of_a_library():
    logging.getLogger("botocore").warning("theirs")

class Machine(RuleBasedStateMachine):
    @rule()
    def step(self):
        pass

TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=2, stateful_step_count=2, database=None)
"""


@pytest.fixture(scope="module")
def inner(tmp_path_factory) -> dict[str, str]:
    """Run INNER under the guards: what each test's teardown was blamed for, "" if for nothing."""
    directory = tmp_path_factory.mktemp("inner")
    module = directory / "test_inner.py"
    module.write_text(INNER)
    options = ["-v", "-p", "tests.guards", "-p", "no:cacheprovider"]
    where = ["-c", ROOT / "pyproject.toml", "--rootdir", directory]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *where, "--basetemp", directory / "t", module],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    names = re.findall(r"test_inner\.py::(\S+) PASSED|test_inner\.py::(\S+) FAILED", done.stdout)
    blamed = {name or failed: "" for name, failed in names}
    sections = re.split(r"^_+ ERROR at teardown of (\S+) _+$", done.stdout, flags=re.MULTILINE)
    for name, text in zip(sections[1::2], sections[2::2], strict=True):
        blamed[name] = text.partition("\n=====")[0]
    assert len(blamed) == 15, done.stdout
    return blamed


def test_a_task_left_running_fails_the_test_by_name(inner):
    assert re.search(r"task left running: .*forgotten", inner["test_leaves_task"])


def test_a_task_that_a_fixture_ends_is_no_fault(inner):
    assert inner["test_task_of_a_fixture"] == ""


def test_a_step_that_holds_the_event_loop_fails_the_test(inner):
    assert "a step held the event loop: computing ran for" in inner["test_has_a_long_step"]


def test_a_step_within_the_bound_is_no_fault(inner):
    assert inner["test_has_a_short_step"] == ""


def test_a_descriptor_left_open_fails_the_test(inner):
    assert re.search(r"descriptor left open: \d+ -> /dev/null", inner["test_leaves_descriptor"])


def test_a_failed_test_is_not_blamed_for_what_it_left(inner):
    assert inner["test_leaves_descriptor_and_fails"] == ""


def test_a_mount_left_behind_fails_the_test(inner):
    assert re.search(r"mount left behind: .* \(tmpfs\)", inner["test_leaves_mount"])


@pytest.mark.parametrize("name", ["session_fixture", "module_loop", "in_module_loop"])
def test_a_wider_fixture_keeps_its_descriptors_loops_and_mounts(inner, name):
    assert inner[f"test_{name}"] == ""


def test_an_undeclared_warning_of_ours_fails_the_test(inner):
    expected = "undeclared WARNING in the log: csi_s3.s3.bucket: upload u1 refused"
    assert expected in inner["test_undeclared"]


@pytest.mark.parametrize("name", ["declared", "info", "of_a_library"])
def test_what_is_declared_or_quiet_or_not_ours_is_no_fault(inner, name):
    assert inner[f"test_{name}"] == ""


def test_a_state_machine_runs_under_the_guards(inner):
    assert inner["TestMachine::runTest"] == ""


@pytest.mark.parametrize("end", ["the session's end", "an overdue session"])
def test_the_watchdog_frees_who_hangs_in_a_silent_fuse_mount(tmp_path, end):
    guard = subprocess.Popen(
        [sys.executable, "-I", watchdog.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert guard.stdout.readline() == "ready\n"
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    watchdog._call("mount", b"silent", os.fsencode(tmp_path), b"fuse", 0, options)
    caller = subprocess.Popen(
        [sys.executable, "-c", LIST, tmp_path], stdout=subprocess.PIPE, text=True
    )
    os.read(fuse, 1 << 20)  # INIT: the daemon took it and will never answer
    _wait_asleep_in(caller.pid, "fuse")
    if end == "the session's end":
        guard.stdin.close()
    else:
        guard.stdin.write(f"{-watchdog.MARGIN_S}\n")
        guard.stdin.flush()
    assert caller.communicate(timeout=WITHIN_S)[0].strip() in {
        "Transport endpoint is not connected",
        "Software caused connection abort",
    }
    guard.stdin.close()
    assert guard.wait(WITHIN_S) == watchdog.FOUND
    assert str(tmp_path) in guard.stderr.read()
    guard.stdout.close()
    guard.stderr.close()
    os.close(fuse)


def _wait_asleep_in(pid: int, function: str) -> None:
    """Wait until the process sleeps in a function of the kernel whose name has this part."""
    deadline = time.monotonic() + WITHIN_S
    while function not in (seen := Path(f"/proc/{pid}/wchan").read_text()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.01)


def test_the_session_is_in_a_mount_namespace_of_its_own():
    assert os.geteuid() == 0, "the tests mount FUSE: run them as root"
    parent = Path(f"/proc/{os.getppid()}/ns/mnt").readlink()
    assert Path("/proc/self/ns/mnt").readlink() != parent
