"""Pods and volumes that meet: on one node, on two, in one bucket, under one handle."""

from e2e import kube


def test_what_one_node_closed_the_other_opens(ns, nodes, bucket):
    claim = ns.claim(bucket, "allow-overwrite", "allow-delete")
    one, two = (ns.pod(claim, node=node) for node in nodes[:2])
    for i in range(5):
        ns.sh(one, f"head -c 100000 /dev/zero > /data/f{i}; echo {i} > /data/now")
        assert ns.sh(two, f"stat -c %s /data/f{i}; cat /data/now") == f"100000\n{i}\n"
        ns.sh(two, f"echo back-{i} > /data/now")
        assert ns.sh(one, "cat /data/now") == f"back-{i}\n"
    ns.sh(two, "rm /data/now")
    ns.fails(one, "sleep 1.5; cat /data/now")


def test_two_volumes_of_one_bucket_in_a_pod(ns, s3, bucket):
    s3.put(bucket, "a/f", "of a")
    s3.put(bucket, "b/f", "of b")
    a = ns.claim(bucket, "prefix=a/", "read-only")
    b = ns.claim(bucket, "prefix=b/", "allow-delete")
    mounts = [{"name": name, "mountPath": f"/{at}"} for name, at in ((a, "a"), (b, "b"))]
    assert ns.run(mounts, "cat /a/f /b/f; rm /b/f; ! rm /a/f 2>/dev/null") == "of aof b"
    assert s3.keys(bucket) == ["a/f"]


def test_a_volume_is_mounted_once_for_all_pods_of_a_node(ns, nodes, bucket, inspector, release):
    claim, node = ns.claim(bucket), nodes[0]
    before = len(inspector.sources(node, release.driver))
    pods = [ns.pod(claim, node=node) for _ in range(3)]
    assert len(inspector.sources(node, release.driver)) == before + 1
    ns.sh(pods[0], "echo 1 > /data/f")
    ns.delete(f"pod/{pods[0]}")
    assert ns.sh(pods[1], "cat /data/f") == "1\n"
    ns.delete("pod", *pods[1:])
    kube.until(
        lambda: len(inspector.sources(node, release.driver)) == before,
        what="the end of the volume's mount",
    )


def test_two_volumes_with_one_handle_are_both_served_and_the_second_is_warned(ns, s3, nodes):
    handle, node = f"{ns.name}-handle", nodes[0]
    buckets = [s3.bucket(), s3.bucket()]
    pods = []
    for i, name in enumerate(buckets):
        s3.put(name, "which", str(i))
        pods.append(ns.pod(ns.claim(name, handle=handle), node=node))
    assert [ns.sh(pod, "cat /data/which") for pod in pods] == ["0", "1"]
    said = ns.event(pods[1], f"volumeHandle.*{handle}|{handle}.*volumeHandle")
    assert buckets[0] in said or "other" in said
    assert kube.messages(ns.name, pods[0]) == [
        message for message in kube.messages(ns.name, pods[0]) if handle not in message
    ]
