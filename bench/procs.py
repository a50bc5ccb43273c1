"""What the processes of a mount have used, from /proc: Linux only, no library needed."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# fields of /proc/PID/stat after the name in parentheses
PARENT, SESSION, UTIME, CUTIME_END = 1, 3, 11, 15


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU so far, those of children that have ended included; the sum of peak resident sizes.

    Pages that processes share count once for each: an upper bound for a zygote's children.
    """

    cpu_s: float
    peak_rss_bytes: int


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
    for pid in tree(roots):
        stat = _stat(Path(f"/proc/{pid}"))
        if stat:
            ticks += sum(map(int, stat[UTIME:CUTIME_END]))
            peak += _peak_rss(pid)
    return Usage(ticks / TICKS_PER_S, peak)


def _stat(directory: Path) -> list[str] | None:
    """Fields of `stat` from the state on; None if the process has ended."""
    try:
        return (directory / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _peak_rss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)
