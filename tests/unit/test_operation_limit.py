"""Operations on targets go on after kubelet gave up on them; their number has a limit."""

import asyncio

import pytest

from csi_s3.errors import BusyError
from csi_s3.node.mounter_link import MounterLink
from csi_s3.node.node_deadlines import NodeDeadlines
from csi_s3.node.pod_events import PodEvents
from csi_s3.node.source_mounts import SourceMounts
from csi_s3.node.targets import Targets
from csi_s3.node.volumes import MAX_OPERATIONS, Volumes


@pytest.fixture
async def volumes(tmp_path):
    """A table whose jobs do not run: as if the kernel answered none."""
    link = MounterLink(tmp_path / "node.sock", uid=0, hello_s=1)
    listening = asyncio.create_task(link.run(None))
    await asyncio.sleep(0)
    sources = SourceMounts(tmp_path, owner=0)
    deadlines = NodeDeadlines()
    yield Volumes(
        sources,
        Targets(tmp_path, tmp_path / "state"),
        link,
        pod_events=PodEvents(None),
        deadlines=deadlines,
    )
    listening.cancel()
    await asyncio.wait({listening})
    link.remove()


@pytest.mark.parametrize("n", [MAX_OPERATIONS, 10 * MAX_OPERATIONS])
async def test_operations_beyond_the_limit_are_refused_for_now(volumes, tmp_path, n):
    calls = []
    for number in range(n):
        calls.append(asyncio.create_task(volumes.unpublish(f"{tmp_path}/{number}")))
        if not number % 100:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    refused = [call for call in calls if call.done()]
    assert {type(call.exception()) for call in refused} <= {BusyError}
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert (len(refused), volumes.counts().operations) == (n - MAX_OPERATIONS, MAX_OPERATIONS)
