"""More volumes than a node takes: the scheduler knows it, and pods wait for a node with room."""

import pytest

from e2e import kube
from e2e.release import ROLE_FLAG, VALUES

MOST = 2
# The node pods of all nodes are replaced at the same time: nothing else uses the driver here.
AT_ONCE = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}}


@pytest.fixture
def few(release, s3, nodes):
    """The release, with two volumes a node. Its mounters are not replaced, and could serve more."""

    def announced() -> dict[str, int]:
        return {
            node["metadata"]["name"]: found.get("allocatable", {}).get("count", 0)
            for node in kube.find("csinodes")
            for found in node["spec"]["drivers"] or []
            if found["name"] == release.driver and node["metadata"]["name"] in nodes
        }

    def upgrade(wanted: dict[str, int], **more: object) -> None:
        release.upgrade(s3, *ROLE_FLAG, **VALUES, node=AT_ONCE, **more)
        release.wait_ready()
        kube.until(lambda: announced() == wanted, what=f"{wanted} volumes in the CSINodes")

    usual = announced()
    assert min(usual.values()) > MOST
    try:
        upgrade(dict.fromkeys(nodes, MOST), mounter={"maxVolumes": MOST})
        yield
    finally:
        upgrade(usual)


@pytest.mark.usefixtures("few")
def test_a_pod_waits_for_a_node_with_room_instead_of_failing_on_one(ns, s3, nodes):
    full = nodes[0]
    claims = ns.claims(*(s3.bucket() for _ in range(MOST + 2)))
    pods = [ns.pod(claim, node=full) for claim in claims[:MOST]]

    waits = ns.start(claims[MOST], node=full)
    ns.event(waits, "^FailedScheduling: .*exceed max volume count")
    elsewhere = ns.pod(claims[MOST + 1])  # may run anywhere
    assert kube.get("pod", elsewhere, ns.name)["spec"]["nodeName"] != full
    ns.pod(claims[0], node=full)  # the node has this volume already
    assert kube.phase(ns.name, waits) == "Pending"
    assert not any("FailedMount" in said for said in kube.messages(ns.name, waits))

    ns.delete(f"pod/{pods[1]}")
    kube.wait_ready(ns.name, f"pod/{waits}")
