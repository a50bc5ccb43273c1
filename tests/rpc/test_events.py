"""What people see of a volume that failed after its pod was started, and of two with one handle."""

import signal

import grpc
import pytest

from csi_s3.errors import (
    AccessDeniedError,
    CredentialsError,
    NotPermittedError,
    StoreUnavailableError,
    WorkerDiedError,
)
from csi_s3.link.report import Notice, Reason
from tests.rpc.conftest import is_dead, pod_info, refused, run
from tests.rpc.fake_mounter import FakeMounter, until

EXPIRED = CredentialsError(
    "LIST s3://bucket/of-some-pod/: ExpiredToken: too old (HTTP 400, request id 1)",
    "give new ones",
    public="LIST s3://bucket/…: ExpiredToken: too old (HTTP 400)",
)


def let_a_container_have(node, target):
    """A bind in a mount namespace that hears of no unmount: it outlives the target."""
    container = node.namespace("private")
    inside = node.base / "inside"
    inside.mkdir()
    assert run("mount", "--bind", target, inside, inside=container.pid).returncode == 0


# --- the bucket fails under a live mount ----------------------------------------------------------


async def test_a_volume_whose_bucket_fails_says_so_at_each_repeated_publish(node, mounter):
    target = node.target("a")
    await node.publish(target, pod="a")
    mounter.wrong["bucket"] = EXPIRED
    for _ in range(2):
        code, text = await refused(node.publish(target, pod="a"))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert text == (
            "volume pv is mounted, but LIST s3://bucket/…: ExpiredToken: too old (HTTP 400)"
            " (give new ones) [s3-credentials]"
        )
    assert run("cat", target / "hello").stdout == "hello\n"
    condition = (await node.stats(target)).volume_condition
    assert condition.abnormal
    assert "ExpiredToken" in condition.message
    assert "of-some-pod" not in condition.message
    assert "of-some-pod/: ExpiredToken: too old (HTTP 400, request id 1)" in node.log.read_text()
    mounter.wrong.clear()
    await node.publish(target, pod="a")
    assert not (await node.stats(target)).volume_condition.abnormal
    assert mounter.count("serve") == 1


async def test_a_new_pod_waits_until_the_bucket_answers_again(node, mounter):
    await node.publish(node.target("a"))
    new = node.target("b")
    mounter.wrong["bucket"] = StoreUnavailableError("LIST s3://bucket/: refused")
    code, _ = await refused(node.publish(new))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert not new.exists()
    mounter.wrong.clear()
    await node.publish(new)
    assert run("cat", new / "hello").stdout == "hello\n"


async def test_a_restarted_node_knows_what_is_wrong_with_its_mounts(node, mounter):
    target = node.target("a")
    await node.publish(target)
    mounter.wrong["bucket"] = AccessDeniedError("LIST s3://bucket/: AccessDenied")
    await node.stop(signal.SIGKILL)
    await node.start()
    await mounter.reconnect()
    code, _ = await refused(node.publish(target))
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_worker_that_is_silent_is_the_answer_of_a_repeated_publish(alone):
    async with FakeMounter(alone.mounter_socket) as mounter:
        target = alone.target("a")
        await alone.publish(target)
        mounter.mute = True
        code, text = await refused(alone.publish(target))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "not answered for 1 s" in text


# --- the mount breaks under a live pod ------------------------------------------------------------


async def test_each_pod_of_a_dead_mount_is_told_once_and_the_next_publish_works(node, mounter):
    a, b, other = node.target("a"), node.target("b"), node.target("other")
    await node.publish(a, pod="a")
    await node.publish(b, pod="b")
    await node.publish(other, handle="pv-2", bucket="another", pod="c")
    await mounter.kill_worker("bucket", WorkerDiedError("the worker of volume 'pv' died: SIGKILL"))
    await until(lambda: len(node.events()) == 2)
    await node.publish(a, pod="a")
    await node.publish(b, pod="b")
    await node.publish(a, pod="a")
    assert run("cat", a / "hello").stdout == "hello\n"
    assert sorted(pod for pod, _, _ in node.events()) == ["a", "b"]
    for _, reason, text in node.events():
        assert reason == "VolumeBroken"
        assert text.startswith("the worker of volume 'pv' died: SIGKILL")
        assert "'Transport endpoint is not connected'" in text
        assert text.endswith("[worker-died]")


async def test_a_pod_that_node_does_not_know_yet_is_told_when_it_is_published_again(node, mounter):
    target = node.target("a")
    await node.publish(target, pod="a")
    await node.stop()
    await node.start()
    await mounter.reconnect()
    await mounter.kill_worker("bucket", WorkerDiedError("died"))
    await is_dead(target)
    assert node.events() == []
    for _ in range(2):
        await node.publish(target, pod="a")
    assert [(pod, reason) for pod, reason, _ in node.events()] == [("a", "VolumeBroken")]


async def test_a_mount_that_died_while_node_was_away_is_told_to_its_pod(node, mounter):
    target = node.target("a")
    await node.publish(target, pod="a")
    await node.stop(signal.SIGKILL)
    await mounter.die()
    await node.start()
    async with FakeMounter(node.mounter_socket):
        await node.publish(target, pod="a")
        await until(node.events)
        ((pod, reason, text),) = node.events()
        assert (pod, reason) == ("a", "VolumeBroken")
        assert "the mount of s3://bucket/ was lost" in text


async def test_a_dead_mount_that_cannot_be_made_again_is_told_with_the_causes_code(node, mounter):
    target = node.target("a")
    await node.publish(target, pod="a")
    await mounter.kill_worker("bucket", WorkerDiedError("died"))
    await is_dead(target)
    mounter.refuse["bucket"] = EXPIRED
    code, text = await refused(node.publish(target, pod="a"))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert text.endswith("(give new ones) [s3-credentials]")
    await is_dead(target)


async def test_kubelet_is_never_told_finally_of_a_volume_that_was_unmounted_by_hand(node, mounter):
    """It would remove vol_data.json, and the pod could not end (decision 0016)."""
    target = node.target("a")
    await node.publish(target, pod="a")
    await mounter.kill_worker("bucket", WorkerDiedError("died"))
    await is_dead(target)
    assert run("umount", target).returncode == 0
    mounter.refuse["bucket"] = EXPIRED
    code, text = await refused(node.publish(target, pod="a"))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "failed: LIST s3://bucket/…: ExpiredToken: too old (HTTP 400)" in text
    assert "[s3-credentials] (give new ones) [remount-failed]" in text
    code, _ = await refused(node.publish(node.target("new"), pod="b"))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    mounter.refuse.clear()
    await node.publish(target, pod="a")


async def test_nor_when_its_options_were_edited_meanwhile(node, mounter):
    target = node.target("a")
    await node.publish(target, pod="a")
    await mounter.kill_worker("bucket", WorkerDiedError("died"))
    await is_dead(target)
    assert run("umount", target).returncode == 0
    mounter.refuse["bucket"] = EXPIRED
    for _ in range(3):
        code, _ = await refused(node.publish(target, "allow-delete", pod="a"))
        assert code is grpc.StatusCode.UNAVAILABLE
    mounter.refuse.clear()
    await node.publish(target, "allow-delete", pod="a")


async def test_bytes_that_were_lost_at_the_end_are_told_to_the_pod_that_left_last(node, mounter):
    await node.publish(node.target("a"), pod="a")
    await node.publish(node.target("b"), pod="b")
    denied = "AccessDenied"
    mounter.last_words = AccessDeniedError(
        f"PUT s3://bucket/x: {denied}", "allow it", public=f"PUT s3://bucket/…: {denied}"
    )
    await node.unpublish(node.target("a"))
    await node.unpublish(node.target("b"))
    await node.wait_until_clean()
    await until(node.events)
    ((pod, reason, text),) = node.events()
    assert (pod, reason) == ("b", "UploadFailed")
    assert text.startswith("volume pv")
    assert text.endswith("PUT s3://bucket/…: AccessDenied (allow it) [s3-access-denied]")


async def test_a_mount_that_dies_while_only_a_container_has_it_is_told_to_its_pod(node, mounter):
    target = node.target("a")
    await node.publish(target, pod="a")
    let_a_container_have(node, target)
    await node.unpublish(target)
    await mounter.kill_worker("bucket", WorkerDiedError("died"))
    await until(node.events)
    assert [(pod, reason) for pod, reason, _ in node.events()] == [("a", "VolumeBroken")]


# --- notices of the worker ------------------------------------------------------------------------


async def test_what_a_worker_notices_is_an_event_on_the_pods_of_its_mount(node, mounter):
    await node.publish(node.target("a"), pod="a")
    await node.publish(node.target("b"), pod="b")
    await node.publish(node.target("c"), handle="pv-2", bucket="another", pod="c")
    mount_id = mounter.by_bucket("bucket").spec.mount_id
    missing = NotPermittedError("unlink of data/x", "needs the mount option allow-delete")
    await mounter.notice(Notice(mount_id=mount_id, reason=Reason.MISSING_OPTION, error=missing))
    await until(lambda: len(node.events()) == 2)
    assert {(pod, reason) for pod, reason, _ in node.events()} == {
        ("a", "MissingMountOption"),
        ("b", "MissingMountOption"),
    }
    text = node.events()[0][2]
    assert text.startswith("volume pv: ")
    assert "needs the mount option allow-delete" in text
    assert "mountOptions" in text
    assert "unlink of data/x" not in text


async def test_what_a_worker_notices_after_the_last_pod_is_an_event_on_that_pod(node, mounter):
    target = node.target("a")
    await node.publish(target, pod="a")
    let_a_container_have(node, target)
    mount_id = mounter.by_bucket("bucket").spec.mount_id
    await node.unpublish(target)
    away = StoreUnavailableError("PUT s3://bucket/x: 503", "kept", public="PUT s3://bucket/…: 503")
    await mounter.notice(Notice(mount_id=mount_id, reason=Reason.UPLOAD_FAILED, error=away))
    await until(node.events)
    ((pod, reason, text),) = node.events()
    assert (pod, reason) == ("a", "UploadFailed")
    assert text.startswith("volume pv: PUT s3://bucket/…: 503 (kept) [s3-unavailable]")


async def test_messages_of_a_newer_mounter_are_passed_over(node, mounter):
    await mounter._channel.send("weather", {"rain": True})
    await node.publish(node.target("a"))
    assert node.logged("INFO", "the mounter sent 'weather'")


# --- one handle, two volumes ----------------------------------------------------------------------


async def test_two_volumes_with_one_handle_are_both_served_and_the_second_pod_is_told(
    node, mounter
):
    a, b = node.target("a"), node.target("b")
    await node.publish(a, "prefix=x/", pod="a")
    await node.publish(b, bucket="another", pod="b")
    await node.publish(b, bucket="another", pod="b")
    assert mounter.count("serve") == 2
    assert run("cat", a / "hello", b / "hello").stdout == "hello\n" * 2
    await until(node.events)
    ((pod, reason, text),) = node.events()
    assert (pod, reason) == ("b", "DuplicateVolumeHandle")
    assert "volumeHandle 'pv'" in text
    assert "bucket.bucket 'another' here, 'bucket' there" in text
    assert "bucket.prefix '' here, 'x/' there" in text
    assert "different volumeHandles" in text
    (line,) = node.logged("WARNING")
    assert (line["message"], line["volume"]) == (text, "pv")


async def test_pods_of_one_volume_with_different_fs_groups_are_no_reason_to_warn(node, mounter):
    for name, group in (("a", "4711"), ("b", "4712")):
        request = node.publish_request(node.target(name), group=group, pod=name)
        await node.rpc.NodePublishVolume(request, timeout=20)
    assert mounter.count("serve") == 2
    assert not node.logged("WARNING")
    assert not node.events()


# --- options without effect -----------------------------------------------------------------------


async def test_an_option_without_effect_is_told_to_each_pod_once(node, mounter):
    flags = ("cache=/tmp/c", "max-threads=4")
    for name in ("a", "b"):
        for _ in range(2):
            await node.publish(node.target(name), *flags, pod=name)
    await until(lambda: len(node.events()) == 4)
    assert sorted((pod, reason, text.split(":")[1]) for pod, reason, text in node.events()) == [
        (pod, "IgnoredOption", f" mount option {option} has no effect")
        for pod in ("a", "b")
        for option in ("cache", "max-threads")
    ]
    await mounter.kill_worker("bucket", WorkerDiedError("died"))
    await until(lambda: len(node.events()) == 6)  # VolumeBroken
    await node.publish(node.target("a"), *flags, pod="a")
    await node.publish(node.target("c"), pod="c")
    assert [reason for _, reason, _ in node.events()].count("IgnoredOption") == 4
    assert len(node.logged("WARNING", "has no effect")) == 4


# --- who may ask ----------------------------------------------------------------------------------


async def test_an_inline_volume_is_refused_with_the_reason_and_what_to_do(node, mounter):
    target = node.target("a")
    context = {"bucketName": "b", **pod_info("a"), "csi.storage.k8s.io/ephemeral": "true"}
    code, text = await refused(node.publish(target, context=context))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "inline volumes" in text
    assert "could mount any bucket" in text
    assert "PersistentVolumeClaim" in text
    assert not target.exists()


async def test_the_log_names_volume_and_pod(node, mounter):
    mounter.refuse["bucket"] = EXPIRED
    await refused(node.publish(node.target("a"), pod="a"))
    (line,) = node.logged("ERROR")
    assert (line["volume"], line["pod"], line["code"]) == ("pv", "science/a", "s3-credentials")
    mounter.refuse.clear()
    await node.publish(node.target("a"), pod="a")
    (line,) = node.logged("INFO", "volume is published")
    assert (line["volume"], line["pod"]) == ("pv", "science/a")


async def test_a_refused_mount_is_a_warning_once_for_each_cause(node, mounter):
    a, b = node.target("a"), node.target("b")
    for _ in range(3):  # as kubelet does
        await refused(node.publish(a, "alow-delete"))
    await refused(node.publish(b, "alow-delete"))
    said = [line["target"] for line in node.logged("WARNING", "alow-delete is not known")]
    assert said == [str(a), str(b)]
    assert len(node.logged("DEBUG", "alow-delete is not known")) == 2
    for _ in range(2):
        await refused(node.publish(a, "uid=root"))
    await refused(node.publish(a, "alow-delete"))  # it is the newest cause again
    assert len(node.logged("WARNING", "uid='root' is not valid")) == 1
    assert len(node.logged("WARNING", "alow-delete is not known")) == 3
    await node.publish(a)
    await refused(node.publish(a, "alow-delete"))  # it had worked
    assert len(node.logged("WARNING", "alow-delete is not known")) == 4


async def test_a_failed_bucket_is_as_loud_as_it_is_and_no_more_often(node, mounter):
    mounter.refuse["bucket"] = EXPIRED
    for _ in range(3):
        await refused(node.publish(node.target("a"), pod="a"))
    assert len(node.logged("ERROR")) == 1


@pytest.mark.parametrize("what", ["one\ntwo\r\n  three", "x" * 5000, "é" * 2000])
async def test_an_answer_is_one_line_that_fits_an_event(node, mounter, what):
    mounter.refuse["bucket"] = AccessDeniedError(what, "do this")
    _, text = await refused(node.publish(node.target("a")))
    assert "\n" not in text
    assert len(text.encode()) <= 800
    assert text.endswith("(do this) [s3-access-denied]")
