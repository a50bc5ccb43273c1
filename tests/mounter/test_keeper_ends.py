"""How a keeper begins and ends: stopped, cancelled, without its zygote, node or directory."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from csi_s3.errors import MounterUnavailableError
from csi_s3.link.report import State
from csi_s3.mounter.keeper import Keeper
from csi_s3.mounter.zygote_client import ZygoteClient
from csi_s3.obs.metrics import catalog as metrics
from tests.mounter.harness import WITHIN_S, ZYGOTE, Node, line, mounter, node, running

__all__ = ["node", "running"]


refusals = metrics.MOUNT_FAILURES.value
OTHER = "b" * 32


async def test_stopping_drains_every_mount_before_the_connection_ends(running, node):
    fuses = [await node.serve(mount_id=m) for m in ("a" * 32, OTHER)]
    for _ in fuses:
        await node.report()
    running.stop.set()
    reports = [await node.report() for _ in fuses]
    assert {r.mount_id for r in reports} == {"a" * 32, OTHER}
    assert {r.state for r in reports} == {State.ENDED}
    await node.end()
    async with asyncio.timeout(WITHIN_S):
        await running.task
    for fuse in fuses:
        os.close(fuse)


@pytest.mark.warnings_expected("the worker of volume 'deaf' died: SIGTERM")
async def test_a_keeper_that_is_ending_takes_no_new_mount(tmp_path):
    async with mounter(tmp_path / "node.sock", drain_margin_s=WITHIN_S) as running:
        node = running.node
        first = await node.serve("deaf")
        pid = int(await line(first))
        await node.report()
        running.stop.set()
        await asyncio.sleep(0)
        before = refusals(volume="obedient", code="mounter-unavailable")
        second = await node.serve(mount_id=OTHER)
        report = await node.report()
        assert (report.mount_id, report.error.code) == (OTHER, "mounter-unavailable")
        assert refusals(volume="obedient", code="mounter-unavailable") == before + 1
        os.kill(pid, signal.SIGTERM)
        assert (await node.report()).error.what.endswith("died: SIGTERM")
        os.close(first)
        os.close(second)


@pytest.mark.warnings_expected("the worker of volume 'obedient' died: unknown")
@pytest.mark.warnings_expected("the zygote died; mounts lost: 1")
async def test_the_zygote_s_death_is_every_worker_s_and_ends_the_keeper(tmp_path):
    with pytest.raises(MounterUnavailableError, match="died: SIGKILL") as error:  # noqa: PT012
        async with mounter(tmp_path / "s") as running:
            fuse = await running.node.serve()
            worker = int(await line(fuse))
            await running.node.report()
            zygote = _parent(worker)
            os.kill(zygote, signal.SIGKILL)
            report = await running.node.report()
            assert (report.state, report.error.code) == (State.FAILED, "worker-died")
            assert await line(fuse) == ""  # the worker has ended as well
            os.close(fuse)
            await running.node.end()
    assert "must be started again" in error.value.hint


async def test_a_zygote_that_cannot_fork_is_said_so(tmp_path):
    async with mounter(tmp_path / "s", "crowded") as running:
        fuse = await running.node.serve()
        report = await running.node.report()
        assert (report.state, report.error.code) == (State.FAILED, "worker-died")
        assert "no process could be started: Resource temporarily unavailable" in report.error.what
        os.close(fuse)


async def test_a_node_that_is_not_there_is_waited_for_and_logged_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "csi_s3.mounter.keeper")
    path = tmp_path / "node.sock"
    keeper, stop = Keeper(path, ZygoteClient(ZYGOTE)), asyncio.Event()
    task = asyncio.create_task(keeper.run(stop))
    loop = asyncio.get_running_loop()
    since = loop.time()
    while loop.time() < since + 0.3:  # some ten tries
        await asyncio.sleep(0.01)
    node = Node(path)
    await node.accept()
    stop.set()
    await task
    node.close()
    waiting = [r.getMessage() for r in caplog.records if "cannot reach node" in r.getMessage()]
    assert len(waiting) == 1
    assert str(path) in waiting[0]
    assert "No such file or directory" in waiting[0]


async def test_a_mounter_whose_socket_directory_was_removed_ends(tmp_path):
    """Its container has a deleted directory; only a new container gets the new one."""
    link = tmp_path / "link"
    link.mkdir()
    held = os.open(link, os.O_PATH)
    keeper = Keeper(Path(f"/proc/self/fd/{held}/mounter.sock"), ZygoteClient(ZYGOTE))
    link.rmdir()
    async with asyncio.timeout(WITHIN_S):
        await keeper.run(asyncio.Event())
    os.close(held)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8])
async def test_a_keeper_cancelled_at_any_step_leaves_no_process(tmp_path, after):
    node = Node(tmp_path / "s")
    zygote_client = ZygoteClient(ZYGOTE)
    task = asyncio.create_task(Keeper(tmp_path / "s", zygote_client).run(asyncio.Event()))
    await node.accept()
    fuse = await node.serve()
    for _ in range(after):
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert zygote_client.close() == "exit-0"
    node.close()
    while await line(fuse):  # until its last holder has gone
        continue
    os.close(fuse)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
