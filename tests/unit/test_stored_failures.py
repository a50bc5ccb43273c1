"""A failure that is stored outside the file system, and raised for each caller, holds none of them.

An exception keeps the frames that it was raised through. One instance that is raised again and
again would grow with each caller.
"""

import asyncio
import gc
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest

from csi_s3.config.volume import BucketConfig, VolumeConfig
from csi_s3.errors import CredentialsError, StoreUnavailableError, VolumeError, WorkerDiedError
from csi_s3.link.report import Report, State
from csi_s3.link.spec import MountSpec
from csi_s3.mounter.bucket_health import BucketHealth
from csi_s3.node.leftovers import Leftovers
from csi_s3.node.mount_worker import MountWorker
from csi_s3.node.mounter_link import MounterLink
from csi_s3.node.node_deadlines import NodeDeadlines
from csi_s3.node.pod_events import PodEvents
from csi_s3.node.source_mounts import SourceMounts
from csi_s3.node.volume_mount import NodeContext, VolumeMount
from csi_s3.s3.credentials.refresh import (
    AccessKeys,
    CredentialClock,
    Credentials,
    RefreshableCredentials,
    Secret,
)

RAISES = 1000
KIB = 1 << 10


def frames(error):
    count, trace = 0, error.__traceback__
    while trace is not None:
        count, trace = count + 1, trace.tb_next
    return count


async def raised(call):
    """Call again and again, each time with a large buffer; the depths, and what memory grew by."""

    async def caller(data):
        try:
            await call()
        except VolumeError as exc:
            return frames(exc), len(data)
        raise AssertionError("no error")

    depths = {(await caller(bytes(64 * KIB)))[0]}
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(RAISES):
            await asyncio.sleep(0)
            depths.add((await caller(bytes(64 * KIB)))[0])
        gc.collect()
        return depths, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def spec():
    volume = VolumeConfig(bucket=BucketConfig(bucket="b"))
    return MountSpec(mount_id="a" * 32, volume_handle="pv", volume=volume)


@pytest.fixture
async def context(tmp_path):
    link = MounterLink(tmp_path / "node.sock", uid=0, hello_s=1)
    listening = asyncio.create_task(link.run(None))
    await asyncio.sleep(0)
    pod_events = PodEvents(None)
    sources = SourceMounts(tmp_path, owner=0)
    yield NodeContext(
        sources=sources,
        mounter_link=link,
        pod_events=pod_events,
        leftovers=Leftovers(sources.leftovers, pod_events),
        deadlines=NodeDeadlines(),
    )
    listening.cancel()
    await asyncio.wait({listening})
    link.remove()


async def test_a_mount_that_failed_is_asked_a_thousand_times(context):
    mount = VolumeMount(spec(), context)
    mount.failure = WorkerDiedError("it died")
    depths, grown = await raised(mount.usage)
    assert (len(depths), grown < 8 * KIB) == (1, True), (depths, grown)
    assert frames(mount.failure) == 0


async def test_who_waits_for_a_worker_that_ends_gets_an_error_of_his_own(context):
    worker = MountWorker(spec(), context.mounter_link, NodeDeadlines())
    error = WorkerDiedError("it died")
    waiters = [asyncio.get_running_loop().create_future() for _ in range(3)]
    worker._usage_waiters += waiters
    worker.ended(error)
    found = [waiter.exception() for waiter in waiters]
    assert len({id(one) for one in [error, *found]}) == 4
    assert {one.occurrence for one in found} == {error.occurrence}


async def test_a_renewal_that_failed_is_shared_a_thousand_times():
    now = datetime(2026, 1, 1, tzinfo=UTC)

    class Source:
        async def find(self):
            if clock_s[0] == 0:
                return Credentials(
                    keys=AccessKeys("a", Secret("b"), None),
                    origin="test",
                    source=self,
                    expires=now + timedelta(seconds=60),
                )
            raise CredentialsError("no")

        def newer(self, *, at_once):
            return None

    clock_s = [0]
    clock = CredentialClock(
        now=lambda: now + timedelta(seconds=clock_s[0]), monotonic_s=lambda: clock_s[0]
    )
    credentials = RefreshableCredentials(Source(), bucket="b", clock=clock)
    await credentials.open()
    clock_s[0] = 100
    depths, grown = await raised(credentials.keys)
    assert (len(depths), grown < 8 * KIB) == (1, True), (depths, grown)
    assert frames(credentials._failure) == 0


async def test_the_failure_of_a_bucket_holds_no_request():
    health = BucketHealth("", clock=lambda: 0.0)

    async def request(data):
        with health.watch():
            raise StoreUnavailableError(f"{len(data)} bytes")

    with pytest.raises(StoreUnavailableError):
        await request(bytes(KIB))
    assert frames(health.failure) == 0


async def test_an_error_that_crossed_the_link_has_no_frames():
    async def fail():
        raise WorkerDiedError("it died")

    with pytest.raises(WorkerDiedError) as caught:
        await fail()
    report = Report(mount_id="a" * 32, state=State.FAILED, error=caught.value)
    assert frames(Report.from_json(report.to_json()).error) == 0
