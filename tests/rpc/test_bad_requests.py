"""What is wrong with a request, read as a person would read it."""

import grpc
import pytest

from csi_s3 import csi_pb2 as csi
from tests.rpc.conftest import capability, refused, run

INVALID = grpc.StatusCode.INVALID_ARGUMENT
GOOD = {"bucketName": "bucket"}


def request(node, **changes) -> csi.NodePublishVolumeRequest:
    fields = {
        "volume_id": "pv",
        "target_path": str(node.target("a")),
        "volume_capability": capability(),
        "volume_context": GOOD,
    }
    return csi.NodePublishVolumeRequest(
        **{k: v for k, v in {**fields, **changes}.items() if v is not None}
    )


MODE = csi.VolumeCapability.AccessMode(mode=5)
CASES = {
    "no volume id": ({"volume_id": ""}, "NodePublishVolume without volume_id"),
    "no target": ({"target_path": ""}, "NodePublishVolume without target_path"),
    "no capability": ({"volume_capability": None}, "without volume_capability"),
    "a block device": (
        {
            "volume_capability": csi.VolumeCapability(
                block=csi.VolumeCapability.BlockVolume(), access_mode=MODE
            )
        },
        "volume 'pv' is requested as a block device: a bucket has only files (set volumeMode:",
    ),
    "a Secret of its own": (
        {"secrets": {"key_id": "AKIA", "access_key": "hidden"}},
        "volume 'pv' names a Secret of its own (nodePublishSecretRef), but identities per volume",
    ),
    "no access type": (
        {"volume_capability": csi.VolumeCapability(access_mode=MODE)},
        "volume_capability names no access type (expected mount)",
    ),
    "no access mode": (
        {"volume_capability": capability(mode=0)},
        "volume_capability names no access mode",
    ),
    "no bucket": ({"volume_context": {}}, "volume attribute bucketName is missing"),
    "an unknown option": (
        {"volume_capability": capability(["allow-deletes"])},
        "allow-deletes",
    ),
    "options that fit into no message": (
        {"volume_capability": capability([f"endpoint-url=http://{'h' * (128 << 10)}"])},
        "the volume's options do not fit into 128 KiB (shorten its mountOptions",
    ),
    "a bad value": ({"volume_capability": capability(["uid=root"])}, "uid"),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_bad_publish_says_what_is_wrong(node, mounter, case):
    changes, text = CASES[case]
    code, details = await refused(node.rpc.NodePublishVolume(request(node, **changes)))
    assert code is INVALID
    assert text in details
    assert "hidden" not in details + node.log.read_text()
    assert not mounter.messages
    assert mounter.messages == []
    assert not node.target("a").exists()


async def test_checks_come_in_the_order_of_csi(node, mounter):
    everything_wrong = csi.NodePublishVolumeRequest()
    _, first = await refused(node.rpc.NodePublishVolume(everything_wrong))
    everything_wrong.volume_id = "pv"
    _, second = await refused(node.rpc.NodePublishVolume(everything_wrong))
    everything_wrong.target_path = "/elsewhere"
    _, third = await refused(node.rpc.NodePublishVolume(everything_wrong))
    assert "volume_id" in first
    assert "target_path" in second
    assert "volume_capability" in third


def escapes(node) -> list[str]:
    return [
        "/etc",
        "relative/path",
        str(node.kubelet),
        f"{node.kubelet}/",
        f"{node.kubelet}-evil/pods/mount",
        f"{node.kubelet}/pods/../../state/mount",
        f"{node.kubelet}/pods/..",
    ]


async def test_a_target_outside_kubelets_directory_is_refused(node, mounter):
    (node.base / "kubelet-evil" / "pods").mkdir(parents=True)
    for target in escapes(node):
        for call in (node.publish(target), node.unpublish(target)):
            code, text = await refused(call)
            assert code is INVALID
            assert f"target {target!r} is not below {node.kubelet}" in text
    assert not node.fuse_mounts()
    assert not (node.base / "kubelet-evil" / "pods" / "mount").exists()


async def test_a_symbolic_link_on_the_way_is_refused(node, mounter):
    outside = node.base / "outside"
    (outside / "mount").mkdir(parents=True)
    (outside / "mount" / "precious").write_text("data")
    link = node.kubelet / "pods-link"
    link.symlink_to(outside)
    last = node.target("a")
    last.symlink_to(outside / "mount")
    code, text = await refused(node.publish(link / "mount"))
    assert (code, f"{link}/mount leads through a symbolic link" in text) == (INVALID, True)
    code, text = await refused(node.publish(last))
    assert (code, f"{last} leads through a symbolic link" in text) == (INVALID, True)
    code, text = await refused(node.unpublish(link / "mount"))
    assert (code, f"{link}/mount leads through a symbolic link" in text) == (INVALID, True)
    code, text = await refused(node.unpublish(last))
    assert (code, f"{last} is not a directory" in text) == (INVALID, True)
    assert (outside / "mount" / "precious").read_text() == "data"
    assert not [m for m in node.fuse_mounts() if not m.startswith(str(node.state))]
    assert last.is_symlink()


async def test_a_target_that_is_a_file_is_refused(node, mounter):
    target = node.target("a")
    target.write_text("data")
    for call in (node.publish(target), node.unpublish(target)):
        code, text = await refused(call)
        assert (code, f"target {target} is not a directory" in text) == (INVALID, True)
    assert target.read_text() == "data"


async def test_a_target_whose_parent_is_missing_is_refused(node, mounter):
    target = node.kubelet / "no" / "such" / "mount"
    code, text = await refused(node.publish(target))
    assert code is INVALID
    assert f"the directory above target {target} does not exist" in text


@pytest.mark.parametrize("handle", ["../../../etc", "a/b/c", "..", "\u2028 '\"; rm -rf /"])
async def test_a_volume_id_is_never_a_path(node, mounter, handle):
    target = node.target("a")
    await node.publish(target, handle=handle)
    assert run("cat", target / "hello").stdout == "hello\n"
    (name,) = node.volume_directories()
    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")
    await node.unpublish(target, handle=handle)
    await node.wait_until_clean()


async def test_unpublish_and_stats_without_their_fields(node):
    target = str(node.target("a"))
    unpublish, stats = node.rpc.NodeUnpublishVolume, node.rpc.NodeGetVolumeStats
    for call, text in (
        (unpublish(csi.NodeUnpublishVolumeRequest(target_path=target)), "without volume_id"),
        (unpublish(csi.NodeUnpublishVolumeRequest(volume_id="pv")), "without target_path"),
        (stats(csi.NodeGetVolumeStatsRequest(volume_path=target)), "without volume_id"),
        (stats(csi.NodeGetVolumeStatsRequest(volume_id="pv")), "without volume_path"),
    ):
        code, details = await refused(call)
        assert (code, text in details) == (INVALID, True)


async def test_calls_that_csi_makes_optional_are_unimplemented(node):
    for call in (
        node.rpc.NodeStageVolume(csi.NodeStageVolumeRequest()),
        node.rpc.NodeUnstageVolume(csi.NodeUnstageVolumeRequest()),
        node.rpc.NodeExpandVolume(csi.NodeExpandVolumeRequest()),
    ):
        code, _ = await refused(call)
        assert code is grpc.StatusCode.UNIMPLEMENTED
