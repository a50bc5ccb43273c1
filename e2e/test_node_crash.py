"""A node ends without warning and comes back with the disk that it had."""

import pytest

from e2e import kube
from e2e import nodes as machines


def restarts(namespace, pod):
    status = kube.get("pod", pod, namespace)["status"]
    return sum(each["restartCount"] for each in status.get("containerStatuses", []))


@pytest.mark.timeout(500, method="signal")
def test_pods_of_a_crashed_node_have_their_volumes_again(ns, s3, bucket, nodes, inspector):
    s3.put(bucket, "f", "hello")
    claim = ns.claim(bucket)
    script = "cat /data/f && echo && trap 'exit 0' TERM; sleep infinity & wait"
    lost = ns.pod(claim, script, node=nodes[1], restartPolicy="Always")
    other = ns.pod(claim, node=nodes[0])
    ns.sh(lost, "echo kept > /data/kept")
    machines.crash(nodes[1])
    try:
        assert ns.sh(other, "cat /data/kept; echo on > /data/on; cat /data/on") == "kept\non\n"
    finally:
        machines.bring_back(nodes[1], len(nodes))
    kube.until(lambda: restarts(ns.name, lost) > 0, what="the pod's new container", within_s=120)
    kube.wait_ready(ns.name, f"pod/{lost}", within_s=120)
    assert restarts(ns.name, lost) == 1, "a container started without its volume"
    assert kube.logs(ns.name, lost) == "hello\n"
    assert ns.sh(lost, "cat /data/kept /data/on; echo back > /data/back") == "kept\non\n"
    assert s3.get(bucket, "back") == b"back\n"
    kube.until(lambda: inspector.is_ready(nodes[1]), what="the inspector's new container")
    ns.delete(f"pod/{lost}")
    kube.until(
        lambda: not [path for path in inspector.mounts(nodes[1]) if ns.name in path],
        what="the end of the mounts of before the crash",
    )
