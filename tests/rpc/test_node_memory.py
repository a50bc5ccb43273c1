"""What node holds of volumes that are gone: nothing, however many there were.

The table and all below it in this process, with the real kernel and a mounter of the tests.
"""

import asyncio
import gc
import os
import pathlib
import tracemalloc
from itertools import islice, product

import pytest

from csi_s3.config.volume import BucketConfig, VolumeConfig
from csi_s3.kubernetes.cluster_api import PodRef
from csi_s3.node.mounter_link import MounterLink
from csi_s3.node.node_deadlines import NodeDeadlines
from csi_s3.node.pod_events import EventLimits, PodEvents
from csi_s3.node.source_mounts import SourceMounts
from csi_s3.node.targets import Targets
from csi_s3.node.volumes import Volumes
from tests.rpc import fake_fuse
from tests.rpc.fake_mounter import FakeMounter, until

KIB = 1 << 10
VOLUME_BYTES = 18_500  # with one pod
POD_BYTES = 420


class Sink:
    async def event(self, pod, *, reason, message):
        pass


class Table:
    """The table of volumes, run in this process, and the kubelet that calls it."""

    def __init__(self, base, volumes, mounter):
        self.kubelet, self.volumes, self.mounter = base / "kubelet", volumes, mounter

    def _path(self, number):
        above = self.kubelet / "pods" / f"uid-{number}" / "volumes" / "kubernetes.io~csi" / "pv"
        above.mkdir(parents=True, exist_ok=True)
        return above, f"{above}/mount"

    async def publish(self, number, pod=0):
        bucket = BucketConfig(bucket=f"bucket-{number}")
        pod = PodRef(namespace="science", name=f"pod-{pod}", uid=f"uid-{pod}")
        path = self._path(f"{number}-{pod.uid}")[1]
        await self.volumes.publish(f"pv-{number}", path, VolumeConfig(bucket=bucket), pod)
        await self.volumes.usage(f"pv-{number}", path)

    async def unpublish(self, number, pod=0):
        above, path = self._path(f"{number}-uid-{pod}")
        await self.volumes.unpublish(path)
        for directory in (above, *above.parents[:3]):
            directory.rmdir()

    async def is_empty(self):
        await until(lambda: self.volumes.counts().mounts == 0)
        await until(lambda: not self.mounter.mounts)
        self.mounter.messages.clear()

    async def cycle(self, n, *, first=0):
        """Publish and unpublish n volumes, ten at a time, each on pods of its own."""
        for start in range(first, first + n, 10):
            numbers = range(start, start + 10)
            await self.each(self.publish, zip(numbers, numbers, strict=True))
            await self.each(self.unpublish, zip(numbers, numbers, strict=True))
            await self.is_empty()

    async def each(self, call, volumes_and_pods):
        """Ten at a time: each takes many turns, and next to no work."""
        rest = iter(volumes_and_pods)
        while some := list(islice(rest, 10)):
            await asyncio.gather(*(call(number, pod=pod) for number, pod in some))


@pytest.fixture
async def table(base):
    (base / "kubelet").mkdir()
    sources = SourceMounts(base / "state", owner=os.getuid())
    sources.prepare()
    link = MounterLink(base / "node.sock", uid=os.getuid(), hello_s=5)
    volumes = Volumes(
        sources,
        Targets(base / "kubelet", base / "state"),
        link,
        pod_events=PodEvents(Sink(), EventLimits(former=10)),
        deadlines=NodeDeadlines(),
    )
    tasks = [asyncio.create_task(t) for t in (volumes.run(), link.run(volumes))]
    async with FakeMounter(base / "node.sock") as mounter:
        await link.wait(5)
        yield Table(base, volumes, mounter)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    link.remove()


async def held(*besides):
    """Traced bytes, without those of fakes and of the modules besides.

    pathlib makes the interpreter's table of interned strings grow, at once to some MB and for good.
    """
    filters = [tracemalloc.Filter(False, name) for name in (fake_fuse.__file__, *besides)]

    def count():  # in a thread: it takes long, and the loop is watched
        gc.collect()
        snapshot = tracemalloc.take_snapshot().filter_traces(filters)
        return sum(trace.size for trace in snapshot.traces)

    return await asyncio.to_thread(count)


@pytest.mark.timeout(400)  # minutes on a busy machine
async def test_of_volumes_that_are_gone_nothing_stays_however_many_there_were(table):
    await table.cycle(50)
    tracemalloc.start()
    try:
        grown = []
        for n in (30, 300):
            before = await held(pathlib.__file__)
            await table.cycle(n, first=n)
            grown.append(await held(pathlib.__file__) - before)
    finally:
        tracemalloc.stop()
    assert max(grown) < 38 * KIB, grown
    counts = table.volumes.counts()
    assert (counts.mounts, counts.pods, counts.lost, counts.operations) == (0, 0, 0, 0)


@pytest.mark.timeout(400)  # minutes on a busy machine
async def test_a_volume_that_comes_and_goes_on_pods_for_long_takes_no_more_memory(table):
    async def pods(n):
        for _ in range(n // 10):
            both = [(1, pod) for pod in range(2, 12)]
            await table.each(table.publish, both)
            await table.each(table.unpublish, both)
        table.mounter.messages.clear()

    await table.publish(1)
    await pods(100)
    tracemalloc.start()
    try:
        before = await held(pathlib.__file__)
        await pods(1000)
        grown = await held(pathlib.__file__) - before
    finally:
        tracemalloc.stop()
    await table.unpublish(1)
    await table.is_empty()
    assert grown < 32 * KIB, grown


@pytest.mark.timeout(400)
async def test_what_a_volume_and_a_pod_of_it_cost_is_what_the_docs_say(table):
    await table.cycle(20)
    await table.publish(0)
    tracemalloc.start()
    try:
        sizes = [await held()]
        for numbers, pods in ((range(1, 41), [0]), ([0], range(1, 101))):
            for number, pod in product(numbers, pods):  # one after the other: measured so
                await table.publish(number, pod=pod)
            table.mounter.messages.clear()
            sizes.append(await held())
    finally:
        tracemalloc.stop()
    await table.each(table.unpublish, ((number, 0) for number in range(1, 41)))
    await table.each(table.unpublish, ((0, pod) for pod in range(101)))
    await table.is_empty()
    volume, pod = (sizes[1] - sizes[0]) / 40, (sizes[2] - sizes[1]) / 100
    assert 0.75 * VOLUME_BYTES < volume < 1.25 * VOLUME_BYTES, volume
    assert 0.75 * POD_BYTES < pod < 1.25 * POD_BYTES, pod
