"""What a person reads in the pod's Events, and that the pod starts by itself once it is mended."""

import pytest

from e2e import kube

MOUNT = "FailedMount: MountVolume.SetUp failed for volume .*rpc error: code = "


@pytest.mark.parametrize("option", ["allow-delet", "uid=me", "part-size 5G", "prefix a//b/"])
def test_a_wrong_option_is_named_with_the_form_expected(ns, bucket, option):
    pod = ns.start(ns.claim(bucket, option))
    name = option.replace("=", " ").split()[0]
    said = ns.event(pod, MOUNT + rf"InvalidArgument desc = .*{name}.*\[bad-option\]")
    assert "allow-delete" in said if option == "allow-delet" else "expected" in said


def test_a_secret_of_the_volumes_own_is_refused_and_not_told(ns, bucket):
    kube.apply({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "own", "namespace": ns.name},
        "stringData": {"access_key": "hidden"},
    })  # fmt: skip
    reference = {"name": "own", "namespace": ns.name}
    pod = ns.start(ns.claim(bucket, nodePublishSecretRef=reference))
    said = ns.event(pod, MOUNT + "InvalidArgument desc = .*nodePublishSecretRef")
    assert "hidden" not in said


def test_an_option_without_effect_is_an_event_on_the_pod(ns, bucket):
    pod = ns.pod(ns.claim(bucket, "cache /tmp"))
    assert "mount option cache has no effect" in ns.event(pod, "IgnoredOption")


def test_a_wrong_bucket_is_named_and_the_pod_starts_once_it_is_there(ns, s3):
    name = s3.bucket() + "-x"
    pod = ns.start(ns.claim(name))
    said = ns.event(pod, MOUNT + "NotFound desc = .*")
    assert name in said
    assert "NoSuchBucket" in said
    assert "check the bucket's name and `endpoint-url`" in said
    assert "[no-such-bucket]" in said
    s3.bucket(name=name)
    kube.wait_ready(ns.name, f"pod/{pod}", within_s=60)


def test_a_missing_permission_is_named_and_the_pod_starts_once_it_is_granted(ns, s3, closed_bucket):
    s3.put(closed_bucket, "f", "hello")
    pod = ns.start(ns.claim(closed_bucket))
    said = ns.event(pod, MOUNT + "PermissionDenied desc = .*")
    for part in (
        closed_bucket,
        "AccessDenied",
        "s3:ListBucket on the bucket",
        "[s3-access-denied]",
    ):
        assert part in said
    s3.policy("guides", "e2e-*", closed_bucket)
    try:
        kube.wait_ready(ns.name, f"pod/{pod}", within_s=60)
        assert ns.sh(pod, "cat /data/f") == "hello"
    finally:
        s3.policy("guides", "e2e-*")


def test_permission_that_is_taken_away_is_an_event_on_the_running_pod(ns, s3, closed_bucket):
    s3.policy("guides", "e2e-*", closed_bucket)
    try:
        s3.put(closed_bucket, "f", "hello")
        pod = ns.pod(ns.claim(closed_bucket))
        assert ns.sh(pod, "cat /data/f") == "hello"
    finally:
        s3.policy("guides", "e2e-*")
    assert "Permission denied" in ns.fails(pod, "sleep 1.5; ls /data")
    said = ns.event(pod, "FailedMount.*s3-access-denied", within_s=150)
    assert closed_bucket in said
    s3.policy("guides", "e2e-*", closed_bucket)
    try:
        assert ns.sh(pod, "sleep 1.5; ls /data; cat /data/f") == "f\nhello"
    finally:
        s3.policy("guides", "e2e-*")


def test_an_end_point_where_nobody_listens_is_named(ns, bucket, link):
    link.down()
    pod = ns.start(ns.claim(bucket, f"endpoint-url {link.url}", "aws-max-attempts 2"))
    said = ns.event(pod, MOUNT + "Unavailable desc = .*")
    assert link.url in said
    assert "[s3-unavailable]" in said
    link.up()
    kube.wait_ready(ns.name, f"pod/{pod}", within_s=90)


def test_an_inline_volume_is_refused(ns, bucket):
    spec = ns.template([])
    spec["volumes"] = [{
        "name": "inline",
        "csi": {"driver": ns.driver, "volumeAttributes": {"bucketName": bucket}},
    }]  # fmt: skip
    spec["containers"][0]["volumeMounts"] = [{"name": "inline", "mountPath": "/data"}]
    ns.apply("v1", "Pod", "inline", spec)
    ns.event("inline", "FailedMount.*Ephemeral.*not supported by driver", within_s=60)


def test_what_is_refused_for_want_of_an_option_is_an_event(ns, s3, bucket):
    s3.put(bucket, "f", "hello")
    pod = ns.pod(ns.claim(bucket))
    ns.fails(pod, "rm /data/f")
    assert "allow-delete" in ns.event(pod, "allow-delete", within_s=60)
