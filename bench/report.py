"""What a run prints: a description of the machine, and three tables per setting."""

import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.cases import MIB, Case
from bench.server import Setting
from bench.systems import System
from tests.binaries import PROGRAMS

NOTHING = "-"
GB = 10**9


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One case, once, on one system in one setting. Either value or failure is set."""

    setting: str
    case: str
    system: str
    repetition: int
    value: float | None = None
    unit: str = ""
    failure: str = ""  # "> 20 s", or the first error
    seconds: float = 0.0
    ops: int = 0
    cut: bool = False  # the budget ended it: the value is of what was done
    late: bool = False  # close had returned before everything was in the bucket
    cpu_s: float = 0.0
    thread_s: float = 0.0  # of the mount's busiest thread
    moved_bytes: int = 0
    peak_rss_bytes: int = 0
    requests: dict[str, int] = field(default_factory=dict)


def shown(value: float) -> str:
    """Two or three figures: more would promise what shared cores cannot keep."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{decimals}f}"


def machine(systems: list[System]) -> str:
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    versions = [f"MinIO {PROGRAMS['minio'][1]}"]
    versions += [f"{s.name}: {_version(s)}" for s in systems if not s.is_control]
    return "\n".join(
        [
            f"- Linux {platform.release()}; {os.cpu_count()} CPUs: {cpus[0] if cpus else '?'}",
            f"- {memory_kib / 2**20:.0f} GiB of memory; Python {platform.python_version()}",
            *(f"- {version}" for version in versions),
        ]
    )


def _version(system: System) -> str:
    program = system.program()
    if program is None or not Path(program).exists():
        return "not installed"
    for words in (["--version"], ["version"]):
        try:
            said = subprocess.run([program, *words], capture_output=True, timeout=10, check=False)
        except subprocess.TimeoutExpired:
            break
        if said.returncode == 0 and said.stdout.strip():
            return said.stdout.decode(errors="replace").splitlines()[0]
    return "unknown version"


def tables(setting: Setting, cases: list[Case], systems: list[str], found: list[Outcome]) -> str:
    """Values, then what they cost; cells are medians of the repetitions."""
    here = [o for o in found if o.setting == setting.name]
    parts = [f"### {setting.title}", "", _table(cases, systems, here, _value, units=True)]
    if any(o.late for o in here):
        parts += [
            "",
            "†: close had returned before everything was in the bucket, the clock went on.",
        ]
    parts += [
        "",
        "CPU seconds of the mount's processes during the case; peak resident MiB since the mount:",
        "",
        _table(cases, systems, here, _cost),
    ]
    if any(_streamed(o) for o in here):
        streams = [c for c in cases if any(_streamed(o) for o in here if o.case == c.name)]
        parts += [
            "",
            "CPU seconds of the mount's busiest thread for each GB (csi-s3: interpreter):",
        ]
        parts += ["", _table(streams, systems, here, _thread_cost)]
    if setting.proxy is not None:
        parts += ["", "S3 requests (in parentheses: operations done, where the time was over"]
        parts[-1] += " before the work):"
        parts += ["", _table(cases, systems, here, _requests)]
    return "\n".join(parts)


def _table(
    cases: list[Case],
    systems: list[str],
    found: list[Outcome],
    cell: Callable[[list[Outcome]], str],
    *,
    units: bool = False,
) -> str:
    rows = [f"| case | {' | '.join(systems)} |", f"|---|{'---|' * len(systems)}"]
    for case in cases:
        mine = [o for o in found if o.case == case.name]
        if not mine:
            continue
        title = f"{case.title}, {case.unit}" if units else case.title
        cells = [[o for o in mine if o.system == system] for system in systems]
        rows.append(f"| {title} | {' | '.join(cell(c) if c else NOTHING for c in cells)} |")
    return "\n".join(rows)


def _value(outcomes: list[Outcome]) -> str:
    good = _good(outcomes)
    if not good:
        return outcomes[-1].failure
    text = shown(statistics.median(o.value or 0 for o in good))
    failed = len(outcomes) - len(good)
    text += " †" if any(o.late for o in good) else ""
    return f"{text} ({failed} of {len(outcomes)} failed)" if failed else text


def _cost(outcomes: list[Outcome]) -> str:
    good = _good(outcomes)
    if not good:
        return NOTHING
    cpu = statistics.median(o.cpu_s for o in good)
    rss = statistics.median(o.peak_rss_bytes for o in good) / MIB
    return f"{cpu:.2f} s, {rss:.0f}"


def _streamed(outcome: Outcome) -> bool:
    return outcome.value is not None and outcome.unit == "MiB/s" and outcome.moved_bytes > 0


def _thread_cost(outcomes: list[Outcome]) -> str:
    found = [o.thread_s / o.moved_bytes * GB for o in outcomes if _streamed(o)]
    return f"{statistics.median(found):.2f}" if found else NOTHING


def _requests(outcomes: list[Outcome]) -> str:
    good = _good(outcomes)
    if not good:
        return NOTHING
    kinds = sorted({kind for o in good for kind in o.requests})
    medians = {k: statistics.median_high(o.requests.get(k, 0) for o in good) for k in kinds}
    text = ", ".join(f"{count} {kind}" for kind, count in medians.items() if count) or "none"
    done = statistics.median_high(o.ops for o in good)
    return f"{text} ({done})" if any(o.cut for o in good) else text


def _good(outcomes: list[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.value is not None]
