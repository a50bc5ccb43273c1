"""A debug switch: report steps that hold the event loop, because every request waits behind them.

A step is what a task does between two awaits. Each task's coroutine is wrapped in one that times
each `send`, which works on uvloop as well; loop.slow_callback_duration needs asyncio's own loop and
its debug mode, and measures the time of the wall.

What counts is the CPU time of the loop's thread: on a machine with other work a step may be long by
the wall because others ran. A step that used little CPU was blocked if the thread gave its CPU up
by itself: in a system call (fsync, a slow disk), or to wait for another thread that held the
interpreter. Otherwise the machine took the CPU away (other work, a container's limit), and nothing
is reported. The kernel's count of time in the run queue was rejected: a limit is not counted there.

A collection of garbage is reported by itself and is no part of the step in which it began: its time
is that of all objects of the process, whichever step makes one object too many.

Without the switch nothing is wrapped. With it a step costs 2 µs more (measured). Callbacks that no
task runs (`call_soon`, `add_reader`) are not timed; those of this project set an event or a result,
and the request loop's answer at most 16 requests of the kernel.
"""

import asyncio
import gc
import inspect
import logging
import os
import resource
import time
from collections.abc import Callable, Coroutine, Generator
from types import FrameType
from typing import Any, NamedTuple

from typing_extensions import override

from csi_s3.obs.metrics import catalog as metrics

log = logging.getLogger(__name__)

_PACKAGE = f"{os.sep}csi_s3{os.sep}"


class _Marks(NamedTuple):
    """Clocks of the thread when a step began.

    switches: how often it gave its CPU up by itself. reported_s: what was reported until then.
    """

    wall_s: float
    cpu_s: float
    switches: int
    collecting_s: float
    reported_s: float


class SlowSteps:
    """Reports each step of at least `at_least_s` as a WARNING, and counts it.

    Lifetime: from its making until `close`. Concurrency: the loops that it watches run in the
    thread that made it, one at a time.
    """

    def __init__(self, at_least_s: float, *, every_s: float = 10.0, is_suite: bool = False) -> None:
        """every_s: the least time between two lines about one coroutine.

        is_suite: leave out what the machine and the test program decide: steps that were blocked,
        and collections of garbage.
        """
        self.at_least_s = at_least_s
        self._every_s, self._is_suite = every_s, is_suite
        self._collecting_s = self._began_collecting_s = self._reported_s = 0.0
        self._logged_at_s: dict[str, float] = {}
        gc.callbacks.append(self._note_collection)

    def close(self) -> None:
        gc.callbacks.remove(self._note_collection)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Time every task that the loop starts from now on."""

        def new_task(
            loop: asyncio.AbstractEventLoop,
            coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
            **options: Any,  # noqa: ANN401 - as create_task passes them
        ) -> "asyncio.Task[Any]":
            if isinstance(coro, Coroutine):
                coro = _TimedCoroutine(coro, self, getattr(coro, "__qualname__", repr(coro)))
            return asyncio.Task(coro, loop=loop, **options)

        loop.set_task_factory(new_task)

    def watch_methods(self, handlers: object) -> None:
        """Time the public coroutine functions of an object, so that their names are reported.

        The tasks of pyfuse3 run one request after the other: a handler that never waits is a part
        of a step between two requests.
        """
        for name, method in inspect.getmembers(handlers, inspect.iscoroutinefunction):
            if not name.startswith("_"):
                setattr(handlers, name, self._timed(name, method))

    def _timed(
        self, name: str, method: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        return lambda *args, **fields: _TimedCoroutine(method(*args, **fields), self, name)

    def marks(self) -> _Marks:
        return _Marks(
            time.perf_counter(),
            time.thread_time(),
            resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw,
            self._collecting_s,
            self._reported_s,
        )

    def ended(self, began: _Marks, coro: Coroutine[Any, Any, Any], name: str) -> None:
        """Report the step that ended now, if it was long."""
        wall_s = time.perf_counter() - began.wall_s
        if wall_s < self.at_least_s:
            return
        inside_s = self._reported_s - began.reported_s  # of a handler
        collecting_s = self._collecting_s - began.collecting_s
        cpu_s = time.thread_time() - began.cpu_s - inside_s - collecting_s
        blocked_s = wall_s - inside_s - cpu_s - collecting_s
        if cpu_s >= self.at_least_s:
            what = f"{name} ran for {cpu_s * 1000:.0f} ms, until {_place(coro)}"
            self._report("cpu", name, what)
            self._reported_s += cpu_s
        elif (
            blocked_s >= self.at_least_s
            and not self._is_suite
            and resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > began.switches
        ):
            what = f"{name} was blocked for {blocked_s * 1000:.0f} ms, until {_place(coro)}"
            self._report("blocked", name, what)
            self._reported_s += blocked_s

    def _report(self, cause: str, name: str, what: str) -> None:
        metrics.SLOW_STEPS.inc(cause=cause)
        now_s = time.perf_counter()
        if now_s - self._logged_at_s.get(name, -self._every_s) < self._every_s:
            return
        self._logged_at_s[name] = now_s
        log.warning("a step held the event loop: %s", what)

    def _note_collection(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began_collecting_s = time.thread_time()
            return
        took_s = time.thread_time() - self._began_collecting_s
        self._collecting_s += took_s
        if took_s >= self.at_least_s and not self._is_suite:
            what = f"a collection of garbage took {took_s * 1000:.0f} ms"
            self._report("garbage", "garbage", what)


class _TimedCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are timed; everything else is answered by the coroutine."""

    __slots__ = ("_coro", "_name", "_steps")

    def __init__(self, coro: Coroutine[Any, Any, Any], steps: SlowSteps, name: str) -> None:
        self._coro, self._steps, self._name = coro, steps, name

    def __getattr__(self, name: str) -> object:
        return getattr(self._coro, name)

    @override
    def send(self, value: Any) -> Any:
        began = self._steps.marks()
        try:
            return self._coro.send(value)
        finally:
            self._steps.ended(began, self._coro, self._name)

    @override
    def throw(self, *error: Any) -> Any:
        began = self._steps.marks()
        try:
            return self._coro.throw(*error)
        finally:
            self._steps.ended(began, self._coro, self._name)

    @override
    def close(self) -> None:
        self._coro.close()

    @override
    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # it has send, throw and close, as a generator

    def __iter__(self) -> "_TimedCoroutine":
        return self

    def __next__(self) -> object:
        return self.send(None)


def _place(coro: Coroutine[Any, Any, Any]) -> str:
    """Where the coroutine waits now: the innermost line of this package, else of any."""
    place = "its end"
    inner: Coroutine[Any, Any, Any] | None = coro
    while inner is not None:
        frame: FrameType | None = getattr(inner, "cr_frame", None)
        if frame is not None:
            path = frame.f_code.co_filename
            if _PACKAGE in path or place == "its end":
                place = f"{path.rpartition(_PACKAGE)[2]}:{frame.f_lineno}"
        inner = getattr(inner, "cr_await", None)
    return place
