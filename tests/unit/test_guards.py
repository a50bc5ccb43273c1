"""The guards of tests/guards.py, each seen to fail the test that it is there for."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests import watchdog

ROOT = Path(__file__).parents[2]
LIST = """
import os, sys
try:
    os.listdir(sys.argv[1])
except OSError as exc:
    print(exc.strerror)
"""


@pytest.fixture
def session(tmp_path):
    """Run a test module of its own under the guards; return its exit status and output."""

    def run(source: str) -> tuple[int, str]:
        module = tmp_path / "test_inner.py"
        module.write_text(textwrap.dedent(source))
        options = ["-q", "-p", "tests.guards", "-p", "no:cacheprovider"]
        where = ["-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, module]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *where],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_task_left_running_fails_the_test_by_name(session):
    status, out = session("""
        import asyncio
        async def forgotten(): await asyncio.sleep(60)
        async def test_it():
            asyncio.get_running_loop().create_task(forgotten())
    """)
    assert status == 1
    assert "task left running" in out
    assert "forgotten" in out


def test_a_task_that_a_fixture_ends_is_no_fault(session):
    status, out = session("""
        import asyncio, pytest
        @pytest.fixture
        async def beat():
            task = asyncio.get_running_loop().create_task(asyncio.sleep(60))
            yield
            task.cancel()
        async def test_it(beat): await asyncio.sleep(0)
    """)
    assert status == 0, out


def test_a_descriptor_left_open_fails_the_test(session):
    status, out = session("""
        import os
        def test_it(): os.open("/dev/null", os.O_RDONLY)
    """)
    assert status == 1
    assert "descriptor left open" in out
    assert "/dev/null" in out


def test_a_session_fixture_keeps_its_descriptors_loops_and_mounts(session):
    status, out = session("""
        import os, pytest, pytest_asyncio
        from tests import watchdog
        @pytest.fixture(scope="session")
        def server(tmp_path_factory):
            path, fd = tmp_path_factory.mktemp("m"), os.open("/dev/null", os.O_RDONLY)
            watchdog._call("mount", b"none", os.fsencode(path), b"tmpfs", 0, None)
            yield
            watchdog._call("umount2", os.fsencode(path), 0)
            os.close(fd)
        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def client(): yield 1
        def test_one(server): pass
        def test_two(server, client): pass
        @pytest.mark.asyncio(loop_scope="module")
        async def test_three(server, client): pass
    """)
    assert status == 0, out


def test_an_undeclared_warning_of_ours_fails_and_a_declared_one_does_not(session):
    status, out = session("""
        import logging, pytest
        log = logging.getLogger("csi_s3.s3.bucket")
        def test_undeclared(): log.warning("upload %s refused", "u1")
        @pytest.mark.warnings_expected("s3.bucket: upload .* refused")
        def test_declared(): log.warning("upload %s refused", "u2")
        def test_info(): log.info("fine")
        def test_library(): logging.getLogger("botocore").warning("theirs")
    """)
    assert status == 1
    assert "undeclared WARNING in the log: csi_s3.s3.bucket: upload u1 refused" in out
    assert "u2" not in out
    assert "4 passed, 1 error" in out


def test_a_mount_left_behind_fails_its_test_only(session):
    status, out = session("""
        import os
        from tests import watchdog
        def test_it(tmp_path):
            watchdog._call("mount", b"none", os.fsencode(tmp_path), b"tmpfs", 0, None)
        def test_after(): pass
    """)
    assert status == 1
    assert "mount left behind" in out
    assert "2 passed, 1 error" in out


def test_a_failed_test_is_not_blamed_for_what_it_left(session):
    status, out = session("""
        import os
        def test_it():
            os.open("/dev/null", os.O_RDONLY)
            assert False
    """)
    assert status == 1
    assert "descriptor left open" not in out


def test_a_state_machine_runs_under_the_guards(session):
    status, out = session("""
        from hypothesis import settings
        from hypothesis.stateful import RuleBasedStateMachine, rule
        class Machine(RuleBasedStateMachine):
            @rule()
            def step(self): pass
        TestMachine = Machine.TestCase
        TestMachine.settings = settings(max_examples=2, stateful_step_count=2, database=None)
    """)
    assert status == 0, out


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
    assert caller.communicate(timeout=20)[0].strip() in {
        "Transport endpoint is not connected",
        "Software caused connection abort",
    }
    guard.stdin.close()
    assert guard.wait(20) == watchdog.FOUND
    assert str(tmp_path) in guard.stderr.read()
    guard.stdout.close()
    guard.stderr.close()
    os.close(fuse)


def _wait_asleep_in(pid: int, function: str) -> None:
    """Wait until the process sleeps in that function of the kernel."""
    deadline = time.monotonic() + 20
    while function not in (seen := Path(f"/proc/{pid}/wchan").read_text()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.01)


def test_the_session_is_in_a_mount_namespace_of_its_own():
    assert os.geteuid() == 0, "the tests mount FUSE: run them as root"
    parent = Path(f"/proc/{os.getppid()}/ns/mnt").readlink()
    assert Path("/proc/self/ns/mnt").readlink() != parent
