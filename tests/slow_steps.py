"""The switch for slow steps in the suites: how long a step may take here before its test fails.

What is promised is 50 ms; the scale suite, whose workers do nothing else, has that bound. Elsewhere
it is five times that, because a step may hold the test's own work as well: the digests of the store
in memory, a loop of writes.

Both grow with the machine: a loop like the program's own work (objects, dicts, strings) is timed
once, by CPU time as steps are, so that other work on the machine does not count. On a machine ten
times slower than the reference both a step and the bound take ten times longer.

Not judged are steps that a test makes slow itself: it counts calls or lines (`tests.unit.costs`),
or has memory traced.
"""

import os
import re
import sys
import time
import tracemalloc
from collections.abc import Coroutine, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from typing_extensions import override

from csi_s3.obs.slow_steps import SlowSteps, _Marks

PROMISED_S, BOUND_S = 0.05, 0.25
REFERENCE_S = 0.009  # the loop below on a core of a cloud machine of 2024, CPython 3.11


@cache
def _slowness() -> float:
    """Of this machine."""
    return max(1.0, min(_work_s() for _ in range(5)) / REFERENCE_S)


def bound_s() -> float:
    """The longest step that a test may cause, in CPU seconds."""
    return BOUND_S * _slowness()


def _work_s() -> float:
    began_s = time.thread_time()
    names = {f"directory/{n:06}": [n, str(n)] for n in range(10_000)}
    sorted(names, key=lambda name: names[name][1])
    return time.thread_time() - began_s


class _SuiteSteps(SlowSteps):
    @override
    def ended(self, began: _Marks, coro: Coroutine[Any, Any, Any], name: str) -> None:
        is_slowed = sys.getprofile() or sys.gettrace() or tracemalloc.is_tracing()
        if not is_slowed:
            super().ended(began, coro, name)


@cache
def watched_steps() -> SlowSteps:
    """One for the session; its WARNING fails the test as any undeclared one does."""
    return _SuiteSteps(bound_s(), every_s=0, is_suite=True)


def environment(at_least_s: float = BOUND_S) -> dict[str, str]:
    """What a worker needs in its environment to report steps of so much CPU time, or more."""
    return {"CSI_S3_SLOW_STEP_MS": str(round(at_least_s * _slowness() * 1000))}


def switch_on() -> None:
    """Have the workers report that tests start with this process's environment."""
    os.environ.update(environment())


def is_not_judged(line: str) -> bool:
    """Whether a line of a worker's log reports what no handler has done.

    A step that a slow disk may have blocked, or a collection of garbage; see docs/memory.md.
    """
    others = r"held the event loop: (\S+ was blocked|a collection of garbage)"
    return re.search(others, line) is not None


def assert_none_in(logs: Iterable[Path]) -> None:
    """No worker that logged there had a step that ran longer than the bound."""
    lines = [line for log in logs for line in log.read_text().splitlines()]
    assert [x for x in lines if "held the event loop" in x and not is_not_judged(x)] == []
