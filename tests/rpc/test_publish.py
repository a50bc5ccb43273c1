"""NodePublishVolume as kubelet calls it."""

import asyncio

import grpc
import pytest

from csi_s3 import csi_pb2 as csi
from csi_s3.errors import AccessDeniedError
from tests.rpc.conftest import refused, run
from tests.rpc.fake_mounter import FakeMounter, until

MODES = csi.VolumeCapability.AccessMode


async def test_a_published_volume_is_the_workers_mount_and_goes_without_a_trace(node, mounter):
    target = node.target("a")
    await node.publish(target)
    assert run("cat", target / "hello").stdout == "hello\n"
    entry = node.fuse_mounts()[str(target)]
    assert entry.fs_type == "fuse.csi-s3"
    assert {"nosuid", "nodev", "rw"} <= entry.options
    assert {"allow_other", "default_permissions"} <= entry.super_options
    assert not any(option.startswith("max_read") for option in entry.super_options)
    await node.unpublish(target)
    assert not target.exists()
    assert target.parent.exists()
    await node.wait_until_clean()
    assert mounter.mounts == {}
    assert not node.logged("WARNING")
    assert not node.logged("ERROR")


async def test_the_worker_is_told_what_the_volume_says(node, mounter):
    await node.publish(
        node.target("a"),
        "allow-delete",
        "region us-east-1",
        "uid=12574",
        "prefix=a b/",
        readonly=True,
    )
    spec = mounter.by_bucket("bucket").spec
    assert spec.volume_handle == "pv"
    assert spec.volume.bucket.region == "us-east-1"
    assert spec.volume.bucket.prefix == "a b/"
    assert spec.volume.tree.uid == 12574
    assert spec.volume.tree.allow_delete
    assert not spec.volume.read_only  # a property of the bind, not of the worker
    assert spec.state_dir == str(node.state / "spools" / spec.mount_id)


async def test_the_same_request_again_is_ok_and_mounts_nothing(node, mounter):
    target = node.target("a")
    for _ in range(3):
        await node.publish(target)
    assert mounter.count("serve") == 1
    assert [e.mount_point for e in node.fuse_mounts().values()].count(str(target)) == 1
    assert len(node.logged("INFO", "volume is published")) == 1


async def test_pods_share_a_mount(node, mounter):
    a, b = node.target("a"), node.target("b")
    await asyncio.gather(node.publish(a), node.publish(b))
    assert mounter.count("serve") == 1
    assert len({e.device for e in node.fuse_mounts().values()}) == 1
    await node.unpublish(a)
    assert run("cat", b / "hello").stdout == "hello\n"
    await node.unpublish(b)
    await node.wait_until_clean()


async def test_read_only_and_read_write_pods_share_a_mount_also_in_other_namespaces(node, mounter):
    container = node.namespace("unchanged")
    ro, rw = node.target("ro"), node.target("rw")
    await node.publish(ro, readonly=True)
    await node.publish(rw)
    assert mounter.count("serve") == 1
    for pid in (None, container.pid):
        assert "Read-only file system" in run("touch", ro / "new", inside=pid).stderr
        assert run("cat", ro / "hello", inside=pid).stdout == "hello\n"
        assert run("sh", "-c", f"echo more > {rw}/new", inside=pid).returncode == 0
        there = node.fuse_mounts(pid or "self")
        assert (there[str(ro)].read_only, there[str(rw)].read_only) == (True, False)


@pytest.mark.parametrize(
    ("mode", "read_only"),
    [
        (MODES.SINGLE_NODE_WRITER, False),
        (MODES.SINGLE_NODE_READER_ONLY, True),
        (MODES.MULTI_NODE_READER_ONLY, True),
        (MODES.MULTI_NODE_SINGLE_WRITER, False),
        (MODES.MULTI_NODE_MULTI_WRITER, False),
        (MODES.SINGLE_NODE_SINGLE_WRITER, False),
        (MODES.SINGLE_NODE_MULTI_WRITER, False),
    ],
)
async def test_every_access_mode_is_served(node, mounter, mode, read_only):
    target = node.target("a")
    await node.publish(target, mode=mode)
    assert node.fuse_mounts()[str(target)].read_only is read_only


async def test_the_read_only_option_makes_a_read_only_bind(node, mounter):
    target = node.target("a")
    await node.publish(target, "read-only")
    assert node.fuse_mounts()[str(target)].read_only


async def test_publishing_again_with_the_other_read_only_is_refused(node, mounter):
    target = node.target("a")
    await node.publish(target)
    code, text = await refused(node.publish(target, readonly=True))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert f"{target} is already published read-write, not read-only" in text
    assert not node.fuse_mounts()[str(target)].read_only


async def test_changed_options_keep_a_live_mount_and_new_pods_get_the_new_ones(node, mounter):
    old, new = node.target("old"), node.target("new")
    await node.publish(old)
    for _ in range(3):  # as kubelet does, every minute
        await node.publish(old, "allow-delete")
    assert mounter.count("serve") == 1
    (line,) = node.logged("INFO", "options have changed")
    assert line["volume"] == "pv"
    await node.publish(old, "allow-overwrite")  # changed once more
    assert len(node.logged("INFO", "options have changed")) == 2
    await node.publish(new, "allow-delete")
    assert mounter.count("serve") == 2
    assert node.fuse_mounts()[str(old)].device != node.fuse_mounts()[str(new)].device


async def test_two_volumes_of_one_handle_are_both_served_with_a_warning(node, mounter):
    a, b = node.target("a"), node.target("b")
    await node.publish(a, bucket="one-bucket")
    await node.publish(b, bucket="other-bucket")
    assert {s.spec.volume.bucket.bucket for s in mounter.mounts.values()} == {
        "one-bucket",
        "other-bucket",
    }
    (line,) = node.logged("WARNING")
    assert "volumeHandle 'pv' is used on this node with different settings" in line["message"]


async def test_another_volume_on_a_published_target_is_refused(node, mounter):
    target = node.target("a")
    await node.publish(target, handle="pv-1")
    code, text = await refused(node.publish(target, handle="pv-2"))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert f"{target} holds volume 'pv-1', not 'pv-2'" in text


async def test_what_the_worker_says_is_the_answer_and_nothing_is_left(node, mounter):
    mounter.refuse["bucket"] = AccessDeniedError(
        "cannot list bucket 'bucket': AccessDenied", "the policy must allow s3:ListBucket"
    )
    target = node.target("a")
    code, text = await refused(node.publish(target))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert text == (
        "cannot list bucket 'bucket': AccessDenied (the policy must allow s3:ListBucket) "
        "[s3-access-denied]"
    )
    assert not target.exists()
    assert not node.fuse_mounts()
    assert node.volume_directories() == []
    mounter.refuse.clear()
    await node.publish(target)
    assert run("cat", target / "hello").stdout == "hello\n"


async def test_a_directory_that_was_there_survives_a_failed_publish(node, mounter):
    mounter.refuse["bucket"] = AccessDeniedError("no")
    target = node.target("a")
    target.mkdir()
    await refused(node.publish(target))
    assert target.is_dir()


async def test_without_a_mounter_publish_waits_a_little_and_says_so(alone):
    code, text = await refused(alone.publish(alone.target("a")))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert text.startswith("no mounter is connected to the node plugin (")
    assert text.endswith("[mounter-unavailable]")
    assert not alone.target("a").exists()


async def test_a_mounter_that_comes_while_publish_waits_is_used(node):
    publishing = asyncio.create_task(node.publish(node.target("a")))
    async with FakeMounter(node.mounter_socket):
        await publishing


async def test_a_mounter_that_never_answers_is_given_up_and_nothing_is_left(alone):
    async with FakeMounter(alone.mounter_socket) as mounter:
        mounter.mute = True
        target = alone.target("a")
        code, text = await refused(alone.publish(target))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "volume pv was not served within 1 s" in text
        assert not target.exists()
        assert not alone.fuse_mounts()
        assert alone.volume_directories() == []
        await until(lambda: mounter.count("stop"))


async def test_a_cancelled_call_does_not_stop_the_work_and_holds_the_target(node, mounter):
    target = node.target("a")
    mounter.gate.clear()
    code, _ = await refused(node.publish(target, timeout=0.5))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    for call in (node.publish(target), node.unpublish(target)):
        code, text = await refused(call)
        assert code is grpc.StatusCode.ABORTED
        assert f"another operation on {target} is in progress" in text
    mounter.gate.set()
    await until(lambda: str(target) in node.fuse_mounts())
    await node.publish(target)
    assert mounter.count("serve") == 1


async def test_a_mounter_that_goes_while_it_starts_a_volume_is_an_answer(node, mounter):
    mounter.gate.clear()
    publishing = asyncio.create_task(refused(node.publish(node.target("a"))))
    await until(lambda: mounter.count("serve"))
    await mounter.die()
    code, text = await publishing
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "the process that serves volume pv ended with its mounter" in text
    await node.wait_until_clean()


async def test_a_foreign_mount_on_the_target_is_refused_and_left(node, mounter):
    target = node.target("a")
    target.mkdir()
    assert run("mount", "-t", "tmpfs", "foreign", target).returncode == 0
    code, text = await refused(node.publish(target))
    assert code is grpc.StatusCode.INTERNAL
    assert f"{target} holds another mount: foreign of type tmpfs" in text
    assert run("umount", target).returncode == 0


async def test_secrets_and_tokens_are_not_logged(node, mounter):
    tokens = {
        "bucketName": "bucket",
        "csi.storage.k8s.io/serviceAccount.tokens": '{"sts": {"token": "HUNTER3"}}',
    }
    await node.publish(node.target("a"), context=tokens)
    secrets = {"secret_key": "HUNTER2"}
    _, text = await refused(node.publish(node.target("b"), context=tokens, secrets=secrets))
    assert "HUNTER" not in text
    assert any(line.get("op") == "NodePublishVolume" for line in node.lines())
    assert "HUNTER" not in node.log.read_text()
