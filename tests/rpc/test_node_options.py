"""Options that node itself acts on: SELinux labels, and those that every volume starts from."""

import os
from pathlib import Path

import grpc
import pytest

from csi_s3.errors import BadOptionError
from csi_s3.kernel import mount
from tests.rpc.conftest import refused
from tests.rpc.fake_mounter import FakeMounter

LABEL = "no_such_u:no_such_r:no_such_t:s0:c10,c200"
REASON = (  # no policy knows the label, so a kernel with SELinux refuses it, too
    "is refused by SELinux"
    if "\tselinuxfs\n" in Path("/proc/filesystems").read_text()
    else "needs SELinux, which this machine's kernel lacks or has disabled (remove the option"
)


def test_a_label_that_the_kernel_cannot_take_is_refused_with_the_reason(base):
    fd = mount.open_fuse()
    try:
        with pytest.raises(BadOptionError) as caught:
            mount.mount_fuse(fd, base, source_name="x", labels={"context": LABEL})
    finally:
        os.close(fd)
    assert str(caught.value).startswith(f"option context={LABEL!r} {REASON}")


async def test_a_volume_with_a_bad_label_is_refused_as_such_and_leaves_nothing(node, mounter):
    code, text = await refused(node.publish(node.target("a"), f'context="{LABEL}"'))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert REASON in text
    assert not mounter.mounts
    await node.wait_until_clean()
    await node.publish(node.target("a"))


async def test_volumes_start_from_the_nodes_default_options(idle):
    await idle.start("--default-mount-options", "uid=12574\ngid=12574\nmax-threads=4")
    (line,) = idle.logged("WARNING", "--default-mount-options")
    assert "mount option max-threads has no effect" in line["message"]
    async with FakeMounter(idle.mounter_socket) as mounter:
        await idle.publish(idle.target("a"), "uid=7")
        tree = mounter.by_bucket("bucket").spec.volume.tree
        assert (tree.uid, tree.gid) == (7, 12574)
