"""What calls cost, in counts that no machine changes."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Count:
    n = 0


@contextmanager
def counted_calls(files: set[str] | None = None) -> Iterator[Count]:
    """Calls of the functions (and steps of the generators) of these source files; None: of all."""
    counted = Count()

    def count(frame, event, _arg):
        if files is None:
            counted.n += event in ("call", "c_call")
        else:
            counted.n += event == "call" and frame.f_code.co_filename in files

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(before)


@contextmanager
def counted_turns(loop: asyncio.AbstractEventLoop) -> Iterator[Count]:
    """Turns of an event loop: between two of them other requests go on."""
    counted = Count()

    async def count():
        while True:
            counted.n += 1
            await asyncio.sleep(0)

    counting = loop.create_task(count())
    try:
        yield counted
    finally:
        counting.cancel()


def steps_of(call: Callable[[], object]) -> int:
    """The lines of our code that a call runs."""
    steps = 0

    def trace(frame, event, _arg):
        nonlocal steps
        if "csi_s3" not in frame.f_code.co_filename:
            return None
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return steps
