"""Workers, mounters and the node itself end: no program hangs, and other volumes go on."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import grpc

from csi_s3.errors import InternalError
from csi_s3.link import channel
from csi_s3.link.report import Report, State
from csi_s3.link.spec import VERSION
from tests.rpc.conftest import is_dead, refused, run
from tests.rpc.fake_mounter import FakeMounter, until


async def test_a_dead_worker_is_an_error_once_and_the_next_publish_mounts_anew(node, mounter):
    a, b, other = node.target("a"), node.target("b"), node.target("other")
    await node.publish(a)
    await node.publish(b)
    await node.publish(other, handle="pv-2", bucket="another")
    await mounter.kill_worker(
        "bucket", InternalError("the worker was killed by SIGSEGV", "see log")
    )
    await is_dead(a)
    await is_dead(b)
    await until(lambda: len(node.volume_directories()) == 1)
    (line,) = node.logged("ERROR")
    assert (line["volume"], line["code"]) == ("pv", "internal")
    assert line["message"] == "the worker was killed by SIGSEGV (see log)"
    assert run("cat", other / "hello").stdout == "hello\n"
    wrong = (await node.stats(a)).volume_condition
    assert wrong.abnormal
    assert "killed by SIGSEGV" in wrong.message
    await node.publish(a)
    await node.publish(b)
    assert run("cat", a / "hello", b / "hello").stdout == "hello\n" * 2
    assert mounter.count("serve") == 3
    assert not (await node.stats(a)).volume_condition.abnormal
    assert len(node.logged("ERROR")) == 1


async def test_changed_options_are_used_when_a_dead_mount_is_made_anew(node, mounter):
    target = node.target("a")
    await node.publish(target)
    await mounter.kill_worker("bucket", InternalError("died"))
    await is_dead(target)
    await node.publish(target, "allow-delete")
    assert mounter.by_bucket("bucket").spec.volume.tree.allow_delete
    await node.unpublish(target)
    await node.wait_until_clean()


async def test_a_worker_that_ends_under_a_live_mount_is_an_error(node, mounter):
    target = node.target("a")
    await node.publish(target)
    await mounter.kill_worker("bucket", None)
    await until(lambda: node.logged("ERROR"))
    (line,) = node.logged("ERROR")
    assert line["code"] == "worker-died"
    assert "the process that serves volume pv ended" in line["message"]


async def test_who_waits_in_the_mount_of_a_lost_mounter_is_freed(node, mounter):
    a, b = node.target("a"), node.target("b")
    await node.publish(a)
    await node.publish(b, handle="pv-2", bucket="another")
    mounter.by_bucket("bucket").fuse.silence()
    assert run("ls", b).returncode == 0
    waiting = [
        subprocess.Popen(["cat", a / "hello"], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    await until(lambda: all("wait_answer" in wchan(p.pid) for p in waiting))
    mounter._channel.close()  # its workers live on: only an abort frees who waits
    errors = await asyncio.gather(*(asyncio.to_thread(p.communicate, timeout=20) for p in waiting))
    assert all("not connected" in e or "abort" in e for _, e in errors), errors
    await until(lambda: not node.volume_directories())
    assert sorted(line["volume"] for line in node.logged("ERROR")) == ["pv", "pv-2"]
    assert {line["code"] for line in node.logged("ERROR")} == {"worker-died"}
    async with FakeMounter(node.mounter_socket):
        await node.publish(a)
        assert run("cat", a / "hello").stdout == "hello\n"


def wchan(pid: int) -> str:
    """The kernel function it sleeps in: request_wait_answer, if that is FUSE."""
    return Path(f"/proc/{pid}/wchan").read_text()


async def test_a_mount_that_only_a_container_holds_is_not_over(node, mounter):
    old, new = node.target("old"), node.target("new")
    await node.publish(old)
    container = node.namespace("private")
    inside = node.base / "inside"
    inside.mkdir()
    assert run("mount", "--bind", old, inside, inside=container.pid).returncode == 0
    await node.unpublish(old)
    assert not node.fuse_mounts()
    assert run("cat", inside / "hello", inside=container.pid).stdout == "hello\n"
    await node.publish(new)
    assert mounter.count("serve") == 2
    assert len(node.volume_directories()) == 2
    assert len({s.spec.mount_id for s in mounter.mounts.values()}) == 2
    assert run("cat", inside / "hello", inside=container.pid).stdout == "hello\n"
    container.kill()
    await until(lambda: len(node.volume_directories()) == 1)
    assert run("cat", new / "hello").stdout == "hello\n"
    assert not node.logged("ERROR")


async def test_a_restarted_node_knows_a_mount_that_only_a_container_holds(node, mounter):
    target, inside = node.target("a"), node.base / "inside"
    await node.publish(target)
    container = node.namespace("private")
    inside.mkdir()
    assert run("mount", "--bind", target, inside, inside=container.pid).returncode == 0
    await node.unpublish(target)
    await node.stop(signal.SIGKILL)
    await node.start()
    await mounter.reconnect()
    await node.publish(target)
    assert run("cat", inside / "hello", inside=container.pid).stdout == "hello\n"
    container.kill()
    await until(lambda: len(node.volume_directories()) == 1)
    await node.unpublish(target)
    await node.wait_until_clean()
    assert not node.logged("ERROR")


async def test_a_restarted_node_finds_its_mounts_again(node, mounter):
    a, b = node.target("a"), node.target("b")
    await node.publish(a)
    await node.publish(b, readonly=True)
    for number in (signal.SIGTERM, signal.SIGKILL):
        await node.stop(number)
        assert run("cat", a / "hello").stdout == "hello\n"
        await node.start()
        await mounter.reconnect()
    await node.publish(a)
    await node.publish(b, readonly=True)
    code, _ = await refused(node.publish(b))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    c = node.target("c")
    await node.publish(c)
    assert mounter.count("serve") == 1
    assert not (await node.stats(a)).volume_condition.abnormal
    for target in (a, b, c):
        await node.unpublish(target)
    await node.wait_until_clean()
    assert not node.logged("ERROR")


async def test_sigterm_ends_node_with_success_and_touches_no_mount(node, mounter):
    await node.publish(node.target("a"))
    before = node.fuse_mounts()
    assert await node.stop() == 0
    assert node.fuse_mounts() == before


async def test_a_target_unpublished_while_the_mounter_was_away_does_not_come_back(node, mounter):
    target = node.target("a")
    await node.publish(target)
    await node.stop()
    await node.start()
    await node.unpublish(target)
    assert not target.exists()
    await mounter.reconnect()
    await node.wait_until_clean()
    await until(lambda: not mounter.mounts)


async def test_a_restarted_node_removes_what_no_mounter_serves(node, mounter):
    target = node.target("a")
    await node.publish(target)
    mounter.by_bucket("bucket").fuse.silence()
    await node.stop(signal.SIGKILL)
    waiting = subprocess.Popen(["ls", target], stderr=subprocess.PIPE)
    await node.start()
    async with FakeMounter(node.mounter_socket):
        await until(lambda: not node.volume_directories())
        waiting.communicate(timeout=20)
        (line,) = node.logged("WARNING", "no worker serves")
        assert "s3://bucket/" in line["message"]
        await node.publish(target)
        assert run("cat", target / "hello").stdout == "hello\n"


async def test_a_second_mounter_waits_until_the_first_is_gone(node, mounter):
    await node.publish(node.target("a"))
    async with FakeMounter(node.mounter_socket) as second:
        await node.publish(node.target("b"), handle="pv-2")
        assert second.count("serve") == 0
        await mounter.die()
        await until(lambda: len(node.logged("INFO", "mounter is connected")) == 2)
        await node.publish(node.target("a"))
        assert second.count("serve") == 1


HELLO = ("hello", {"version": VERSION})


async def test_a_mounter_that_breaks_the_protocol_is_cut_off(node):
    for messages, text in (
        ([("ready", {})], "'ready' instead of ['hello']"),
        ([("hello", {"version": 99})], "version of the link is 99, that of this node plugin 1"),
        ([HELLO, ("have", {"spec": {}})], "an invalid 'have' message"),
    ):
        connection = channel.connect(node.mounter_socket)
        for type_, body in messages:
            await connection.send(type_, body)
        assert await connection.receive() is None
        connection.close()
        await until(lambda text=text: node.logged("WARNING", text))
    async with FakeMounter(node.mounter_socket) as mounter:
        await node.publish(node.target("a"))
        await mounter._channel.send("report", {"report": {"state": "singing"}})
        await until(lambda: node.logged("WARNING", "an invalid 'report' message"))
    assert not (await node.identity.Probe(probe())).ready.value


def probe():
    from csi_s3 import csi_pb2 as csi

    return csi.ProbeRequest()


async def test_a_mounter_that_says_nothing_does_not_keep_others_out(alone):
    silent = channel.connect(alone.mounter_socket)
    async with FakeMounter(alone.mounter_socket):
        await until(lambda: alone.logged("WARNING", "violated the protocol: no `ready` within"))
        await until(lambda: alone.logged("INFO", "mounter is connected"))
        await alone.publish(alone.target("a"))
    silent.close()


async def test_a_report_for_a_mount_that_nobody_has_is_ignored(node, mounter):
    await mounter.report(Report(mount_id="0" * 32, state=State.ENDED))
    await node.publish(node.target("a"))


STRANGER = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
print(s.recv(1) == b"")
"""


async def test_only_the_mounters_user_is_listened_to(idle):
    await idle.start("--mounter-uid", "65532")
    info = idle.mounter_socket.stat()
    assert (info.st_mode & 0o777, info.st_uid, info.st_gid) == (0o660, 0, 65532)
    idle.mounter_socket.chmod(0o666)
    idle.mounter_socket.parent.chmod(0o755)
    as_stranger = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]
    stranger = subprocess.run(
        [*as_stranger, sys.executable, "-I", "-c", STRANGER, str(idle.mounter_socket)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert stranger.stdout == "True\n", stranger.stderr
    (line,) = idle.logged("WARNING")
    assert "user 65533 connected to the mounter's socket and was rejected" in line["message"]
    async with FakeMounter(idle.mounter_socket):
        await idle.publish(idle.target("a"))
        state = idle.state / "spools" / idle.volume_directories()[0]
        assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (65532, 0o700)
