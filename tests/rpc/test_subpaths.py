"""A pod's subPath: kubelet binds a part of a target elsewhere below its directory."""

import signal
import subprocess

from csi_s3.kernel.mountinfo import mounts_at
from tests.rpc.conftest import is_dead, run
from tests.rpc.fake_mounter import until
from tests.rpc.test_bare_directory import DIED, containers_start


def bind(target, part, *, container="main", number=0):
    """As kubelet does before a container starts."""
    pod = target.parents[3]
    place = pod / "volume-subpaths" / target.parent.name / container / str(number)
    place.parent.mkdir(parents=True, exist_ok=True)
    if (target / part).is_dir():
        place.mkdir()
    else:
        place.touch()
    subprocess.run(["mount", "--bind", target / part, place], check=True, timeout=20)
    return place


async def test_a_subpath_found_after_a_restart_does_not_keep_the_mount(node, mounter):
    target = node.target("a")
    await node.publish(target)
    places = [bind(target, "hello"), bind(target, ".", number=1)]
    await node.stop()
    await node.start()
    await mounter.reconnect()
    await until(lambda: node.logged("INFO", "volume is still mounted"))
    assert run("cat", places[0]).stdout == "hello\n"
    for place in places:
        subprocess.run(["umount", place], check=True, timeout=20)
    await node.unpublish(target)
    await node.wait_until_clean()


async def test_subpaths_of_a_dead_mount_are_never_bare_and_live_again_with_it(node, mounter):
    target, other = node.target("a"), node.target("b")
    await node.publish(target)
    await node.publish(other)
    file, whole = bind(target, "hello"), bind(target, ".", number=1)
    others = bind(other, "hello")
    async with containers_start(node, whole) as containers:
        for _ in range(3):
            await mounter.kill_worker("bucket", DIED)
            await is_dead(whole)
            await node.publish(target)
            await until(lambda: run("cat", file, whole / "hello").stdout == "hello\n" * 2)
            same = {run("stat", "-c", "%d:%i", path).stdout for path in (file, target / "hello")}
            assert len(same) == 1, "kubelet would take it for another file"
            assert "not connected" in run("cat", others).stderr
    assert containers.count["bare"] == 0, containers.count
    assert containers.count["live"] > 0
    assert len(mounts_at(str(file))) == len(mounts_at(str(whole))) == 2
    await node.publish(other)
    await until(lambda: run("cat", others).stdout == "hello\n")
    for place in (file, whole, others):
        while mounts_at(str(place)):
            subprocess.run(["umount", place], check=True, timeout=20)
    for each in (target, other):
        await node.unpublish(each)
    await node.wait_until_clean()


async def test_a_restarted_node_renews_subpaths_of_a_mount_that_died_before(node, mounter):
    target = node.target("a")
    await node.publish(target, readonly=True)
    place = bind(target, "hello")
    await mounter.kill_worker("bucket", DIED)
    await node.stop(signal.SIGKILL)
    await node.start()
    await mounter.reconnect()
    await node.publish(target, readonly=True)
    await until(lambda: run("cat", place).stdout == "hello\n")
    assert mounts_at(str(place))[-1].read_only


async def test_a_part_that_is_a_link_now_is_not_followed(node, mounter):
    target = node.target("a")
    await node.publish(target)
    place = bind(target, "hello")
    await mounter.kill_worker("bucket", DIED)
    await is_dead(place)
    mounter.link = b"/etc/passwd"
    await node.publish(target)
    await until(lambda: node.logged("WARNING", f"{place} stays dead"))
    assert "not connected" in run("cat", place).stderr
    for _ in range(2):  # as kubelet does, every minute
        await node.publish(target)
    subprocess.run(["umount", place], check=True, timeout=20)
    await node.unpublish(target)
    assert len(node.logged("WARNING")) == len(node.logged("WARNING", "stays dead")) == 1


async def test_a_part_that_is_missing_is_bound_when_it_is_there(node, mounter):
    target = node.target("a")
    await node.publish(target)
    mounter.by_bucket("bucket").fuse.files[b"part"] = bytearray(b"old\n")
    place = bind(target, "part")
    await mounter.kill_worker("bucket", DIED)
    await is_dead(place)
    await node.publish(target)
    await until(lambda: node.logged("DEBUG", f"{place}: not there yet"))
    assert "not connected" in run("cat", place).stderr
    mounter.by_bucket("bucket").fuse.files[b"part"] = bytearray(b"new\n")
    await node.publish(target)
    await until(lambda: run("cat", place).stdout == "new\n")
    assert not node.logged("WARNING")
