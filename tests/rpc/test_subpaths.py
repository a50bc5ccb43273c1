"""A pod's subPath: kubelet binds a part of a target elsewhere below its directory."""

import subprocess

from tests.rpc.conftest import run
from tests.rpc.fake_mounter import until


async def test_a_subpath_found_after_a_restart_does_not_keep_the_mount_for_ever(node, mounter):
    target = node.target("a")
    await node.publish(target)
    subpath = node.kubelet / "pods" / "a" / "volume-subpaths" / "pv" / "container" / "0"
    subpath.parent.mkdir(parents=True)
    subpath.touch()
    subprocess.run(["mount", "--bind", target / "hello", subpath], check=True, timeout=20)
    await node.stop()
    await node.start()
    await mounter.reconnect()
    await until(lambda: node.logged("INFO", "volume is still mounted"))
    assert run("cat", subpath).stdout == "hello\n"
    subprocess.run(["umount", subpath], check=True, timeout=20)
    await node.unpublish(target)
    await node.wait_until_clean()
