"""One run of a case, and how runs are judged and shown."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import median

BACK_WITHIN_MIB = 20.0
SLOWER = 10.0  # at most, of the second volume's median
FEWEST = 20  # steps of the second volume, to compare medians
MORE_REQUESTS = 1.3
FEW_REQUESTS = 40  # of a kind that do not depend on n
RENEWALS = 3  # requests of a kind in a second: names whose TTL (1 s) is over are asked for again
POOL_MIB = 56.0  # the pool of records (37 MiB at 148), and what malloc adds


@dataclass
class Neighbour:
    """What the second volume's program saw. seconds: of its longest step."""

    steps: int = 0
    errors: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    idle_s: float = 0.0
    busy_s: float = 0.0

    @classmethod
    def of(cls, steps: list[dict[str, object]], busy: tuple[float, float]) -> "Neighbour":
        """busy: from when to when the workload ran."""
        took = [(float(s["began"]), float(s["took"])) for s in steps]
        idle = [t for began, t in took if not busy[0] <= began <= busy[1]]
        during = [t for began, t in took if busy[0] <= began <= busy[1]]
        is_comparable = min(len(idle), len(during)) >= FEWEST
        return cls(
            steps=len(steps),
            errors=[str(s["error"]) for s in steps if s["error"]],
            longest_s=max((t for _, t in took), default=0.0),
            idle_s=median(idle) if is_comparable else 0.0,
            busy_s=median(during) if is_comparable else 0.0,
        )

    def failures(self) -> list[str]:
        found = []
        if self.errors:
            found.append(f"second volume: {len(self.errors)} errors, first {self.errors[0]}")
        if not self.steps:
            found.append("second volume: not a single step")
        if self.busy_s > SLOWER * self.idle_s:
            idle, busy = self.idle_s * 1000, self.busy_s * 1000
            found.append(f"second volume: median step {busy:.0f} ms, {idle:.0f} ms when idle")
        return found


@dataclass
class Outcome:
    """before_mib, after_mib: resident before and after the workload. said: remarks."""

    case: str
    n: int
    seconds: float = 0.0
    before_mib: float = 0.0
    peak_mib: float = 0.0
    after_mib: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)
    neighbour: Neighbour = field(default_factory=Neighbour)
    failures: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    is_counted_only: bool = False

    @property
    def verdict(self) -> str:
        if not self.failures:
            return "ok"
        return "over" if self.is_counted_only else "FAILED"

    def row(self) -> list[str]:
        requests = " ".join(f"{kind}:{k}" for kind, k in sorted(self.requests.items()))
        return [
            self.case,
            f"{self.n}",
            f"{self.seconds:.1f}",
            f"{self.before_mib:.0f}",
            f"{self.peak_mib:.0f}",
            f"{self.after_mib:.0f}",
            f"{len(self.neighbour.errors)}/{self.neighbour.steps}",
            f"{self.neighbour.longest_s:.2f}",
            self.verdict,
            requests,
        ]


def compare(small: Outcome, large: Outcome, *, scales: bool, once_each: str, is_full: bool) -> None:
    """Add to the run at 10 n what is out of proportion to the run at n."""
    if any("killed" in failure for failure in (*small.failures, *large.failures)):
        return
    factor = large.n / small.n
    for kind, k in large.requests.items() if scales else ():
        most = factor * MORE_REQUESTS * small.requests[kind] + FEW_REQUESTS
        most += RENEWALS * large.seconds  # more where the machine is busy
        most += large.n if kind == once_each else 0
        if k > most:
            large.failures.append(
                f"{k} {kind} requests at {large.n}, {small.requests[kind]} at {small.n}"
            )
    room = 0.25 * small.peak_mib + (10 if is_full else POOL_MIB)
    if large.peak_mib > small.peak_mib + room:
        large.failures.append(
            f"peak {large.peak_mib:.0f} MiB at {large.n}, {small.peak_mib:.0f} at {small.n}"
        )


HEADS = [
    *("case", "n", "seconds", "before", "peak MiB", "after", "2nd: errors", "longest s"),
    *("verdict", "requests"),
]


def table(outcomes: list[Outcome]) -> str:
    rows = [HEADS, *(outcome.row() for outcome in outcomes)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, len(HEADS) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
