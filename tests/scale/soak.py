"""`make soak`: mixed work on one volume of 148 MiB, whose memory must not grow in the second half.

    python -m tests.scale.soak [--minutes M] [PROGRAM ...]

Resident memory is sampled each second; a row is printed each minute. It fails if the median of the
last quarter is above that of the third by 10 MiB or by 5 %, if a program sees a wrong byte or an
error, if memory exceeds its bound, or if the second volume sees an error.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

from tests.scale import mounter as mounters
from tests.scale.bench import neighbour, tree_config
from tests.scale.cases import BOUND_MIB, MEMORY_MIB
from tests.scale.mounter import ROOT, Volume
from tests.scale.outcome import Neighbour
from tests.scale.run import end_at_signal, enter_namespaces
from tests.scale.server import made_up_server
from tests.scale.soak_programs import LAYOUT, STEPS
from tests.scale.watch import Watch

FLAT_MIB, FLAT_SHARE = 10.0, 0.05
END_WITHIN_S = 60
BAR_MIB = 6  # a column of the graph


class Soak:
    """steps: by program. errors: what programs have seen."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()
        self.errors: list[str] = []

    @asynccontextmanager
    async def running(self, name: str, volume: Volume) -> AsyncIterator[None]:
        words = [sys.executable, "-m", "tests.scale.soak_programs", name, str(volume.path), "1"]
        process = await asyncio.create_subprocess_exec(
            *words,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "LC_ALL": "C"},
            process_group=0,
        )

        async def read() -> None:
            while line := await process.stdout.readline():
                said = json.loads(line)
                self.steps[said["step"]] += 1
                if said["error"]:
                    self.errors.append(f"{said['step']}: {said['error']}")
                    print(f"    {self.errors[-1]}", flush=True)

        reading = asyncio.create_task(read())
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # and what it runs
            try:
                async with asyncio.timeout(END_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                self.errors.append(f"{name}: does not end")
                volume.abort()
                await process.wait()
            await reading

    def row(self, minute: int, samples: list[float]) -> str:
        middle = median(samples)
        bar = "#" * int(middle / BAR_MIB)
        done = " ".join(f"{name}:{k}" for name, k in sorted(self.steps.items()))
        return f"{minute:4d} {min(samples):6.0f} {middle:6.0f} {max(samples):6.0f}  {bar:50} {done}"


def growth(samples: list[float]) -> tuple[float, float]:
    """The medians of the third and of the last quarter."""
    quarter = len(samples) // 4
    return median(samples[2 * quarter : 3 * quarter]), median(samples[3 * quarter :])


async def soak(minutes: float, names: list[str]) -> list[str]:
    """Returns what is wrong."""
    found, steps, samples, work = [], [], [], Soak()
    with tempfile.TemporaryDirectory(prefix="csi-s3-soak-") as base:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(made_up_server(LAYOUT))
            mounter = await stack.enter_async_context(mounters.running(Path(base)))
            tree = tree_config(MEMORY_MIB)
            volume = await mounter.mount("under-test", server.endpoint, tree)
            await stack.enter_async_context(neighbour(mounter, steps))
            watch = Watch(mounter, volume, BOUND_MIB)
            watching = asyncio.create_task(watch.run())
            async with AsyncExitStack() as programs:
                for name in names:
                    await programs.enter_async_context(work.running(name, volume))
                began = time.monotonic()
                print("minute    min    mid    max MiB", flush=True)
                this_minute: list[float] = []
                while (passed := time.monotonic() - began) < minutes * 60 and not watch.killed:
                    await asyncio.sleep(1)
                    this_minute.append(watch.rss_mib)
                    if len(this_minute) == 60 or passed + 1 >= minutes * 60:
                        print(work.row(len(samples) // 60 + 1, this_minute), flush=True)
                        samples += this_minute
                        this_minute = []
            watching.cancel()
            if not watch.killed:
                await mounter.unmount(volume)
    if watch.killed:
        return [watch.killed]
    third, last = growth(samples)
    print(f"median of the third quarter {third:.1f} MiB, of the last {last:.1f}")
    if last - third >= FLAT_MIB or last - third >= FLAT_SHARE * third:
        found.append(f"resident memory grows: {third:.1f} to {last:.1f} MiB")
    if watch.peak_mib > BOUND_MIB:
        found.append(f"peak {watch.peak_mib:.0f} MiB, the bound is {BOUND_MIB:.0f}")
    if work.errors:
        found.append(f"{len(work.errors)} errors, first {work.errors[0]}")
    found += [f"{name} has not ended a single step" for name in names if not work.steps[name]]
    return [*found, *watch.over.values(), *Neighbour.of(steps, (began, began)).failures()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.soak", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(STEPS)}")
    parser.add_argument("--minutes", type=float, default=30.0)
    asked = parser.parse_args()
    enter_namespaces("tests.scale.soak")
    end_at_signal()
    found = asyncio.run(soak(asked.minutes, asked.programs or list(STEPS)))
    for line in found:
        print(f"FAILED: {line}")
    print("the soak has failed" if found else "the soak is right")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
