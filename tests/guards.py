"""Guards that fail a test for what it leaves behind, and hide its mounts from the machine.

Every test is checked for

- an asyncio task that is still running when its fixtures are gone;
- an open descriptor or a mount that was not there before it (what a fixture of a wider scope than
  "function" opened while it was set up belongs to that fixture, and is allowed);
- a step of an asyncio task that holds the event loop for too long (`tests.slow_steps`), in this
  process; fixtures that start workers look into the workers' logs;
- a WARNING or worse from the loggers of csi_s3 or asyncio that it did not declare with
  `@pytest.mark.warnings_expected("regular expression", ...)`, searched in "logger: message".

The session runs in a mount namespace of its own (as root), with `tests.watchdog` beside it.
"""

import asyncio
import ctypes
import gc
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from tests import slow_steps, watchdog

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
SETTLE_S = 3.0  # a server thread closes its end of a connection a little later

Descriptors = frozenset[tuple[int, str]]
FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "warnings_expected(*regex): warnings that this test may cause in the log"
    )
    config.pluginmanager.register(Guards(own_namespace=_own_mount_namespace()), "guards-state")


def _own_mount_namespace() -> bool:
    """Leave the machine's mount namespace; without root this is neither possible nor needed."""
    if os.geteuid() != 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.unshare(CLONE_NEWNS) != 0
        or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0
    ):
        raise OSError(ctypes.get_errno(), "cannot give the test session its own mount namespace")
    return True


class Guards:
    """What existed before a test, and what may remain after it."""

    def __init__(self, *, own_namespace: bool) -> None:
        self._own_namespace = own_namespace
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._log = _Collector()
        self._fds: Descriptors = frozenset()
        self._kept_fds: Descriptors = frozenset()
        self._mounts: frozenset[watchdog.Mount] = frozenset()
        self._kept_mounts: frozenset[watchdog.Mount] = frozenset()

    def pytest_report_header(self) -> str:
        return "mount namespace: " + ("its own" if self._own_namespace else "shared (not root)")

    def pytest_sessionstart(self) -> None:
        uvloop.new_event_loop().close()  # with its first loop, libuv opens a pipe that stays open
        slow_steps.switch_on()
        for name in ("csi_s3", "asyncio"):
            logging.getLogger(name).addHandler(self._log)
        if self._own_namespace:
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", watchdog.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            self._watchdog.stdout.readline()

    def pytest_unconfigure(self) -> None:
        for name in ("csi_s3", "asyncio"):
            logging.getLogger(name).removeHandler(self._log)
        if self._watchdog is not None:
            self._watchdog.stdin.close()
            self._watchdog.stdout.close()
            if self._watchdog.wait(60) == watchdog.FOUND:
                raise pytest.UsageError("the session left FUSE mounts; see the watchdog's line")

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_set_timer(self, item, settings) -> None:
        self._expect(settings.timeout or 0)

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_cancel_timer(self, item) -> None:
        self._expect(0)

    def _expect(self, seconds: float) -> None:
        if self._watchdog is not None:
            os.write(self._watchdog.stdin.fileno(), f"{seconds}\n".encode())

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        fds, mounts = descriptors(), watchdog.mounts()
        try:
            return (yield)
        finally:
            self._kept_fds |= descriptors() - fds
            self._kept_mounts |= watchdog.mounts() - mounts

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item):
        self._fds, self._mounts = descriptors(), watchdog.mounts()
        self._log.records.clear()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item, nextitem):
        result = yield
        faults = list(self._mounts_left())
        if item.stash.get(FAILED, False):
            return result  # a failed test may leave anything
        faults += [*self._descriptors_left(), *self._log_lines(item)]
        if faults:
            pytest.fail("\n".join(faults), pytrace=False)
        return result

    def _mounts_left(self) -> Iterable[str]:
        left = watchdog.mounts() - self._mounts - self._kept_mounts
        if left and self._own_namespace:
            watchdog.abort(left)
        for mount in left:
            yield f"mount left behind: {mount.path} ({mount.fstype})"

    def _descriptors_left(self) -> Iterable[str]:
        def left() -> Descriptors:
            return descriptors() - self._fds - self._kept_fds

        if left():
            gc.collect()
        until = time.monotonic() + SETTLE_S
        while left() and time.monotonic() < until:
            time.sleep(0.02)
        for number, target in sorted(left()):
            yield f"descriptor left open: {number} -> {target}"

    def _log_lines(self, item) -> Iterable[str]:
        declared = [regex for m in item.iter_markers("warnings_expected") for regex in m.args]
        for record in self._log.records:
            line = f"{record.name}: {record.getMessage()}"
            if not any(re.search(regex, line) for regex in declared):
                yield f"undeclared {record.levelname} in the log: {line}"


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def descriptors() -> Descriptors:
    """This process's open descriptors, each with what it refers to."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((int(entry.name), str(entry.readlink())))
        except FileNotFoundError:
            continue  # the listing's own
    return frozenset(found)


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest) -> None:
    """Set up before, and so torn down after, all other fixtures of the test."""
    if pytest_asyncio.is_async_test(request.node):
        marker = request.node.get_closest_marker("asyncio")
        scope = (marker.kwargs.get("loop_scope") if marker else None) or "function"
        request.getfixturevalue(f"no_task_left_in_{scope}_loop")


def _task_guard(scope: str) -> Callable[..., object]:
    @pytest_asyncio.fixture(loop_scope=scope, name=f"no_task_left_in_{scope}_loop")
    async def guard():
        before = asyncio.all_tasks()
        slow_steps.watched_steps().watch(asyncio.get_running_loop())
        yield
        for _ in range(5):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if left:
            names = "\n".join(f"task left running: {task!r}" for task in left)
            pytest.fail(names, pytrace=False)

    return guard


function_guard = _task_guard("function")
class_guard = _task_guard("class")
module_guard = _task_guard("module")
session_guard = _task_guard("session")
