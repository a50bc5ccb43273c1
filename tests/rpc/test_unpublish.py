"""NodeUnpublishVolume: whatever it finds, it ends in OK within seconds or says why not."""

import asyncio
import os
import subprocess
import sys

import grpc

from csi_s3.kernel import mount
from tests.rpc.conftest import refused, run
from tests.rpc.fake_mounter import until


async def test_a_target_that_is_absent_is_ok(alone):
    await alone.unpublish(alone.target("a"))
    await alone.unpublish(alone.kubelet / "no" / "such" / "parent")


async def test_a_target_that_is_not_mounted_is_removed(alone):
    target = alone.target("a")
    target.mkdir()
    await alone.unpublish(target)
    assert not target.exists()
    assert target.parent.is_dir()


async def test_a_dead_mount_of_which_nobody_knows_is_removed(alone):
    target = alone.target("a")
    target.mkdir()
    fd = mount.open_fuse()
    mount.mount_fuse(fd, target, source_name="dead")
    os.close(fd)
    assert "not connected" in run("ls", target).stderr
    await alone.unpublish(target)
    assert not target.exists()


async def test_a_mount_that_nobody_answers_is_removed_without_touching_it(alone):
    target = alone.target("a")
    target.mkdir()
    fd = mount.open_fuse()
    mount.mount_fuse(fd, target, source_name="silent")
    try:
        await alone.unpublish(target)
        assert not target.exists()
    finally:
        os.close(fd)


async def test_stacked_mounts_all_go(alone):
    target = alone.target("a")
    target.mkdir()
    for _ in range(3):
        fd = mount.open_fuse()
        mount.mount_fuse(fd, target, source_name="stacked")
        os.close(fd)
    await alone.unpublish(target)
    assert not target.exists()


async def test_a_mount_of_another_kind_is_refused_and_left(alone):
    target = alone.target("a")
    target.mkdir()
    assert run("mount", "-t", "tmpfs", "foreign", target).returncode == 0
    (target / "precious").write_text("data")
    code, text = await refused(alone.unpublish(target))
    assert code is grpc.StatusCode.INTERNAL
    assert f"{target} holds a mount of another program: foreign of type tmpfs" in text
    assert (target / "precious").read_text() == "data"
    assert run("umount", target).returncode == 0


USER = """\
import os, sys
os.chdir(sys.argv[1])
file = open("hello")
print("open", flush=True)
input()
print(file.read())
"""


async def test_a_busy_target_goes_at_once_and_its_user_keeps_the_mount(node, mounter):
    target = node.target("a")
    await node.publish(target)
    user = subprocess.Popen(
        # not cwd=: the child would enter the mount while it holds up the thread that serves it
        [
            sys.executable,
            "-c",
            USER,
            target,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert await asyncio.to_thread(user.stdout.readline) == "open\n"
    await node.unpublish(target)
    assert not target.exists()
    assert not node.fuse_mounts()
    assert user.communicate("\n", timeout=10)[0] == "hello\n\n"
    await node.wait_until_clean()  # the worker ends when the last user is gone
    await until(lambda: not mounter.mounts)


async def test_unpublish_needs_no_mounter(node, mounter):
    target = node.target("a")
    await node.publish(target)
    await mounter.die()
    await node.unpublish(target)
    assert not target.exists()
    await node.wait_until_clean()


async def test_unpublish_twice_is_ok(node, mounter):
    target = node.target("a")
    await node.publish(target)
    await node.unpublish(target)
    await node.unpublish(target)


async def test_files_that_a_worker_left_are_kept_and_told(node, mounter):
    target = node.target("a")
    await node.publish(target)
    state = node.state / "spools" / node.volume_directories()[0]
    (state / "spooled").write_text("bytes that could not be uploaded")
    await node.unpublish(target)
    await until(lambda: node.logged("WARNING", f"{state} is not removed"))
    assert (state / "spooled").exists()
    assert not (state.parent / "fs").exists()
