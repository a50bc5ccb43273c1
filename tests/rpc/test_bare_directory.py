"""A container never sees the directory of the node's disk that is below a volume's mount."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys

import grpc

from csi_s3.errors import InternalError
from csi_s3.kernel import mount, syscalls
from csi_s3.kernel.mountinfo import mounts_at
from tests.rpc.conftest import ROOT, is_dead, refused, run
from tests.rpc.fake_mounter import FakeMounter, until

DIED = InternalError("the worker was killed")

MS_BIND = 0x1000


class Containers:
    """What the pods saw that started in between."""

    def __init__(self, process):
        self._process = process
        self.count = {}

    def end(self):
        said, _ = self._process.communicate(timeout=60)
        self.count = json.loads(said)


@contextlib.asynccontextmanager
async def containers_start(node, path, name="hello"):
    inside = node.base.parent / f"inside-{os.getpid()}-{path.parent.name}-{path.name}"
    inside.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.rpc.container_loop", path, inside, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    containers = Containers(process)
    try:
        assert await asyncio.to_thread(process.stdout.readline) == b"up\n"
        yield containers
        await asyncio.to_thread(containers.end)
    finally:
        process.kill()
        process.communicate(timeout=20)
        inside.rmdir()


async def test_no_container_sees_it_whatever_dies(node, mounter):
    """Promise: A container that starts while its volume's mount is dead never sees the directory
    underneath: it fails to start, or each access is an error, until the volume is published again.
    """
    target = node.target("a")
    await node.publish(target)
    async with containers_start(node, target) as containers:
        for _ in range(5):
            await mounter.kill_worker("bucket", DIED)
            await is_dead(target)
            await node.publish(target)
        await mounter.die()
        await is_dead(target)
        async with FakeMounter(node.mounter_socket) as second:
            await until(lambda: len(node.logged("INFO", "mounter is connected")) == 2)
            await node.publish(target)
            await node.stop(signal.SIGKILL)
            await second.die()
            await is_dead(target)
            await node.start()
        async with FakeMounter(node.mounter_socket):
            await until(lambda: len(node.logged("INFO", "mounter is connected")) == 3)
            await is_dead(target)
            await node.publish(target)
            assert await asyncio.to_thread(os.listdir, target) == ["hello"]
    assert containers.count["bare"] == 0, containers.count
    assert containers.count["live"] > 0
    assert containers.count["error"] > 0


async def test_two_layers_are_the_most(node, mounter):
    target = node.target("a")
    await node.publish(target)
    floor = mounts_at(str(target))[0].mount_id
    for _ in range(5):
        await mounter.kill_worker("bucket", DIED)
        await is_dead(target)
        await node.publish(target)
        layers = mounts_at(str(target))
        assert (len(layers), layers[0].mount_id) == (2, floor)
        assert run("cat", target / "hello").stdout == "hello\n"
    await node.unpublish(target)
    assert not target.exists()
    await node.wait_until_clean()


async def test_a_new_mount_is_on_its_own_target_only_and_as_read_only_as_that(node, mounter):
    a, b, other = node.target("a"), node.target("b"), node.namespace("unchanged")
    await node.publish(a)
    await node.publish(b, readonly=True)
    for first, second in ((a, b), (b, a)):
        await mounter.kill_worker("bucket", DIED)
        await is_dead(a)
        await is_dead(b)
        await node.publish(first, readonly=first == b)
        await is_dead(second)
        assert run("ls", second, inside=other.pid).returncode != 0
        await node.publish(second, readonly=second == b)
        for inside in (None, other.pid):
            assert run("cat", a / "hello", b / "hello", inside=inside).stdout == "hello\n" * 2
            assert "Read-only" in run("touch", b / "new", inside=inside).stderr
    for target in (a, b):
        await node.unpublish(target)
    await node.wait_until_clean()
    assert not node.fuse_mounts(other.pid)


async def test_a_container_that_hears_of_the_nodes_mounts_has_the_new_one_at_once(node, mounter):
    target, inside = node.target("a"), node.base / "inside"
    await node.publish(target)
    inside.mkdir()
    container = node.namespace("slave")
    assert run("mount", "--bind", target, inside, inside=container.pid).returncode == 0
    await mounter.kill_worker("bucket", DIED)
    await is_dead(target)
    await node.publish(target)
    assert run("cat", inside / "hello", inside=container.pid).stdout == "hello\n"


async def test_a_publish_that_fails_leaves_the_dead_mount(node, mounter):
    target = node.target("a")
    await node.publish(target)
    await mounter.kill_worker("bucket", DIED)
    await is_dead(target)
    mounter.refuse["bucket"] = DIED
    await refused(node.publish(target))
    await is_dead(target)
    mounter.refuse.clear()
    await node.publish(target)
    assert run("cat", target / "hello").stdout == "hello\n"


async def test_a_restarted_node_knows_the_live_mount_on_top_of_a_dead_one(node, mounter):
    target = node.target("a")
    await node.publish(target)
    await mounter.kill_worker("bucket", DIED)
    await is_dead(target)
    await node.publish(target)
    await node.stop(signal.SIGKILL)
    await node.start()
    await mounter.reconnect()
    await node.publish(target)
    assert mounter.count("serve") == 2
    assert run("cat", target / "hello").stdout == "hello\n"
    await node.unpublish(target)
    assert not target.exists()
    await node.wait_until_clean()


async def test_a_dead_mount_that_a_restarted_node_has_never_known_is_covered_or_removed(idle):
    a, b = idle.target("a"), idle.target("b")
    for target in (a, b):
        target.mkdir()
        fd = mount.open_fuse()
        mount.mount_fuse(fd, target, source_name="s3://bucket/")
        os.close(fd)
    await idle.start()
    async with FakeMounter(idle.mounter_socket):
        await idle.publish(a)
        assert run("cat", a / "hello").stdout == "hello\n"
        await idle.unpublish(a)
        await idle.unpublish(b)
    assert not a.exists()
    assert not b.exists()


# --- files that are there all the same ------------------------------------------------------------


async def test_files_below_a_target_are_told_and_moved_at_its_end(node, mounter):
    target = node.target("a")
    target.mkdir()
    (target / "precious").write_text("data")
    (target / "link").symlink_to("/etc")
    await node.publish(target, pod="a")
    text = f"files were written to the node's disk, in {target}, while the volume was not mounted"
    (line,) = node.logged("WARNING", text)
    assert line["volume"] == "pv"
    await until(lambda: [event[:2] for event in node.events()] == [("a", "FilesOnNode")])
    await node.publish(target, pod="a")
    await node.unpublish(target)
    kept = node.state / "leftovers" / "a_pv" / "mount"
    await until(lambda: len(node.events()) == 2)
    assert node.events()[1][:2] == ("a", "FilesOnNode")
    assert f"They were moved to {kept} on the node" in node.events()[1][2]
    assert (kept / "precious").read_text() == "data"
    assert (kept / "link").is_symlink()
    for directory in (kept.parent, kept.parent.parent):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert not target.exists()
    assert target.parent.is_dir()


async def test_files_of_one_target_never_take_the_place_of_others(alone):
    for text in ("first", "second"):
        target = alone.target("a")
        target.mkdir()
        (target / "precious").write_text(text)
        await alone.unpublish(target)
    kept = alone.state / "leftovers"
    assert (kept / "a_pv" / "mount" / "precious").read_text() == "first"
    assert (kept / "a_pv-1" / "mount" / "precious").read_text() == "second"


async def test_in_the_chart_s_two_mounts_volumes_are_bound_and_files_are_moved(node, mounter):
    """The container has kubelet's pods and the plugin's directory, not what both lie in."""
    target = node.target("a")
    directories = [node.kubelet / "pods", node.state.parent]
    for directory in directories:
        syscalls.mount(str(directory), str(directory), "", MS_BIND, "")
    try:
        await node.publish(target, pod="a")
        assert target.is_mount()
        await node.unpublish(target)
        assert not target.exists()
        target.mkdir()
        (target / "precious").write_text("data")
        await node.unpublish(target)
        kept = node.state / "leftovers" / "a_pv" / "mount"
        assert (kept / "precious").read_text() == "data"
        assert not target.exists()
    finally:
        for directory in directories:
            syscalls.umount(str(directory), syscalls.MNT_DETACH)


async def test_files_that_cannot_be_moved_stay_and_are_told_once(node, mounter):
    target = node.target("a")
    pods = node.kubelet / "pods"
    syscalls.mount("none", str(pods), "tmpfs", 0, "mode=755")  # as where it is a disk of its own
    try:
        node.target("a").mkdir()
        (target / "precious").write_text("data")
        await node.publish(target, pod="a")
        for _ in range(2):
            code, text = await refused(node.unpublish(target))
            assert code is grpc.StatusCode.INTERNAL
            assert "which could not be moved" in text
            assert "they are on another file system" in text
            assert text.endswith("[target-not-empty]")
        assert (target / "precious").read_text() == "data"
        assert len(node.logged("WARNING", "could not be moved")) == 1
        await until(lambda: len(node.events()) == 2)
        assert "could not be moved" in node.events()[1][2]
        (target / "precious").unlink()
        await node.unpublish(target)
        assert not target.exists()
        assert not list((node.state / "leftovers").iterdir())
    finally:
        syscalls.umount(str(pods), syscalls.MNT_DETACH)
