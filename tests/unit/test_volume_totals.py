"""What is kept of volumes whose workers have ended, and for how long."""

import os

from csi_s3.kernel.process_memory import memory_of
from csi_s3.mounter.metrics.volume_totals import FORGET_AFTER_S, VolumeTotals
from csi_s3.mounter.metrics.worker_metrics import WorkerMetrics
from csi_s3.obs.metrics import catalog as metrics

READ = metrics.READ_BYTES.name


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


def ended(totals, volume, read):
    worker = WorkerMetrics(volume)
    totals.opened(worker)
    worker.take({"families": {READ: [[read]], metrics.INODES.name: [[9]]}})
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


async def test_a_volume_that_is_mounted_is_not_forgotten():
    clock = Clock()
    totals, worker = VolumeTotals(clock), WorkerMetrics("stays")
    ended(totals, "stays", 3)
    totals.opened(worker)
    worker.take({"families": {READ: [[1]]}})
    clock.now_s += 2 * FORGET_AFTER_S
    assert (await totals.collect())[READ] == {("stays",): 4}


def test_memory_is_what_the_kernel_says_and_nothing_of_a_process_that_is_not_there():
    found = memory_of(os.getpid())
    assert 1 << 20 < found.private < found.rss < 1 << 40
    assert memory_of((1 << 22) + 1) is None
