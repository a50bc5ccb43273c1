"""Foreign code in a worker: it can end its own mount, and nothing else of the mounter."""

import asyncio
import json
import os
import signal
import socket
from contextlib import asynccontextmanager

import pytest

from csi_s3.errors import InternalError
from csi_s3.link.channel import MAX_MESSAGE_BYTES, encoded
from csi_s3.link.json_values import MAX_TEXT_BYTES
from csi_s3.link.messages import ServeBody
from csi_s3.link.report import Notice, Reason, Report, State, Usage
from csi_s3.mounter.fuse_mount import FuseMount
from csi_s3.mounter.mounter_deadlines import MounterDeadlines
from csi_s3.mounter.zygote_client import ZygoteClient
from tests.mounter.harness import INIT, WITHIN_S, ZYGOTE, line, mounter, spec
from tests.scraping import Scrape

MINE, OTHER = "a" * 32, "b" * 32
ODD = {
    "a list for an id": b'{"type":"report","report":{"mount_id":[],"state":"serving"}}',
    "a list for a report": b'{"type":"report","report":[]}',
    "depth": b"[" * 100_000,
    "half a character": b'{"type":"report","report":{"mount_id":"%s","state":"failed",'
    b'"error":{"code":"internal","what":"\\ud800"}}}' % MINE.encode(),
    "metrics that are none": b'{"type":"metrics","families":{"csi_s3_inodes":[[{}]]}}',
    "metrics of the mounter": b'{"type":"metrics","families":{"csi_s3_mounts":[[1]]}}',
    "metrics in a list": b'{"type":"metrics","families":[]}',
    "an odd type": b'{"type":{}}',
    "a type of node": b'{"type":"serve"}',
    "nothing": b"0",
}


@asynccontextmanager
async def puppet(running, path, mount_id=MINE):
    """The worker's end of its channel to the keeper."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        fuse = await running.node.serve("puppet", mount_id, state_dir=str(path))
        async with asyncio.timeout(WITHIN_S):
            peer, _ = await asyncio.get_running_loop().sock_accept(listener)
        with peer:
            peer.settimeout(WITHIN_S)
            _, (fd,), _, _ = await asyncio.to_thread(socket.recv_fds, peer, 100, 1)
    path.unlink()
    with socket.socket(fileno=fd) as channel:
        channel.setblocking(False)
        yield channel
    os.close(fuse)


async def is_served(running, mount_id=OTHER) -> bool:
    """The keeper answers for a mount, and collects the metrics of all of them."""
    await running.node.say("usage", mount_id)
    report = await running.node.report()
    Scrape((await running.keeper.collect()).decode())
    return (report.mount_id, report.state) == (mount_id, State.SERVING)


async def is_gone(running, mount_id=MINE) -> None:
    """Wait until the keeper does not know the mount any more."""
    async with asyncio.timeout(WITHIN_S):
        while mount_id in running.keeper._mounts:
            await asyncio.sleep(0.02)


@pytest.fixture
async def beside(tmp_path):
    """A mounter that serves another volume."""
    async with mounter(tmp_path / "node.sock", exit_s=0.05) as running:
        good = await running.node.serve(mount_id=OTHER)
        await line(good)
        assert (await running.node.report()).state is State.SERVING
        yield running
        os.close(good)


@pytest.mark.warnings_expected("the worker broke the protocol", "the worker of volume .* died")
async def test_a_worker_that_breaks_the_protocol_ends_alone(beside, tmp_path):
    for name, message in ODD.items():
        async with puppet(beside, tmp_path / "puppet") as worker:
            worker.send(message)
            report = await beside.node.report()
            assert (report.mount_id, report.state) == (MINE, State.FAILED), name
            assert report.error.code == "worker-died", name
        assert await is_served(beside), name


@pytest.mark.warnings_expected("the worker broke the protocol", "the worker of volume .* died")
async def test_descriptors_of_a_worker_are_refused(beside, tmp_path):
    read, write = os.pipe()
    message = encoded("report", {"report": Report(mount_id=MINE, state=State.SERVING).to_json()})
    async with puppet(beside, tmp_path / "puppet") as worker:
        socket.send_fds(worker, [message], [write])
        os.close(write)
        assert (await beside.node.report()).error.code == "worker-died"
        assert await line(read) == ""  # the keeper's copy is closed
    os.close(read)
    assert await is_served(beside)


@pytest.mark.warnings_expected("worker did not end in")
async def test_a_worker_reports_for_its_own_mount_only(beside, tmp_path):
    error = InternalError("made up")
    ended = Report(mount_id=OTHER, state=State.FAILED, error=error).to_json()
    notice = Notice(mount_id=OTHER, reason=Reason.UPLOAD_FAILED, error=error).to_json()
    async with puppet(beside, tmp_path / "puppet") as worker:
        worker.send(encoded("notice", {"notice": notice}))
        worker.send(encoded("report", {"report": ended}))
        async with asyncio.timeout(WITHIN_S):
            message = await beside.node.channel.receive()
        assert message.type == "notice"
        assert message.body["notice"]["mount_id"] == MINE
        report = await beside.node.report()
        assert (report.mount_id, report.state) == (MINE, State.FAILED)
        assert await is_served(beside)


@pytest.mark.parametrize("has_served", [False, True])
@pytest.mark.warnings_expected("the worker of volume 'puppet' died: SIGKILL")
async def test_a_worker_whose_channel_another_process_has_is_seen_to_end(tmp_path, has_served):
    """As a worker may give it away before it dies."""
    async with (
        mounter(tmp_path / "s", exit_s=0.05) as running,
        puppet(running, tmp_path / "puppet") as worker,
    ):
        if has_served:
            report = Report(mount_id=MINE, state=State.SERVING, usage=Usage(inodes=1))
            worker.send(encoded("report", {"report": report.to_json()}))
            assert (await running.node.report()).usage.inodes == 1
        (mounted,) = running.keeper._mounts.values()
        os.kill(mounted.worker._process.pid.result(), signal.SIGKILL)
        assert (await running.node.report()).error.code == "worker-died"
        assert worker.fileno() >= 0  # still open here
        await is_gone(running)


@pytest.mark.warnings_expected("worker did not end in")
async def test_a_worker_that_has_reported_its_end_and_stays_is_killed(tmp_path):
    async with (
        mounter(tmp_path / "s", exit_s=0.05, drain_margin_s=0.05) as running,
        puppet(running, tmp_path / "puppet") as worker,
    ):
        ended = Report(mount_id=MINE, state=State.ENDED).to_json()
        worker.send(encoded("report", {"report": ended}))
        assert (await running.node.report()).state is State.ENDED
        async with asyncio.timeout(WITHIN_S):
            while await asyncio.get_running_loop().sock_recv(worker, 1 << 17):
                pass  # `stop`; then the keeper closes its end, and its mount
        await is_gone(running)


@pytest.mark.warnings_expected("node does not read its messages", "worker did not end in")
async def test_notices_without_end_leave_the_other_mounts_their_places(beside, tmp_path):
    """Node does not read: 50 of one mount wait, and of each state the latest."""
    error = InternalError("x" * MAX_TEXT_BYTES)
    notice = Notice(mount_id=MINE, reason=Reason.UPLOAD_FAILED, error=error).to_json()
    async with puppet(beside, tmp_path / "puppet") as worker:
        sent = 0
        async with asyncio.timeout(WITHIN_S):
            while sent < 300:
                try:
                    worker.send(encoded("notice", {"notice": notice}))
                    sent += 1
                except BlockingIOError:
                    await asyncio.sleep(0.02)
        found = Scrape((await beside.keeper.collect()).decode())
        assert found.value("mounter_records", kind="messages") <= 51
        await beside.node.say("usage", OTHER)
        async with asyncio.timeout(WITHIN_S):
            while (message := await beside.node.channel.receive()).type == "notice":
                assert message.body["notice"]["mount_id"] == MINE
        assert message.body["report"]["mount_id"] == OTHER


@pytest.mark.warnings_expected("a report is not sent: it is too large")
async def test_a_mount_whose_last_report_fits_into_no_message_is_still_sent():
    zygote_client, sent = ZygoteClient(ZYGOTE), []
    handle = "v" * (MAX_MESSAGE_BYTES - 4096)
    body = ServeBody(spec=spec(handle), init=INIT)
    read, write = os.pipe()
    fuse_mount = FuseMount(body, write, zygote_client, sent.append, MounterDeadlines())
    have, copy = fuse_mount.have()
    os.close(copy)
    fuse_mount.fail(InternalError("x" * 130_000))
    have, copy = fuse_mount.have()
    os.close(copy)
    assert have["report"] is None
    assert json.loads(encoded("have", have))["spec"]["volume_handle"] == handle
    fuse_mount.close()
    os.close(read)
    zygote_client.close()
