"""The keeper and the zygote, driven as node drives them."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from csi_s3.errors import MounterUnavailableError
from csi_s3.link.report import State
from csi_s3.mounter import worker_supervisor
from csi_s3.mounter.keeper import Keeper
from csi_s3.mounter.zygote_client import ZygoteClient
from csi_s3.obs.metrics import catalog as metrics
from tests.mounter.harness import WITHIN_S, ZYGOTE, Node, line, mounter

OTHER = "b" * 32


refusals = metrics.MOUNT_FAILURES.value


@pytest.fixture
async def running(tmp_path):
    async with mounter(tmp_path / "node.sock") as found:
        yield found


@pytest.fixture
def node(running):
    return running.node


async def test_a_served_mount_has_a_worker_that_holds_its_descriptor(node):
    fuse = await node.serve()
    assert int(await line(fuse)) > 0
    report = await node.report()
    assert (report.mount_id, report.state, report.error) == ("a" * 32, State.SERVING, None)
    os.close(fuse)


async def test_a_mount_without_an_identity_of_its_own_has_the_mounters(tmp_path):
    async with mounter(tmp_path / "node.sock", credentials_dir=Path("/mounters")) as found:
        shared = await found.node.serve("identity")
        assert await line(shared) == "/mounters"
        assert (await found.node.report()).state is State.SERVING
        own = await found.node.serve("identity", OTHER, credentials_dir="/own")
        assert await line(own) == "/own"
        assert (await found.node.report()).state is State.SERVING
    os.close(shared)
    os.close(own)


async def test_usage_is_answered_by_the_worker(node):
    fuse = await node.serve()
    pid = (await node.report()).usage.inodes
    await node.say("usage")
    report = await node.report()
    assert report.state is State.SERVING
    assert report.usage.inodes == pid
    os.close(fuse)


async def test_usage_of_a_mount_that_is_not_served_is_answered_not_found(node):
    await node.say("usage", OTHER)
    report = await node.report()
    assert (report.mount_id, report.state, report.error.code) == (
        OTHER,
        State.FAILED,
        "volume-not-found",
    )
    assert "volume-not-found" not in str(metrics.MOUNT_FAILURES.held())  # no mount was asked for


async def test_stop_ends_the_worker_and_closes_the_descriptor(running, node):
    fuse = await node.serve()
    await line(fuse)
    await node.report()
    await node.say("stop")
    assert (await node.report()).state is State.ENDED
    assert await line(fuse) == ""
    assert "mounts=[]" in repr(running.keeper)
    os.close(fuse)


async def test_stop_of_a_mount_that_is_not_served_is_answered_ended(node):
    await node.say("stop", OTHER)
    report = await node.report()
    assert (report.mount_id, report.state) == (OTHER, State.ENDED)


async def test_stop_ends_a_worker_whose_bucket_has_not_answered_yet(node):
    fuse = await node.serve("never-serves")
    await line(fuse)
    await node.say("stop")
    report = await node.report()
    assert (report.state, report.error) == (State.ENDED, None)
    assert await line(fuse) == ""
    os.close(fuse)


@pytest.mark.warnings_expected("the worker of volume 'obedient' died: SIGKILL")
async def test_a_killed_worker_is_reported_with_its_signal_and_its_descriptor_closed(node):
    deaths = metrics.WORKER_DEATHS.value(volume="obedient", cause="SIGKILL")
    fuse = await node.serve()
    pid = int(await line(fuse))
    await node.report()
    os.kill(pid, signal.SIGKILL)
    report = await node.report()
    assert (report.state, report.error.code) == (State.FAILED, "worker-died")
    assert report.error.what == "the worker of volume 'obedient' died: SIGKILL"
    assert "memory" in report.error.hint
    assert "next publish" in report.error.hint
    assert await line(fuse) == ""
    assert metrics.WORKER_DEATHS.value(volume="obedient", cause="SIGKILL") == deaths + 1
    os.close(fuse)


@pytest.mark.parametrize(
    ("handle", "cause"), [("exits", "exit-3"), ("leaves", "exit-0"), ("raises", "exit-70")]
)
@pytest.mark.warnings_expected("the worker of volume '(exits|leaves|raises)' died: exit-")
async def test_a_worker_that_leaves_without_a_word_is_reported_with_its_exit_code(
    node, handle, cause
):
    fuse = await node.serve(handle)
    report = await node.report()
    assert (report.state, report.error.code) == (State.FAILED, "worker-died")
    assert report.error.what.endswith(f"died: {cause}")
    os.close(fuse)


@pytest.mark.warnings_expected("worker said what is not a report", "the worker .* died: SIGKILL")
async def test_a_worker_that_breaks_the_protocol_is_killed(node, monkeypatch):
    monkeypatch.setattr(worker_supervisor, "EXIT_WITHIN_S", 0.05)
    fuse = await node.serve("babbles")
    assert (await node.report()).error.what.endswith("died: SIGKILL")
    os.close(fuse)


async def test_what_a_worker_said_at_last_is_not_replaced_by_its_exit_code(node):
    fuse = await node.serve("refused")
    report = await node.report()
    assert (report.error.code, report.error.hint) == ("s3-access-denied", "look at the policy")
    assert await line(fuse) != ""
    assert await line(fuse) == ""
    await node.say("stop")  # its answer would come after any other word on the mount
    assert (await node.report()).state is State.ENDED
    os.close(fuse)


async def test_one_worker_holds_nothing_of_another(node):
    fuses, counts = [], []
    for number in range(3):
        fuses.append(await node.serve(mount_id=f"{number:032x}"))
        counts.append((await node.report()).usage.open_files)
    assert counts == [counts[0]] * 3
    for fuse in fuses:
        os.close(fuse)


@pytest.mark.warnings_expected("died: SIGKILL")
async def test_a_worker_s_death_leaves_the_other_mounts_alone(node):
    doomed, other = await node.serve(), await node.serve(mount_id=OTHER)
    pids = {(await node.report()).mount_id for _ in range(2)}
    assert pids == {"a" * 32, OTHER}
    os.kill(int(await line(doomed)), signal.SIGKILL)
    assert (await node.report()).state is State.FAILED
    await node.say("usage", OTHER)
    assert (await node.report()).state is State.SERVING
    os.close(doomed)
    os.close(other)


async def test_after_a_reconnect_node_gets_each_mount_back_with_its_descriptor(node):
    fuses = {m: await node.serve(mount_id=m) for m in ("a" * 32, OTHER)}
    for fuse in fuses.values():
        await line(fuse)
    for _ in fuses:
        await node.report()
    node.hang_up()
    hello, *haves, ready = await node.accept()
    assert (hello.type, ready.type) == ("hello", "ready")
    assert hello.body == {"version": 1, "pid": os.getpid()}
    for have in haves:
        mount_id = have.body["spec"]["mount_id"]
        assert have.body["init"] == "68000000"
        assert have.body["report"]["state"] == "serving"
        fd = have.take_fd()
        os.write(fd, b"back")
        os.close(fd)
        assert await line(fuses[mount_id]) == "back"
    assert {h.body["spec"]["mount_id"] for h in haves} == set(fuses)
    await node.say("usage")
    assert (await node.report()).state is State.SERVING
    for fuse in fuses.values():
        os.close(fuse)


@pytest.mark.warnings_expected("died: SIGKILL")
async def test_a_mount_that_died_while_node_was_away_is_not_had_any_more(running, node):
    fuse = await node.serve()
    pid = int(await line(fuse))
    await node.report()
    node.go_away()
    os.kill(pid, signal.SIGKILL)
    assert await line(fuse) == ""  # the keeper has closed it: it has forgotten the mount
    node.come_back()
    assert [m.type for m in await node.accept()] == ["hello", "ready"]
    os.close(fuse)


async def test_a_mount_made_anew_under_the_same_id_waits_for_the_old_worker_s_end(node):
    old = await node.serve()
    old_pid = int(await line(old))
    await node.report()
    new = await node.serve()
    report = await node.report()  # of the new worker: the old one's ENDED would mislead node
    assert report.state is State.SERVING
    assert report.usage.inodes == int(await line(new)) != old_pid
    assert await line(old) == ""
    os.close(old)
    os.close(new)


@pytest.mark.warnings_expected("worker did not end in .* s and is killed")
@pytest.mark.warnings_expected("the worker of volume 'deaf' died: SIGKILL")
async def test_a_worker_that_does_not_drain_in_time_is_killed(node, monkeypatch):
    monkeypatch.setattr(worker_supervisor, "DRAIN_MARGIN_S", 0.05)
    fuse = await node.serve("deaf")
    await node.report()
    await node.say("stop")
    assert (await node.report()).error.code == "worker-died"
    os.close(fuse)


async def test_a_description_that_cannot_be_read_is_refused_and_nothing_else_suffers(node):
    before = refusals(volume="", code="bad-request")
    fuse = await node.serve(mount_id=OTHER)
    await node.report()
    await node.channel.send("serve", {"spec": {"mount_id": "a" * 32}, "init": ""}, [fuse])
    report = await node.report()
    assert (report.mount_id, report.error.code) == ("a" * 32, "bad-request")
    assert "differ in version" in report.error.hint
    assert refusals(volume="", code="bad-request") == before + 1
    await node.channel.send("new-in-version-9", {})
    await node.say("usage", OTHER)
    assert (await node.report()).state is State.SERVING
    os.close(fuse)


async def test_a_message_without_its_descriptor_ends_the_connection_not_the_mounts(node):
    fuse = await node.serve()
    await node.report()
    await node.channel.send("serve", {"spec": {"mount_id": OTHER}, "init": ""})
    await node.end()
    node.hang_up()
    messages = await node.accept()
    assert [m.type for m in messages] == ["hello", "have", "ready"]
    messages[1].close_fds()
    os.close(fuse)


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
async def test_a_keeper_that_is_ending_takes_no_new_mount(running, node, monkeypatch):
    monkeypatch.setattr(worker_supervisor, "DRAIN_MARGIN_S", WITHIN_S)
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
            assert await line(fuse) == ""  # the worker is gone, too
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
    """Its container holds a directory that nobody sees any more; a new one is given the new one."""
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
