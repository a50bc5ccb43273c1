"""n volumes of one mounter, four of which misbehave: the others go on as before.

    python -m tests.scale.crowd FLOODED HUNG HOSTILE DIRECTORY ...

One is flooded with random writes by 64 threads, the store of one hangs, one has a hostile store,
and the worker of one is killed again and again. The process above is the programs of all of them.
On each of the others it makes a step every PAUSE_S; it prints its steps as `neighbour` does.
"""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from csi_s3.kernel import mount
from tests.hostile_store import hostile_store
from tests.scale import mounter as mounters
from tests.scale.bench import BASELINE_S, tree_config
from tests.scale.cases import Case
from tests.scale.mounter import ROOT, Mounter, Volume
from tests.scale.neighbour import step
from tests.scale.outcome import Outcome
from tests.scale.server import made_up_server
from tests.scale.watch import resident_mib

CASE = Case(name="crowd", sizes=(10, 10), layout=lambda _: {})
BUSY_S = 20.0
PAUSE_S = 2.0
KEPT = 0.8  # of the steps that the others make in the same time
FLOODING = 64
SHARE_MIB, BOUND_MIB = 32, 180.0
BAD = ("flooded", "hung", "hostile")
SILENT = [{"hang": True}]


async def crowd(case: Case, n: int) -> Outcome:
    outcome, began = Outcome(case.name, n), time.monotonic()
    async with AsyncExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="csi-s3-scale-")))
        server = await stack.enter_async_context(made_up_server({}))
        silent = await stack.enter_async_context(made_up_server({"big": {"n": 10}}))
        hostile = await stack.enter_async_context(hostile_store())
        at = await stack.enter_async_context(mounters.running(base))
        tree = tree_config(SHARE_MIB, drain_timeout_s=1.0)
        endpoints = (server.endpoint, silent.endpoint, hostile.endpoint)
        bad = [await at.mount(name, url, tree) for name, url in zip(BAD, endpoints, strict=True)]
        good = [await at.mount(f"good-{i}", server.endpoint, tree) for i in range(n - len(BAD) - 1)]
        steps: list[dict[str, object]] = []
        async with _programs(bad, good, steps) as program:
            await asyncio.sleep(BASELINE_S + BUSY_S)
            await silent.set_rules(SILENT)
            hostile.attack, hostile.attacked = _endless, frozenset({"LIST", "HEAD", "GET"})
            program.write(b"misbehave\n")
            from_s = time.monotonic()
            deaths = await _die_for(at, server.endpoint, tree, BUSY_S)
            until_s = time.monotonic()
            for volume in (*bad, *good):
                peak = resident_mib(volume.pid)[1]
                outcome.peak_mib = max(outcome.peak_mib, peak)
                if not peak:
                    outcome.failures.append(f"the worker of {volume.name} has died")
        _judge(outcome, steps, (from_s - BUSY_S, from_s, until_s), len(good))
        outcome.said.append(f"{deaths} deaths, {hostile.asked.count('LIST')} hostile answers")
        if outcome.peak_mib > BOUND_MIB:
            outcome.failures.append(f"peak {outcome.peak_mib:.0f} MiB, bound {BOUND_MIB:.0f}")
        if not deaths or "LIST" not in hostile.asked:
            outcome.failures.append("nothing misbehaved")
    outcome.seconds = time.monotonic() - began
    return outcome


@asynccontextmanager
async def _programs(
    bad: list[Volume], good: list[Volume], steps: list[dict[str, object]]
) -> AsyncIterator[asyncio.StreamWriter]:
    paths = [str(volume.path) for volume in (*bad, *good)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.scale.crowd", *paths),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )

    async def read() -> None:
        while line := await process.stdout.readline():
            steps.append(json.loads(line))

    reading = asyncio.create_task(read())
    try:
        yield process.stdin
    finally:
        process.kill()
        for volume in bad:
            volume.abort()  # a thread that waits in the mount would outlive its process
        await process.wait()
        await reading


async def _die_for(at: Mounter, endpoint: str, tree: object, seconds: float) -> int:
    """Mount a volume whose worker is killed, and again, for so long; returns how often."""
    deaths, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        volume = await at.mount("dying", endpoint, tree)
        with suppress(ProcessLookupError):
            os.kill(volume.pid, signal.SIGKILL)
        mount.umount(volume.path)
        await at.unmount(volume)
        deaths += 1
    return deaths


async def _endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await writer.drain()


def _judge(
    outcome: Outcome,
    steps: list[dict[str, object]],
    times: tuple[float, float, float],
    volumes: int,
) -> None:
    """times: the calm time begins, the other begins, and ends."""
    calm_s, busy_s, end_s = times
    calm = sum(calm_s <= float(s["began"]) < busy_s for s in steps) / (busy_s - calm_s)
    busy = sum(busy_s <= float(s["began"]) < end_s for s in steps) / (end_s - busy_s)
    outcome.said.append(f"steps a second of {volumes} volumes: {calm:.1f} calm, {busy:.1f} busy")
    if errors := [s["error"] for s in steps if s["error"]]:
        outcome.failures.append(f"{len(errors)} errors of the others, first {errors[0]}")
    if busy < KEPT * calm:
        outcome.failures.append(f"the others keep {busy / calm:.0%} of their steps")


# --- the programs ---------------------------------------------------------------------------------


def _flood(directory: Path) -> None:
    """Writes of 64 KiB at random places of one file, without a pause."""
    picks, block = random.Random(directory.name), bytes(65_536)
    with suppress(OSError), (directory / "flood").open("wb") as file:
        while True:
            file.seek(picks.randrange(1 << 14) << 12)
            file.write(block)
            file.flush()


def _list(directory: Path) -> None:
    while True:
        with suppress(OSError):
            list(directory.iterdir())
        time.sleep(0.05)


def _steps(directory: Path, lock: threading.Lock, first_s: float) -> None:
    own = directory / directory.name  # all have one bucket
    own.mkdir()
    i, due = 0, time.monotonic() + first_s
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        began, error = time.monotonic(), ""
        try:
            step(own, i)
        except OSError as exc:
            error = repr(exc)
        line = {"began": began, "took": time.monotonic() - began, "error": error}
        with lock:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        i, due = i + 1, max(due + PAUSE_S, time.monotonic())


def main(flooded: Path, hung: Path, hostile: Path, *good: Path) -> None:
    lock = threading.Lock()
    for i, path in enumerate(good):
        first_s = PAUSE_S * i / len(good)
        threading.Thread(target=_steps, args=(path, lock, first_s), daemon=True).start()
    sys.stdin.readline()
    bad = [(_flood, flooded)] * FLOODING + [(_list, hung), (_list, hostile)] * 4
    for program, path in bad:
        threading.Thread(target=program, args=(path,), daemon=True).start()
    signal.pause()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
