"""Who may connect to the ports of metrics and health checks."""

import pytest
import yaml

from tests.chart.rendered import RefusedError, containers, render

PROMETHEUS = yaml.safe_load("""
- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
  podSelector: {matchLabels: {app.kubernetes.io/name: prometheus}}
""")


def policy(**values):
    rendered = render({"networkPolicy": {"enabled": True, **values}}, namespace="storage")
    return rendered, rendered.one("NetworkPolicy", "s3-csi-node")


def test_there_is_none_unless_it_is_asked_for():
    assert render({"networkPolicy": {"from": PROMETHEUS}}).all("NetworkPolicy") == []


def test_it_selects_the_pods_of_both_daemonsets_and_no_other():
    rendered, manifest = policy()
    assert manifest["metadata"]["namespace"] == "storage"
    selector = manifest["spec"]["podSelector"]
    [components] = selector["matchExpressions"]
    assert (components["key"], components["operator"]) == ("component", "In")
    found = []
    for daemonset in rendered.all("DaemonSet"):
        labels = daemonset["spec"]["template"]["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()
        found.append(labels["component"])
    assert sorted(found) == sorted(components["values"])


def test_nobody_may_connect_but_those_of_the_value_and_what_goes_out_is_not_touched():
    _, manifest = policy()
    assert manifest["spec"]["policyTypes"] == ["Ingress"]
    assert manifest["spec"]["ingress"] == []
    rendered, manifest = policy(**{"from": PROMETHEUS})
    [rule] = manifest["spec"]["ingress"]
    assert rule == {"ports": [{"port": "http", "protocol": "TCP"}], "from": PROMETHEUS}
    for pod in (rendered.node, rendered.mounter):
        [container] = containers(pod)
        assert {port["name"] for port in container["ports"]} == {"http"}  # all that they serve


def test_what_is_no_peer_is_refused():
    with pytest.raises(RefusedError, match="networkPolicy"):
        policy(**{"from": ["prometheus"]})
