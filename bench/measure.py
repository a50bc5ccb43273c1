"""The run itself: settings, repetitions, cases and systems, one mount at a time."""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import procs, publish
from bench.cases import Case
from bench.mounts import Loaded, Mount, NotMountedError, OverLimitError, drop_caches
from bench.publish import Publish
from bench.report import Outcome, shown
from bench.server import Proxy, Server, Setting, proxying
from bench.systems import CSI_S3, Place, System


@dataclass(frozen=True, slots=True)
class Attempt:
    """One case on one fresh mount of one system; what comes of it is written in `outcome`."""

    case: Case
    system: System
    mount: Mount
    proxy: Proxy | None
    out: str  # the directory to write in
    outcome: Outcome


class Bench:
    """Collects `outcomes`; one at a time, in this thread."""

    def __init__(self, server: Server, work: Path, *, load: Path, proxy: Path) -> None:
        self._server, self._work, self._load, self._proxy_program = server, work, load, proxy
        self._mounts = 0
        self._mounted: set[tuple[str, str]] = set()  # (setting, system)
        self._hopeless: dict[tuple[str, str, str], str] = {}  # (setting, system, case or ""): why
        self.outcomes: list[Outcome] = []

    def run(
        self, setting: Setting, cases: list[Case], systems: list[System], *, repetitions: int
    ) -> None:
        """Measure all of it; who was over the limit once is not asked the same again."""
        with proxying(self._proxy_program, self._server, setting, self._work) as proxy:
            for repetition in range(repetitions):
                turn = repetition % len(systems)
                for case in cases:
                    for system in systems[turn:] + systems[:turn]:
                        if case.name == "publish" and system.name != CSI_S3.name:
                            continue
                        outcome = Outcome(
                            setting=setting.name,
                            case=case.name,
                            system=system.name,
                            repetition=repetition,
                            unit=case.unit,
                        )
                        outcome.failure = self._reason_not_to(case, system, outcome)
                        if not outcome.failure:
                            self._attempt(case, system, proxy, outcome)
                        self.outcomes.append(outcome)

    def _reason_not_to(self, case: Case, system: System, outcome: Outcome) -> str:
        program = system.program()
        if program is None:
            return "not installed"
        if case.name == "publish" and not publish.is_built(program):
            return "not built"
        who = (outcome.setting, system.name)
        return self._hopeless.get((*who, "")) or self._hopeless.get((*who, case.name)) or ""

    def _attempt(self, case: Case, system: System, proxy: Proxy | None, outcome: Outcome) -> None:
        """Mount, load, unmount; the outcome gets a value or a failure."""
        self._mounts += 1
        url = proxy.url if proxy else self._server.url
        place = Place(url, self._work / f"mnt-{self._mounts}", self._work)
        mount = (Publish if case.name == "publish" else Mount)(system, place, self._load)
        attempt = Attempt(case, system, mount, proxy, f"out-{self._mounts}", outcome)
        began = time.monotonic()
        self._make_out(attempt)
        try:
            self._mount_and_load(attempt)
        except NotMountedError as exc:
            outcome.failure = f"not mounted: {exc}"
            print("\n".join(mount.log_tail()), file=sys.stderr)
            never = (outcome.setting, system.name) not in self._mounted and mount.is_whole_system
            self._hopeless[outcome.setting, system.name, "" if never else case.name] = (
                outcome.failure
            )
        except OverLimitError as exc:
            outcome.failure = self._hopeless[outcome.setting, system.name, case.name] = str(exc)
        finally:
            mount.stop()
            self._remove_out(attempt)
        _tell(outcome, time.monotonic() - began)

    def _mount_and_load(self, attempt: Attempt) -> None:
        case, outcome, mount, proxy = attempt.case, attempt.outcome, attempt.mount, attempt.proxy
        if proxy:
            proxy.take_counts()
        ready_s = mount.start(limit_s=case.limit_s)
        self._mounted.add((outcome.setting, outcome.system))
        if not case.load:
            outcome.value, outcome.seconds = case.value(ready_s, 1, 0), ready_s
            _account(attempt, before=procs.Usage(0.0, 0))
            return
        drop_caches()
        if proxy:
            proxy.take_counts()
        before = mount.usage()
        out = mount.directory / attempt.out
        words = [w.format(dir=mount.directory, out=out, work=self._work) for w in case.load]
        began = time.monotonic()
        loaded = mount.load(words, budget_s=case.budget_s, limit_s=case.limit_s)
        late_s = 0.0
        if case.written and not loaded.error and not attempt.system.is_control:
            late_s = self._wait_durable(attempt, loaded, began + case.limit_s)
        outcome.ops, outcome.cut, outcome.late = loaded.ops, loaded.cut, late_s > 0
        outcome.seconds = loaded.seconds + late_s
        outcome.moved_bytes = loaded.bytes
        _account(attempt, before=before)
        short = case.done_bytes is not None and loaded.bytes != case.done_bytes and not loaded.cut
        if loaded.error or short:
            outcome.failure = loaded.error or f"only {loaded.bytes} of {case.done_bytes} bytes"
        else:
            outcome.value = case.value(outcome.seconds, loaded.ops, loaded.bytes)

    def _wait_durable(self, attempt: Attempt, loaded: Loaded, deadline: float) -> float:
        """Ask the server; how long after the last close everything was there, 0 if at once."""
        expected = loaded.ops or 1
        if self._server.stored(attempt.out, attempt.case) >= expected:
            return 0.0
        while time.monotonic() < deadline:
            time.sleep(0.02)
            if self._server.stored(attempt.out, attempt.case) >= expected:
                return time.time() - loaded.ended
        raise OverLimitError(f"> {attempt.case.limit_s:g} s")

    def _make_out(self, attempt: Attempt) -> None:
        """Before the mount, so that it needs neither a mkdir nor a marker to be seen."""
        if attempt.case.written:
            self._server.make_directory(attempt.out, attempt.case.given)
            local = self._work / "tmpfs"
            (local / attempt.out).mkdir()
            for given in attempt.case.given if attempt.system.is_control else ():
                for i in range(given.count):
                    new = local / attempt.out / (given.name % i)
                    new.parent.mkdir(exist_ok=True)
                    shutil.copyfile(local / (given.source % i), new)

    def _remove_out(self, attempt: Attempt) -> None:
        if attempt.case.written:
            self._server.remove_directory(attempt.out)
            shutil.rmtree(self._work / "tmpfs" / attempt.out)


def _account(attempt: Attempt, *, before: procs.Usage) -> None:
    used, outcome = attempt.mount.usage(), attempt.outcome
    outcome.cpu_s, outcome.peak_rss_bytes = used.cpu_s - before.cpu_s, used.peak_rss_bytes
    outcome.thread_s = used.busiest_thread_s(before)
    if attempt.proxy:
        outcome.requests = attempt.proxy.take_counts()["requests"]


def _tell(outcome: Outcome, took_s: float) -> None:
    said = outcome.failure or f"{shown(outcome.value or 0)} {outcome.unit}"
    where = f"{outcome.setting} {outcome.repetition + 1} {outcome.case} {outcome.system}"
    print(f"{where}: {said} [{took_s:.1f} s]", file=sys.stderr, flush=True)
