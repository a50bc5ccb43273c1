"""The two clocks of the file system; tests pass their own."""

import time
from collections.abc import Callable
from dataclasses import dataclass

_CLOCK_REALTIME_COARSE = 5  # <linux/time.h>; the time module does not name it


def stamp_ns() -> int:
    """Now, by the clock from which the kernel takes time stamps: up to a tick behind the finer one.

    utimens without a time sends a stamp of that clock; it must not be before an earlier write.
    """
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """monotonic_s for durations, realtime_ns for time stamps that people see."""

    monotonic_s: Callable[[], float] = time.monotonic
    realtime_ns: Callable[[], int] = stamp_ns
