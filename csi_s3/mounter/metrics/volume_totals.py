"""What all workers of a mounter have counted, by volume: those that run and those that have ended.

A worker starts to count from zero. So that a total never goes backwards while the mounter lives,
the last numbers of ended workers are kept and added. What a killed worker has counted since the
last scrape is lost; one that ends in order sends its numbers last.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from csi_s3.mounter.metrics.worker_metrics import WorkerMetrics
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics import samples
from csi_s3.obs.metrics.instruments import MetricSource
from csi_s3.obs.metrics.samples import Samples

FORGET_AFTER_S = 3600.0  # the series of a volume that is not mounted any more
# Volumes that are not mounted any more. Measured: 29 KB of each, with 30 operations and 10 kinds of
# requests in use; a test measures it again.
MAX_ENDED = 100

_VOLUME_METRICS = [
    m for m in metrics.ALL if m.source is MetricSource.MOUNTER and m.label_names[:1] == ("volume",)
]


@dataclass(slots=True)
class _EndedWorkers:
    """What the ended workers of a volume had counted, and when the last of them ended."""

    ended_s: float
    counted: Samples = field(default_factory=dict)


class VolumeTotals:
    """Lifetime: the keeper's. Concurrency: plain code but `collect`, which any number may await.

    max_ended: volumes that are not mounted any more and still exported; the latest.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        answer_within_s: float = 2.0,
        max_ended: int = MAX_ENDED,
    ) -> None:
        self._clock, self._answer_within_s = clock, answer_within_s
        self._max_ended = max_ended
        self._workers: set[WorkerMetrics] = set()
        self._past: dict[str, _EndedWorkers] = {}  # the latest end last

    def opened(self, worker: WorkerMetrics) -> None:
        self._workers.add(worker)

    def closed(self, worker: WorkerMetrics) -> None:
        """Keep what the worker had counted; it has ended."""
        self._workers.discard(worker)
        past = self._ended(worker.volume)
        total = samples.total([past.counted, samples.counts(worker.counted)])
        past.counted = samples.bounded(total)
        self._forget()

    def refused(self, volume: str) -> None:
        """Note that this process counted something of a volume that got no worker."""
        self._ended(volume)
        self._forget()

    async def collect(self) -> Samples:
        """Everything this mounter exports; of a worker that does not answer, its last numbers."""
        async with asyncio.TaskGroup() as group:
            for worker in self._workers:
                group.create_task(self._refresh(worker))
        self._forget()
        metrics.WORKERS.set(len(self._workers))
        metrics.MOUNTER_RECORDS.set(len(self._past), kind="ended_volumes")
        return samples.total(
            [
                samples.take(MetricSource.MOUNTER, MetricSource.BOTH),
                *(worker.counted for worker in self._workers),
                *(past.counted for past in self._past.values()),
            ]
        )

    def _ended(self, volume: str) -> _EndedWorkers:
        """The record of a volume, now the latest."""
        past = self._past.pop(volume, None) or _EndedWorkers(0.0)
        self._past[volume] = past
        past.ended_s = self._clock()
        return past

    async def _refresh(self, worker: WorkerMetrics) -> None:
        try:
            async with asyncio.timeout(self._answer_within_s):
                await worker.refresh()
        except TimeoutError:
            metrics.STALE_ANSWERS.inc(volume=worker.volume)

    def _forget(self) -> None:
        served = {worker.volume for worker in self._workers}
        before_s = self._clock() - FORGET_AFTER_S
        ended = [volume for volume in self._past if volume not in served]
        over = len(ended) - self._max_ended
        for number, volume in enumerate(ended):
            if number < over or self._past[volume].ended_s < before_s:
                del self._past[volume]
                for metric in _VOLUME_METRICS:
                    metric.forget(volume)
