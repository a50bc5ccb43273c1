"""The driver's own processes die, are upgraded, and come back, under pods that use volumes."""

import re
from pathlib import Path

import pytest

from e2e import kube, space
from e2e.release import ROLE_FLAG, VALUES

LOAD = (Path(__file__).parent / "load.py").read_text()
ROUND = r"round (\d+)"


@pytest.fixture
def load(ns, bucket, nodes):
    """A pod on the first node that writes and reads until it is deleted."""
    pod = ns.pod(
        ns.claim(bucket, "allow-delete", "allow-overwrite"), node=nodes[0], grace_s=30,
        container={"command": ["python", "-c", LOAD, "/data"]},
    )  # fmt: skip
    rounds(ns, pod, more=1)
    return pod


def rounds(ns, pod, *, more):
    """Wait until the load has done so many rounds (in twenties) more than now."""

    def done():
        found = re.findall(ROUND, kube.logs(ns.name, pod))
        return int(found[-1]) if found else 0

    start = done()
    kube.until(lambda: done() >= start + 20 * more, what="progress of the load", within_s=60)


def errors(ns, pod):
    return [line for line in kube.logs(ns.name, pod).splitlines() if line.startswith("error")]


def test_a_pod_under_load_is_deleted_and_nothing_stays(ns, load, nodes, inspector, release):
    ns.delete(f"pod/{load}", within_s=60)
    kube.until(lambda: not inspector.sources(nodes[0], release.driver), what="the end of the mount")
    assert not [path for path in inspector.mounts(nodes[0]) if ns.name in path]


def test_the_node_plugin_is_killed_under_load_without_an_error(ns, load, nodes, release):
    for _ in range(2):
        release.kill("node", nodes[0])
        rounds(ns, load, more=1)
    assert errors(ns, load) == []
    ns.delete(f"pod/{load}")


def test_a_node_plugin_that_ended_in_peace_without_volumes_serves_the_next(
    ns, s3, bucket, nodes, release
):
    """It leaves nothing on its node, so the mounter must find the next one's directories."""
    s3.put(bucket, "f", "hello")
    claim = ns.claim(bucket)
    for _ in range(2):
        old = set(release.pods("node", nodes[1]))
        kube.kubectl("delete", "pod", "-n", release.namespace, *old, "--timeout=60s", within_s=70)
        release.replaced("node", nodes[1], old)
        assert ns.run(claim, "cat /data/f", node=nodes[1]) == "hello"


def test_an_upgrade_under_load_is_not_noticed_by_the_workload(ns, load, nodes, release, s3):
    old = {component: set(release.pods(component)) for component in ("node", "mounter")}
    changed = {"node": {"podLabels": {"e2e": "upgraded"}}}
    release.upgrade(s3, *ROLE_FLAG, **VALUES, **changed)
    release.wait_ready()
    assert not old["node"] & set(release.pods("node"))
    assert old["mounter"] == set(release.pods("mounter"))
    rounds(ns, load, more=1)
    assert errors(ns, load) == []
    ns.delete(f"pod/{load}")
    for node in nodes:  # else they stay behind the values: updateStrategy OnDelete
        release.kill("mounter", node)


def test_a_killed_mounter_is_an_error_in_the_pod_and_a_new_pod_works(
    ns, s3, bucket, nodes, release
):
    s3.put(bucket, "f", "hello")
    claim, node = ns.claim(bucket), nodes[0]
    pod = ns.pod(claim, node=node)
    release.kill("mounter", node)
    said = ns.fails(pod, "timeout -s KILL 20 cat /data/f")
    assert "Transport endpoint is not connected" in said or "Software caused" in said
    assert "until they are restarted" in ns.event(pod, "VolumeBroken", within_s=120)
    ns.delete(f"pod/{pod}")
    assert ns.run(claim, "cat /data/f", node=node) == "hello"


def test_a_mounter_that_ends_in_peace_uploads_what_is_open(ns, s3, bucket, nodes, release):
    ns.pod(ns.claim(bucket), node=nodes[0], container=space.HOLDS_OPEN)
    assert s3.keys(bucket) == []
    old = set(release.pods("mounter", nodes[0]))
    kube.kubectl("delete", "pod", "-n", release.namespace, *old, "--timeout=90s", within_s=100)
    release.replaced("mounter", nodes[0], old)
    assert s3.get(bucket, "open") == b"kept"


def test_a_killed_worker_breaks_one_volume_only(ns, s3, nodes, release, inspector):
    buckets = [s3.bucket(), s3.bucket()]
    pods = [ns.pod(ns.claim(bucket), node=nodes[0]) for bucket in buckets]
    release.kill_workers(nodes[0], buckets[0])
    ns.fails(pods[0], "timeout -s KILL 20 ls /data")
    ns.event(pods[0], "VolumeBroken|FailedMount", within_s=120)
    assert ns.sh(pods[1], "echo 1 > /data/f; cat /data/f") == "1\n"


def test_the_startup_taint_is_removed(ns, nodes, release):
    node, key = nodes[1], f"{release.driver}/agent-not-ready"
    old = set(release.pods("node", node))
    kube.kubectl("taint", "node", node, f"{key}=:NoExecute")
    try:
        kube.kubectl("delete", "pod", "-n", release.namespace, *old)
        release.replaced("node", node, old)

        def is_gone():
            taints = kube.get("node", node)["spec"].get("taints", [])
            return not any(taint["key"] == key for taint in taints)

        kube.until(is_gone, what="the end of the taint", within_s=60)
    finally:
        kube.kubectl("taint", "node", node, f"{key}-", check=False)
