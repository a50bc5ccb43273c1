"""One mount for one case: made, waited for, loaded, counted, and ended with certainty.

A mount whose daemon is silent hangs every process that touches it. So this process never looks
into one: bench/load does, under a deadline, and at its end the connection is aborted through
fusectl, which frees the load, before anything is killed or unmounted.
"""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench import procs
from bench.cases import READY_ENTRY
from bench.systems import Place, System

STOP_S = 15
# Go would interrupt system calls of the load to preempt it, and FUSE passes interrupts on
LOAD_ENV = {"PATH": os.environ["PATH"], "LC_ALL": "C", "GODEBUG": "asyncpreemptoff=1"}


class NotMountedError(Exception):
    """The system did not come to a readable directory; says why."""


class OverLimitError(Exception):
    """The load did not end in time; the mount has been aborted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What bench/load said."""

    seconds: float
    ended: float
    ops: int
    bytes: int
    cut: bool
    error: str = ""


class Mount:
    """Lifetime: `start` once, then loads, then `stop`, which is due even if start failed."""

    is_whole_system = True  # if this cannot be mounted, no case can be measured

    def __init__(self, system: System, place: Place, load: Path) -> None:
        self._system, self._place, self._load_program = system, place, load
        self._log = place.work / f"{system.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._roots: set[int] = set()
        self._aborted = False

    @property
    def directory(self) -> Path:
        return self._place.directory

    def start(self, *, limit_s: float) -> float:
        """Mount; the seconds from the command to the readable directory.

        Raises:
            NotMountedError: the command failed, or the limit passed.

        """
        self.directory.mkdir()
        waiting = self._begin_load("ready", str(self.directory), READY_ENTRY)
        began = time.time()
        self._process = self._spawn(self._system.command(self._place))
        return self._wait_ready(waiting, limit_s) - began

    def stop(self) -> None:
        """Unmount, wait for the daemon, kill what is left."""
        self._roots |= procs.tree(self._roots)  # before their parent is gone
        try:
            done = subprocess.run(
                ["umount", str(self.directory)], capture_output=True, timeout=STOP_S, check=False
            )
            if done.returncode != 0 and self._connection():
                self.abort()
        except subprocess.TimeoutExpired:
            self.abort()
        self._wait_ended()
        self.directory.rmdir()

    def abort(self) -> None:
        """End the connection, so that its callers get errors, and hide the mount."""
        self._aborted = True
        if connection := self._connection():
            switch = self._place.work / "fusectl" / connection / "abort"
            if switch.exists():
                switch.write_text("1")
        subprocess.run(
            ["umount", "-l", str(self.directory)], capture_output=True, timeout=STOP_S, check=False
        )

    def usage(self) -> procs.Usage:
        return procs.usage(self._roots)

    def load(self, words: list[str], *, budget_s: float | None, limit_s: float) -> Loaded:
        """Run bench/load on the mount.

        Raises:
            OverLimitError: it did not end.

        """
        budget = [] if budget_s is None else [f"-for={budget_s}s"]
        process = self._begin_load(*budget, *words)
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.abort()
            self._end_load(process)
            raise OverLimitError(f"> {limit_s:g} s") from None
        if process.returncode != 0:
            raise RuntimeError(f"load {words}: exit {process.returncode}")
        return Loaded(**json.loads(said))

    def _begin_load(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(self._load_program), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=LOAD_ENV,
            start_new_session=True,
        )

    def _end_load(self, process: subprocess.Popen[bytes]) -> None:
        for pid in procs.tree({process.pid}):  # with the `ls` that it may have started
            _kill(pid)
        process.communicate(timeout=STOP_S)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._place.work,
                env=self._system.environment(self._place),
                start_new_session=True,
            )
        self._roots.add(process.pid)
        return process

    def _wait_ready(self, waiting: subprocess.Popen[bytes], limit_s: float) -> float:
        """When the load saw the directory, in seconds since the epoch."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                said, _ = waiting.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                dead = self._process is not None and self._process.poll()
                if dead or time.monotonic() > deadline:
                    self.abort()
                    self._end_load(waiting)
                    why = f"exit code {dead}" if dead else f"> {limit_s:g} s"
                    raise NotMountedError(why) from None
            else:
                break
        loaded = Loaded(**json.loads(said))
        if loaded.error:
            raise NotMountedError(loaded.error)
        return loaded.ended

    def log_tail(self) -> list[str]:
        """The last lines that the daemon said."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return [line[:300] for line in text.splitlines() if line.strip()][-8:]

    def _connection(self) -> str | None:
        """The minor number that fusectl knows the mount by; None if nothing is mounted."""
        rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        devices = [row[2] for row in rows if row[4] == str(self.directory)]
        return devices[-1].partition(":")[2] if devices else None

    def _wait_ended(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(timeout=1 if self._aborted else STOP_S)
            except subprocess.TimeoutExpired:
                _kill(self._process.pid)
        for pid in procs.tree(self._roots):
            _kill(pid)
        if self._process is not None:
            self._process.wait(timeout=STOP_S)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def drop_caches() -> None:
    """Pages, entries and inodes that are not in use; needs root."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
