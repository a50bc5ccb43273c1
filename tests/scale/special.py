"""Cases in which the mounter itself is the workload's subject: kills, and many volumes in turn."""

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path

from csi_s3.kernel import mount
from tests.scale import crowd
from tests.scale import mounter as mounters
from tests.scale.bench import Bench, tree_config, work
from tests.scale.cases import Case
from tests.scale.outcome import Outcome
from tests.scale.server import made_up_server
from tests.scale.watch import on_disk_mib, resident_mib

SPOOL_MIB = 64
EDITED_BYTES = 24 << 20  # what each killed worker leaves
EXIT_WITHIN_S = 10.0  # of a worker that has reported its end
KEEPER_MIB = 3.0  # by which the keeper may grow

CASES = (
    Case(name="leftovers", sizes=(2, 10), layout=lambda _: {"large": {"bytes": EDITED_BYTES}}),
    Case(name="volumes", sizes=(4, 50), layout=lambda _: {"big": {"n": 100}}),
    crowd.CASE,
)


async def leftovers(case: Case, n: int) -> Outcome:
    """n workers are killed while a large file is open for writing; the spool still has room."""
    outcome, began = Outcome(case.name, n), time.monotonic()
    options = {"spool_bytes": SPOOL_MIB << 20, "drain_timeout_s": 5.0}
    with tempfile.TemporaryDirectory(prefix="csi-s3-scale-") as base:
        async with made_up_server(case.layout(n)) as server, mounters.running(Path(base)) as at:
            state = at.state_dir("under-test")
            for i in range(n + 1):
                volume = await at.mount("under-test", server.endpoint, tree_config(148, **options))
                bench = Bench(at, server, volume)
                name = "edit-and-hold" if i < n else "edit"
                failure, _ = await work(name, bench, EDITED_BYTES >> 12, within_s=90)
                outcome.peak_mib = max(outcome.peak_mib, resident_mib(volume.pid)[1])
                if i < n:
                    os.kill(volume.pid, signal.SIGKILL)
                    await asyncio.sleep(0.5)
                mount.umount(volume.path)
                if i == n:
                    await at.unmount(volume)
                disk = on_disk_mib(state)
                if failure:
                    outcome.failures.append(f"after {i} kills: {failure} ({disk:.0f} MiB on disk)")
                    break
            outcome.said.append(f"{on_disk_mib(state):.0f} MiB are left on disk")
            if on_disk_mib(state) > SPOOL_MIB + 1:
                outcome.failures.append(f"{on_disk_mib(state):.0f} MiB on disk, of {SPOOL_MIB}")
    outcome.seconds = time.monotonic() - began
    return outcome


async def volumes(case: Case, n: int) -> Outcome:
    """n volumes with different handles, one after the other; the keeper's memory stays."""
    outcome, began = Outcome(case.name, n), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="csi-s3-scale-") as base:
        async with made_up_server(case.layout(n)) as server, mounters.running(Path(base)) as at:
            for i in range(n + 2):
                volume = await at.mount(f"volume-{i}", server.endpoint, tree_config(148))
                failure, _ = await work("list-some", Bench(at, server, volume), 100, within_s=60)
                if failure:
                    outcome.failures.append(f"volume {i}: {failure}")
                await at.scrape()
                report = await at.unmount(volume)
                if report.error is not None:
                    outcome.failures.append(f"volume {i}: {report.error}")
                if i == 1:
                    outcome.before_mib = resident_mib(at.pid)[0]
            outcome.after_mib, outcome.peak_mib = resident_mib(at.pid)
            outcome.requests = await server.counts()
            deadline = time.monotonic() + EXIT_WITHIN_S
            while (left := at.workers()) and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            if left:
                outcome.failures.append(f"{len(left)} workers are left")
    growth = outcome.after_mib - outcome.before_mib
    outcome.said.append(f"the keeper has grown by {growth:.1f} MiB")
    if growth > KEEPER_MIB:
        outcome.failures.append(f"the keeper has grown by {growth:.1f} MiB in {n} volumes")
    outcome.seconds = time.monotonic() - began
    return outcome


RUNS = {"leftovers": leftovers, "volumes": volumes, "crowd": crowd.crowd}
