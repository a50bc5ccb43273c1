"""What all volumes of a mounter have counted: those served now, and those that were.

A worker's counts end with it, and the next worker of the volume starts from zero. So that a total
never goes backwards while the mounter lives, the last numbers of ended workers are kept and added,
by volume. What a killed worker has counted since the last scrape is lost; one that ends in order
tells it as its last word.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from csi_s3.aio import blocking
from csi_s3.kernel.process_memory import ProcessMemory, memory_of
from csi_s3.mounter.metrics.worker_metrics import WorkerMetrics
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics import samples
from csi_s3.obs.metrics.instruments import MetricSource
from csi_s3.obs.metrics.samples import Samples

ANSWER_WITHIN_S = 2.0
FORGET_AFTER_S = 3600.0  # a volume that nobody has mounted: its series end

_OF_A_VOLUME = [
    m for m in metrics.ALL if m.source is MetricSource.MOUNTER and m.labels[:1] == ("volume",)
]


@dataclass(slots=True)
class _EndedWorkers:
    """What the ended workers of a volume had counted, and when the last of them ended."""

    ended_s: float
    counted: Samples = field(default_factory=dict)


class VolumeTotals:
    """Lifetime: the keeper's. Concurrency: plain code but `collect`, which any number may await."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meters: set[WorkerMetrics] = set()
        self._past: dict[str, _EndedWorkers] = {}

    def __len__(self) -> int:
        return len(self._meters)

    def opened(self, meter: WorkerMetrics) -> None:
        self._meters.add(meter)

    def closed(self, meter: WorkerMetrics) -> None:
        """Keep what the worker had counted; it has ended."""
        self._meters.discard(meter)
        past = self._past.setdefault(meter.volume, _EndedWorkers(self._clock()))
        past.ended_s = self._clock()
        past.counted = samples.total([past.counted, samples.lasting(meter.counted)])
        self._forget()

    async def collect(self) -> Samples:
        """Everything this mounter exports. Who is silent for too long is counted as it was."""
        asked = list(self._meters)
        async with asyncio.TaskGroup() as group:
            for meter in asked:
                group.create_task(_refresh(meter))
        await self._weigh()
        self._forget()
        metrics.WORKERS.set(len(self._meters))
        return samples.total(
            [
                samples.take(MetricSource.MOUNTER, MetricSource.BOTH),
                *(meter.counted for meter in self._meters),
                *(past.counted for past in self._past.values()),
            ]
        )

    async def _weigh(self) -> None:
        """Look how much memory the workers have, a volume's together."""
        pids = [(m.volume, m.pid) for m in self._meters if m.pid is not None]
        try:
            found = await blocking(partial(_memory, pids), within_s=ANSWER_WITHIN_S)
        except TimeoutError:
            return
        for volume in {m.volume for m in self._meters} | self._past.keys():
            held = [memory for of, memory in found if of == volume]
            for kind in ProcessMemory._fields:
                total = sum(getattr(memory, kind) for memory in held)
                metrics.WORKER_MEMORY_BYTES.set(total, volume=volume, kind=kind)

    def _forget(self) -> None:
        served = {meter.volume for meter in self._meters}
        before_s = self._clock() - FORGET_AFTER_S
        for volume, past in list(self._past.items()):
            if past.ended_s < before_s and volume not in served:
                del self._past[volume]
                for metric in _OF_A_VOLUME:
                    metric.forget(volume)


async def _refresh(meter: WorkerMetrics) -> None:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await meter.refresh()
    except TimeoutError:
        metrics.STALE_ANSWERS.inc(volume=meter.volume)


def _memory(pids: list[tuple[str, int]]) -> list[tuple[str, ProcessMemory]]:
    found = ((volume, memory_of(pid)) for volume, pid in pids)
    return [(volume, memory) for volume, memory in found if memory is not None]
