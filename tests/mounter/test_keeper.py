"""The keeper and the zygote, driven as node drives them."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from csi_s3.link.messages import ServeBody
from csi_s3.link.report import State
from csi_s3.mounter.fuse_mount import FuseMount
from csi_s3.mounter.mounter_deadlines import MounterDeadlines
from csi_s3.mounter.zygote_client import ZygoteClient
from csi_s3.obs.metrics import catalog as metrics
from tests.mounter.harness import INIT, ZYGOTE, line, mounter, node, running, spec

__all__ = ["node", "running"]

OTHER = "b" * 32


refusals = metrics.MOUNT_FAILURES.value


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
    assert "volume-not-found" not in str(metrics.MOUNT_FAILURES.values())  # no mount was asked for


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


@pytest.mark.warnings_expected("the worker broke the protocol", "the worker .* died: SIGKILL")
async def test_a_worker_that_breaks_the_protocol_is_killed(tmp_path):
    async with mounter(tmp_path / "node.sock", exit_s=0.05) as running:
        fuse = await running.node.serve("babbles")
        report = await running.node.report()
        while report.state is State.SERVING:
            report = await running.node.report()
        assert report.error.what.endswith("died: SIGKILL")
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
async def test_a_worker_that_does_not_drain_in_time_is_killed(tmp_path):
    async with mounter(tmp_path / "node.sock", drain_margin_s=0.05) as running:
        fuse = await running.node.serve("deaf")
        await running.node.report()
        await running.node.say("stop")
        assert (await running.node.report()).error.code == "worker-died"
        os.close(fuse)


@pytest.mark.warnings_expected("the worker of volume 'leaves' died: exit-0")
async def test_a_mount_is_held_until_it_is_closed_also_after_its_worker_s_exit():
    zygote_client, sent = ZygoteClient(ZYGOTE), []
    running = asyncio.create_task(zygote_client.run())
    theirs, ours = os.pipe()
    body = ServeBody(spec=spec("leaves"), init=INIT)
    fuse_mount = FuseMount(body, ours, zygote_client, sent.append, MounterDeadlines())
    assert "starting <WorkerRun not started>" in repr(fuse_mount)
    await fuse_mount.serve(1 << 20, {})
    pid = await line(theirs)
    assert [report.state for report in sent] == [State.FAILED]
    assert f"failed stopping <WorkerRun pid={pid} exited: exit-0>" in repr(fuse_mount)
    have, copy = fuse_mount.have()
    assert (have["spec"], have["report"]["state"]) == (body.spec.to_json(), "failed")
    os.close(copy)
    os.write(ours, b"held")
    assert await line(theirs) == "held"
    fuse_mount.close()
    await fuse_mount.wait_closed()
    assert await line(theirs) == ""
    os.close(theirs)
    assert zygote_client.close() == "exit-0"
    await running


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
