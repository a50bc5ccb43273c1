"""Which cases of the suites S3 cannot satisfy: the table of docs/semantics.md, read from there.

It is written once, with the reason for each. A case is `SUITE PATTERN` in backticks; a pattern is
fnmatch's.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "semantics.md"
HEADING = "## Deviations from POSIX"
SUITES = ("pjdfstest", "cpython", "stress-ng")


@dataclass(frozen=True, slots=True)
class Limit:
    """One row."""

    what: str
    why: str
    cases: tuple[str, ...]


def limits() -> list[Limit]:
    section = PAGE.read_text().partition(f"\n{HEADING}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [
        Limit(what.strip(), why.strip(), tuple(re.findall(r"`([^`]+)`", cases)))
        for what, why, cases in rows[2:]
    ]


def excluded(suite: str) -> list[str]:
    """The patterns of one suite."""
    words = [case.partition(" ") for limit in limits() for case in limit.cases]
    return [pattern for name, _, pattern in words if name == suite]


def check(suite: str, failed: Iterable[str]) -> None:
    """Only excluded cases may have failed, and each exclusion must still be needed."""
    cases, patterns = sorted(failed), excluded(suite)
    surprising = [c for c in cases if not any(fnmatchcase(c, p) for p in patterns)]
    assert surprising == []
    needless = [p for p in patterns if not any(fnmatchcase(c, p) for c in cases)]
    assert needless == [], "these do work: take them out of docs/semantics.md"
