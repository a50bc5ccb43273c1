"""What is kept of volumes whose workers have ended, and for how long."""

import gc
import json
import os
import tracemalloc

import pytest

from csi_s3.kernel.process_memory import memory_of
from csi_s3.mounter.metrics.volume_totals import FORGET_AFTER_S, VolumeTotals
from csi_s3.mounter.metrics.worker_metrics import WorkerMetrics
from csi_s3.obs.metrics import catalog as metrics

ENDED_BYTES = 29_000
READ = metrics.READ_BYTES.name


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


def ended(totals, volume, read):
    worker = WorkerMetrics(volume)
    totals.opened(worker)
    worker.take({READ: [[read]], metrics.INODES.name: [[9]]})
    worker.closed()
    totals.closed(worker)


async def test_ended_workers_of_a_volume_are_summed_without_their_gauges():
    totals = VolumeTotals(Clock())
    ended(totals, "a", 3)
    ended(totals, "a", 4)
    ended(totals, "b", 5)
    found = await totals.collect()
    assert found[READ] == {("a",): 7, ("b",): 5}
    assert metrics.INODES.name not in found


async def test_a_volume_that_was_not_mounted_for_an_hour_is_forgotten():
    clock = Clock()
    totals = VolumeTotals(clock)
    metrics.WORKER_DEATHS.inc(volume="forgotten", cause="SIGKILL")
    ended(totals, "forgotten", 3)
    clock.now_s += FORGET_AFTER_S - 1
    assert (await totals.collect())[READ] == {("forgotten",): 3}
    ended(totals, "other", 1)
    clock.now_s += 2
    found = await totals.collect()
    assert found[READ] == {("other",): 1}
    assert not [
        labels for held in found.values() for labels in held if labels[:1] == ("forgotten",)
    ]


@pytest.mark.parametrize("n", [10, 100])
async def test_of_volumes_that_ended_the_latest_are_exported(n):
    totals = VolumeTotals(Clock(), max_ended=10)
    stays = WorkerMetrics("stays")
    totals.opened(stays)
    ended(totals, "stays", 1)
    for number in range(n):
        metrics.WORKER_DEATHS.inc(volume=f"v{number}", cause="SIGKILL")
        ended(totals, f"v{number}", 1)
    found = await totals.collect()
    assert {volume for (volume,) in found[READ]} == {
        "stays",
        *(f"v{number}" for number in range(n - 10, n)),
    }
    deaths = {volume for volume, _ in found[metrics.WORKER_DEATHS.name] if volume.startswith("v")}
    assert deaths == {f"v{number}" for number in range(n - 10, n)}
    for number in range(n):
        metrics.WORKER_DEATHS.forget(f"v{number}")


@pytest.mark.parametrize("n", [10, 100])
async def test_volumes_that_were_refused_are_forgotten_as_well(n):
    totals = VolumeTotals(Clock(), max_ended=10)
    volumes = [f"refused{number}" for number in range(n)]
    for volume in volumes:
        metrics.MOUNT_FAILURES.inc(volume=volume, code="bad-request")
        totals.refused(volume)
    found = (await totals.collect())[metrics.MOUNT_FAILURES.name]
    assert [volume for volume in volumes if (volume, "bad-request") in found] == volumes[-10:]


def test_what_an_ended_volume_costs_is_what_the_limit_is_made_of():
    """An ordinary worker: 30 operations, 10 errors, 10 kinds of requests."""
    ops, few = [f"operation{n}" for n in range(30)], [f"NAME{n}" for n in range(10)]
    families = {
        metrics.FUSE_OPERATIONS.name: [[op, "ok", 5] for op in ops],
        metrics.FUSE_SECONDS.name: [[op, [5] * 9 + [0.5]] for op in ops],
        metrics.ERRORS.name: [[name, 5] for name in few],
        metrics.S3_REQUESTS.name: [[name, s, 5] for name in few for s in ("200", "404", "503")],
        metrics.S3_SECONDS.name: [[name, [5] * 12 + [0.5]] for name in few],
    }
    totals = VolumeTotals(Clock(), max_ended=100)
    tracemalloc.start()
    try:
        for number in range(100):
            worker = WorkerMetrics(f"volume-{number}")
            totals.opened(worker)
            worker.take(json.loads(json.dumps(families)))
            totals.closed(worker)
            del worker
        gc.collect()
        each = tracemalloc.get_traced_memory()[0] / 100
    finally:
        tracemalloc.stop()
    assert 0.75 * ENDED_BYTES < each < 1.25 * ENDED_BYTES, each


async def test_a_volume_that_is_mounted_is_not_forgotten():
    clock = Clock()
    totals, worker = VolumeTotals(clock), WorkerMetrics("stays")
    ended(totals, "stays", 3)
    totals.opened(worker)
    worker.take({READ: [[1]]})
    clock.now_s += 2 * FORGET_AFTER_S
    assert (await totals.collect())[READ] == {("stays",): 4}


def test_memory_is_what_the_kernel_says_and_nothing_of_a_process_that_is_not_there():
    found = memory_of(os.getpid())
    assert 1 << 20 < found.private < found.rss < 1 << 40
    assert memory_of((1 << 22) + 1) is None
