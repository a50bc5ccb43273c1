"""NodeGetVolumeStats, the capabilities, and the Identity service."""

import re

import grpc

from csi_s3 import csi_pb2 as csi
from csi_s3.link.report import Usage
from tests.rpc.conftest import is_dead, refused, run
from tests.rpc.fake_mounter import FakeMounter, until

RPC = csi.NodeServiceCapability.RPC


async def test_stats_are_the_workers_count_and_the_promise_of_statfs(node, mounter):
    target = node.target("a")
    await node.publish(target)
    mounter.usage = Usage(open_files=2, inodes=41, dirty_bytes=5)
    stats = await node.stats(target)
    by_unit = {u.unit: (u.total, u.available, u.used) for u in stats.usage}
    most = 2**63 - 1
    assert by_unit == {
        csi.VolumeUsage.BYTES: (most, most, 0),
        csi.VolumeUsage.INODES: (most, most - 41, 41),
    }
    assert not stats.volume_condition.abnormal
    assert stats.volume_condition.message == "the volume is served"


async def test_stats_of_what_is_not_published_are_not_found(node, mounter):
    target = node.target("a")
    await node.publish(target)
    for handle, path in (("other", target), ("pv", node.target("b")), ("pv", "some/path")):
        code, text = await refused(node.stats(path, handle=handle))
        assert code is grpc.StatusCode.NOT_FOUND
        assert f"volume {handle!r} is not published at {str(path)!r}" in text


async def test_stats_of_a_silent_worker_say_so_and_do_not_hang(alone):
    async with FakeMounter(alone.mounter_socket) as mounter:
        target = alone.target("a")
        await alone.publish(target)
        mounter.mute = True
        condition = (await alone.stats(target)).volume_condition
        assert condition.abnormal
        assert "not answered for 1 s" in condition.message


async def test_stats_of_a_target_that_somebody_unmounted_say_so(node, mounter):
    target = node.target("a")
    await node.publish(target)
    assert run("umount", "-l", target).returncode == 0
    condition = (await node.stats(target)).volume_condition
    assert condition.abnormal
    assert f"nothing is mounted at {target}" in condition.message
    assert "publishes the volume again" in condition.message
    await node.publish(target)
    assert not (await node.stats(target)).volume_condition.abnormal


async def test_stats_after_the_mounter_is_gone_are_abnormal(node, mounter):
    target = node.target("a")
    await node.publish(target)
    await mounter.die()
    await is_dead(target)
    condition = (await node.stats(target)).volume_condition
    assert condition.abnormal
    assert "ended with its mounter" in condition.message


async def test_node_tells_its_id_and_capabilities(node):
    info = await node.rpc.NodeGetInfo(csi.NodeGetInfoRequest())
    assert (info.node_id, info.max_volumes_per_node) == ("node-1", 0)
    answer = await node.rpc.NodeGetCapabilities(csi.NodeGetCapabilitiesRequest())
    assert {c.rpc.type for c in answer.capabilities} == {
        RPC.GET_VOLUME_STATS,
        RPC.VOLUME_CONDITION,
        RPC.VOLUME_MOUNT_GROUP,
    }


async def test_the_scheduler_is_told_how_many_volumes_there_may_be(idle):
    await idle.start("--max-volumes", "16")  # no mounter yet: kubelet asks once, at registration
    info = await idle.rpc.NodeGetInfo(csi.NodeGetInfoRequest())
    assert info.max_volumes_per_node == 14


async def test_the_plugin_tells_its_name_and_version(idle):
    await idle.start("--driver-name", "s3.example.org")
    info = await idle.identity.GetPluginInfo(csi.GetPluginInfoRequest())
    assert info.name == "s3.example.org"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", info.vendor_version)
    answer = await idle.identity.GetPluginCapabilities(csi.GetPluginCapabilitiesRequest())
    assert list(answer.capabilities) == []


async def test_the_probe_is_ready_only_with_a_mounter(node):
    async def ready() -> bool:
        return (await node.identity.Probe(csi.ProbeRequest())).ready.value

    assert not await ready()
    async with FakeMounter(node.mounter_socket):
        await until(lambda: node.logged("INFO", "mounter is connected"))
        assert await ready()
    await until(lambda: node.logged("WARNING", "connection ended"))
    assert not await ready()


async def test_without_dev_fuse_the_probe_and_publish_say_so(idle):
    hide = ["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/fuse; exec "$@"', "sh"]
    await idle.start(within=hide)
    async with FakeMounter(idle.mounter_socket):
        await until(lambda: idle.logged("INFO", "mounter is connected"))
        publishing = idle.publish(idle.target("a"))
        for call in (idle.identity.Probe(csi.ProbeRequest()), publishing):
            code, text = await refused(call)
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert text.startswith("/dev/fuse is not the FUSE device (")
        assert not idle.target("a").exists()
        assert idle.volume_directories() == []


async def test_fs_group_is_the_workers_gid(node, mounter):
    request = csi.NodePublishVolumeRequest(
        volume_id="pv",
        target_path=str(node.target("a")),
        volume_capability=csi.VolumeCapability(
            mount=csi.VolumeCapability.MountVolume(volume_mount_group="4711", fs_type="ext4"),
            access_mode=csi.VolumeCapability.AccessMode(mode=5),
        ),
        volume_context={"bucketName": "bucket"},
    )
    await node.rpc.NodePublishVolume(request)
    assert mounter.by_bucket("bucket").spec.volume.tree.gid == 4711
