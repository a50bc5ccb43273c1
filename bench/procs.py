"""What the processes of a mount have used, from /proc: Linux only, no library needed."""

import os
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# fields of /proc/PID/stat after the name in parentheses
PARENT, SESSION, UTIME, CUTIME_END = 1, 3, 11, 15


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU so far, those of children that have ended included; the sum of peak resident sizes.

    Pages that processes share count once for each: an upper bound for a zygote's children.
    threads_s: CPU of each thread that runs, by its number.
    """

    cpu_s: float
    peak_rss_bytes: int
    threads_s: dict[int, float] = field(default_factory=dict)

    def busiest_thread_s(self, before: "Usage") -> float:
        """CPU since then of the thread that used most: csi-s3's interpreter, where it is busy."""
        spent = (s - before.threads_s.get(thread, 0.0) for thread, s in self.threads_s.items())
        return max(spent, default=0.0)


def tree(roots: set[int]) -> set[int]:
    """The processes, their descendants, and all in a session that one of the roots leads."""
    stats = {int(d.name): _stat(d) for d in Path("/proc").iterdir() if d.name.isdigit()}
    found = {pid for pid, s in stats.items() if s and (pid in roots or int(s[SESSION]) in roots)}
    while True:
        more = {p for p, s in stats.items() if s and int(s[PARENT]) in found} - found
        if not more:
            return found
        found |= more


def usage(roots: set[int]) -> Usage:
    ticks = peak = 0
    threads_s: dict[int, float] = {}
    for pid in tree(roots):
        stat = _stat(Path(f"/proc/{pid}"))
        if stat:
            ticks += sum(map(int, stat[UTIME:CUTIME_END]))
            peak += _peak_rss(pid)
            threads_s |= _threads_s(pid)
    return Usage(ticks / TICKS_PER_S, peak, threads_s)


def _stat(directory: Path) -> list[str] | None:
    """Fields of `stat` from the state on; None if the process has ended."""
    try:
        return (directory / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _threads_s(pid: int) -> dict[int, float]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return {}
    stats = {int(thread.name): _stat(thread) for thread in threads}
    return {
        number: (int(stat[UTIME]) + int(stat[UTIME + 1])) / TICKS_PER_S
        for number, stat in stats.items()
        if stat
    }


def _peak_rss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)
