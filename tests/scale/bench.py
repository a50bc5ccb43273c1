"""Runs one case: servers, mounter, two volumes, the workload in a process, and what is asserted."""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from csi_s3.config.volume import TreeConfig
from tests.scale import mounter as mounters
from tests.scale.cases import Case
from tests.scale.mounter import MIB, ROOT, Mounter, Volume
from tests.scale.outcome import BACK_WITHIN_MIB, Neighbour, Outcome
from tests.scale.server import MadeUpServer, made_up_server
from tests.scale.watch import Watch, resident_mib
from tests.slow_steps import is_not_judged

BASELINE_S = 4.0  # for the second volume's steps before the workload
BACK_WITHIN_S = 30.0
END_WITHIN_S = 30.0  # for a program that has printed its result


@dataclass(frozen=True)
class Bench:
    """A mounter with the volume under test and its neighbour, each on a server of its own."""

    mounter: Mounter
    server: MadeUpServer
    volume: Volume


def tree_config(memory_mib: int, **options: object) -> TreeConfig:
    return TreeConfig(
        memory_bytes=memory_mib * MIB, allow_delete=True, allow_overwrite=True, **options
    )


@asynccontextmanager
async def bench(case: Case, n: int) -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="csi-s3-scale-") as base:
        async with (
            made_up_server(case.layout(n)) as server,
            mounters.running(Path(base)) as mounter,
        ):
            tree = tree_config(case.memory_mib, **case.options)
            volume = await mounter.mount("under-test", server.endpoint, tree)
            yield Bench(mounter, server, volume)


@asynccontextmanager
async def neighbour(mounter: Mounter, lines: list[dict[str, object]]) -> AsyncIterator[None]:
    """A second volume, and steady work on it; its steps are added to lines at the end."""
    async with made_up_server({}) as server:
        volume = await mounter.mount("neighbour", server.endpoint, tree_config(148))
        words = (sys.executable, "-m", "tests.scale.neighbour", str(volume.path))
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )

        async def read() -> None:
            while line := await process.stdout.readline():
                lines.append(json.loads(line))

        reading = asyncio.create_task(read())
        try:
            yield
        finally:
            process.terminate()
            try:
                async with asyncio.timeout(20):
                    await process.wait()
            except TimeoutError:
                volume.abort()
                await process.wait()
            await reading


async def run(case: Case, n: int) -> Outcome:
    outcome = Outcome(case.name, n, is_counted_only=case.is_counted_only)
    steps: list[dict[str, object]] = []
    async with bench(case, n) as at, neighbour(at.mounter, steps):
        failure, _ = await work("warm-up", at, 1, within_s=60)
        if failure:
            outcome.failures.append(f"before it began: {failure}")
            return outcome
        await asyncio.sleep(BASELINE_S)
        outcome.before_mib = resident_mib(at.volume.pid)[0]
        before = await at.server.counts()
        watch = Watch(at.mounter, at.volume, case.bound_mib)
        watching = asyncio.create_task(watch.run())
        began = time.monotonic()
        within_s = case.within_s + 0.02 * n
        failure, said = await work(case.work or case.name, at, n, within_s=within_s)
        ended = time.monotonic()
        outcome.requests = await at.server.counts() - before
        await _come_back(at.volume, watch, outcome.before_mib + BACK_WITHIN_MIB)
        watching.cancel()
        outcome.seconds, outcome.said = ended - began, [said] if said else []
        outcome.peak_mib, outcome.after_mib = watch.peak_mib, watch.rss_mib
        if failure:
            outcome.failures.append(failure)
        _judge(case, outcome, watch, is_alive=not at.volume.is_aborted)
        if not at.volume.is_aborted:
            await _end(at, outcome)
        lines = list(warnings(at.mounter.base / "mounter.log"))
        outcome.said += summary(lines)
        outcome.failures += slow_steps(lines)
    outcome.neighbour = Neighbour.of(steps, (began, ended))
    outcome.failures += outcome.neighbour.failures()
    return outcome


def _judge(case: Case, outcome: Outcome, watch: Watch, *, is_alive: bool) -> None:
    found = outcome.failures
    if watch.killed:
        found.append(f"{watch.killed}, the bound is {case.bound_mib:.0f}")
    elif outcome.peak_mib > case.bound_mib:
        found.append(f"peak {outcome.peak_mib:.0f} MiB, the bound is {case.bound_mib:.0f}")
    growth = outcome.after_mib - outcome.before_mib
    if is_alive and growth > BACK_WITHIN_MIB:
        held = ", ".join(f"{kind} {mib:.1f}" for kind, mib in watch.held.items() if mib >= 1)
        found.append(f"{growth:.0f} MiB have not come down (counted: {held or 'nothing'})")
    found += watch.over.values()
    if watch.spool_mib > case.disk_mib:
        found.append(f"the spool takes {watch.spool_mib:.0f} MiB, allowed {case.disk_mib:.0f}")
    most = ", ".join(f"{kind} {mib:.1f}" for kind, mib in sorted(watch.most.items()) if mib >= 0.1)
    outcome.said.append(f"most counted, MiB: {most or 'nothing'}")
    if watch.spool_mib >= 1:
        outcome.said.append(f"spool {watch.spool_mib:.0f} MiB")
    if watch.stale:
        outcome.said.append(f"{watch.stale:.0f} scrapes without an answer in time")


async def _come_back(volume: Volume, watch: Watch, mib: float) -> None:
    """Wait until no more than this is resident, or for a while."""
    deadline = time.monotonic() + BACK_WITHIN_S
    await asyncio.sleep(2)
    while watch.rss_mib > mib and time.monotonic() < deadline and not volume.is_aborted:
        await asyncio.sleep(0.5)


async def _end(at: Bench, outcome: Outcome) -> None:
    try:
        report = await at.mounter.unmount(at.volume)
    except TimeoutError:
        outcome.failures.append("the worker does not end after umount")
        at.volume.abort()
        return
    if report.error is not None:
        outcome.failures.append(f"at the end: {report.error}")


def warnings(log: Path) -> Iterator[dict[str, str]]:
    """The lines of the mounter's log from WARNING on."""
    for text in log.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if line["level"] not in ("DEBUG", "INFO"):
                yield line


def summary(lines: list[dict[str, str]]) -> list[str]:
    """How many there are of each level and code, with the first."""
    counts = Counter((line["level"], line.get("code", "")) for line in lines)
    return [
        f"log: {k} {level} {code}: "
        + next(x["message"] for x in lines if (x["level"], x.get("code", "")) == (level, code))[
            :150
        ]
        for (level, code), k in counts.items()
    ]


def slow_steps(lines: list[dict[str, str]]) -> list[str]:
    """The first two of the steps that the switch has reported, which handlers have made."""
    texts = [line["message"] for line in lines if "held the event loop" in line["message"]]
    return [text[:200] for text in texts if not is_not_judged(text)][:2]


async def work(name: str, at: Bench, n: int, *, within_s: float) -> tuple[str, str]:
    """Run a workload in a process; returns what is wrong ("" if nothing is), and its remark."""
    words = [sys.executable, "-m", "tests.scale.work", name, str(at.volume.path), str(n)]
    process = await asyncio.create_subprocess_exec(
        *words,
        at.server.endpoint,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C"},
        process_group=0,
    )
    result, rest = None, b""
    try:
        async with asyncio.timeout(within_s):
            while result is None and (line := await process.stdout.readline()):
                rest += line
                with suppress(ValueError):
                    result = json.loads(line)
        async with asyncio.timeout(END_WITHIN_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        at.volume.abort()
        await process.wait()
        if result is None:
            return f"not done after {within_s:.0f} s", ""
    if result is None:
        return f"ended with {process.returncode}: {rest[-300:].decode(errors='replace')}", ""
    return result["failure"], result["said"]
