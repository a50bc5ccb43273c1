"""The rights of the chart in a cluster, on each Kubernetes that it supports, with their reasons."""

import pytest
import yaml

from tests.chart.rendered import CHART, RefusedError, render

VERSIONS = [f"1.{minor}.0" for minor in range(26, 36)]
WITH_POLICY = [version for version in VERSIONS if int(version.split(".")[1]) >= 30]
WITHOUT_POLICY = [version for version in VERSIONS if version not in WITH_POLICY]

# (API group, resource, verb): why the node plugin needs it, and the value that asks for it.
REASONS = {
    ("", "events", "create"): ("a pod's owner reads why its volume fails", "events"),
    ("", "events", "patch"): ("a repeated Event is counted in place of a new object", "events"),
    ("", "nodes", "get"): ("whether this node has the startup taint", "startupTaint"),
    ("", "nodes", "patch"): ("the startup taint is taken away", "startupTaint"),
}
LIMITED = {("", "nodes", "patch")}  # by the admission policy, to the pod's own node and one taint


def rights(rendered):
    return {
        (group, resource, verb)
        for role in rendered.all("ClusterRole")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def of(*values):
    return {right for right, (_, value) in REASONS.items() if value in values}


def test_the_versions_begin_with_the_first_that_the_chart_takes():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">={VERSIONS[0]}-0"
    with pytest.raises(RefusedError, match=r"incompatible with Kubernetes v1\.25"):
        render(kubernetes="1.25.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_each_right_has_a_reason_and_none_without_a_limit_is_wider_than_needed(version):
    rendered = render(kubernetes=version)
    has_policy = bool(rendered.all("ValidatingAdmissionPolicy"))
    assert has_policy is (version in WITH_POLICY)
    assert rights(rendered) == (of("events", "startupTaint") if has_policy else of("events"))
    assert has_policy or not rights(rendered) & LIMITED
    assert len(rendered.all("ValidatingAdmissionPolicyBinding")) == has_policy
    for rule in (rule for role in rendered.all("ClusterRole") for rule in role["rules"]):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "nonResourceURLs" not in rule
    [binding] = rendered.all("ClusterRoleBinding")
    assert [s["name"] for s in binding["subjects"]] == ["s3-csi-node-sa"]
    assert {m["kind"] for m in rendered.manifests} & {"Role", "RoleBinding", "Secret"} == set()
    [container] = rendered.node["containers"]
    takes_taint_away = any(arg.startswith("--startup-taint=") for arg in container["args"])
    assert takes_taint_away is has_policy


@pytest.mark.parametrize("version", VERSIONS)
def test_no_token_of_a_pod_s_account_is_asked_for(version):
    [driver] = render(kubernetes=version).all("CSIDriver")
    assert "tokenRequests" not in driver["spec"]


@pytest.mark.parametrize("version", WITHOUT_POLICY)
def test_the_taint_is_refused_where_the_right_cannot_be_limited(version):
    with pytest.raises(RefusedError, match=r"startupTaint\.enabled is true, .* Set it to false"):
        render({"startupTaint": {"enabled": True}}, kubernetes=version)
    off = render({"startupTaint": {"enabled": False}}, kubernetes=version)
    assert rights(off) == of("events")


@pytest.mark.parametrize("version", [WITHOUT_POLICY[-1], WITH_POLICY[0], VERSIONS[-1]])
def test_who_asks_for_nothing_gets_no_right_and_no_token(version):
    values = {"events": {"enabled": False}, "startupTaint": {"enabled": False}}
    rendered = render(values, kubernetes=version)
    assert rights(rendered) == set()
    assert rendered.all("ClusterRoleBinding") == []
    assert rendered.all("ValidatingAdmissionPolicy") == []
    assert rendered.node["automountServiceAccountToken"] is False


def test_the_policy_holds_in_whichever_namespace_kustomize_puts_the_account():
    expressions = []
    for namespace in ("kube-system", "storage"):
        [policy] = render(namespace=namespace).all("ValidatingAdmissionPolicy")
        [condition] = policy["spec"]["matchConditions"]
        expressions.append(condition["expression"])
        assert policy["spec"]["failurePolicy"] == "Fail"
    assert len(set(expressions)) == 1
    assert "kube-system" not in expressions[0]
    assert 'endsWith(":s3-csi-node-sa")' in expressions[0]
