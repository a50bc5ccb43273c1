"""Whatever node or a worker sends, the keeper serves its other mounts afterwards."""

import asyncio
import contextlib
import os
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csi_s3.link.report import State
from tests.made_up_messages import DESCRIPTORS, datagrams, opened
from tests.mounter.harness import INIT, WITHIN_S, line, mounter, spec
from tests.mounter.test_hostile_worker import MINE, OTHER, is_gone, is_served, puppet
from tests.scraping import Scrape

ERROR = {"code": "internal", "what": "w", "hint": "h", "public": "p"}
REPORT = {"mount_id": MINE, "state": "serving", "error": None, "usage": {"inodes": 1}}
OF_WORKER = [
    {"type": "report", "report": REPORT},
    {"type": "report", "report": {**REPORT, "state": "failed", "error": ERROR}},
    {"type": "notice", "notice": {"mount_id": MINE, "reason": "UploadFailed", "error": ERROR}},
    {"type": "metrics", "families": {"csi_s3_inodes": [[1]], "csi_s3_errors_total": [["x", 1]]}},
]
OF_NODE = [
    {"type": "serve", "spec": spec("leaves", MINE).to_json(), "init": INIT},
    {"type": "stop", "mount_id": MINE},
    {"type": "usage", "mount_id": MINE},
]
FDS = st.lists(st.sampled_from(DESCRIPTORS), max_size=2)
ANY_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture
async def beside(tmp_path):
    """A mounter that serves another volume."""
    async with mounter(tmp_path / "node.sock", exit_s=0.05, drain_margin_s=0.05) as running:
        good = await running.node.serve(mount_id=OTHER)
        await line(good)
        assert (await running.node.report()).state is State.SERVING
        yield running
        os.close(good)


@pytest.mark.timeout(600)
@pytest.mark.warnings_expected("the worker", "worker did not end", "is killed")
@settings(max_examples=20, suppress_health_check=ANY_FIXTURE)
@given(sent=st.lists(st.tuples(datagrams(OF_WORKER), FDS), min_size=1, max_size=4))
async def test_the_keeper_serves_whatever_a_worker_sends(beside, tmp_path, sent):
    async with puppet(beside, tmp_path / "puppet") as worker:
        with contextlib.suppress(ConnectionError):
            for data, kinds in sent:
                with opened(kinds) as fds:
                    await _send(worker, data, fds)
        await beside.node.say("usage", OTHER)
        await _answer(beside.node, OTHER)
        Scrape((await beside.keeper.collect()).decode())
        await beside.node.say("stop", MINE)
        await is_gone(beside)


async def _send(worker: socket.socket, data: bytes, fds: list[int]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                socket.send_fds(worker, [data], fds)
            except BlockingIOError:
                await asyncio.sleep(0.01)
            else:
                return


async def _answer(node, mount_id) -> None:
    """Wait for a report of this mount; others may come before."""
    async with asyncio.timeout(WITHIN_S):
        while (message := await node.channel.receive()) is not None:
            report = message.body.get("report", {})
            if report.get("mount_id") == mount_id:
                return
    raise AssertionError("the keeper ended the connection")


@pytest.mark.timeout(600)
@pytest.mark.warnings_expected(".")
@settings(max_examples=20, suppress_health_check=ANY_FIXTURE)
@given(sent=st.lists(st.tuples(datagrams(OF_NODE), FDS), min_size=1, max_size=4))
async def test_the_keeper_serves_whatever_node_sends(beside, sent):
    node = beside.node
    for data, kinds in sent:
        with opened(kinds) as fds, contextlib.suppress(OSError):
            socket.send_fds(node.channel._sock, [data], fds)
    node.hang_up()
    for message in await node.accept():
        message.close_fds()
    assert await is_served(beside, OTHER)
