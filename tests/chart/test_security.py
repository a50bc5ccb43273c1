"""What the chart's pods may do to a node and a cluster."""

import pytest
import yaml

from tests.chart.rendered import Manifest, Rendered, containers, render

EVERYTHING = yaml.safe_load("""
driverName: s3.example.com
imagePullSecrets: [one, {name: two}]
httpHost: "[::]"
defaultMountOptions: [region eu-central-1, "prefix a,b/"]
s3:
  endpointUrl: https://minio.example.com:9000
  region: eu-central-1
  caBundle: {configMap: ca}
sts: {endpointUrl: https://sts.example.com}
proxy: {httpProxy: "http://p:1", httpsProxy: "http://p:1", noProxy: .svc}
eksPodIdentityAgent: {containerCredentialsFullURI: "http://[fd00:ec2::23]/v1/credentials"}
node:
  kubeletPath: /var/snap/microk8s/common/var/lib/kubelet/
  seLinuxOptions: {type: super_t}
  podLabels: {team: data, app: other}
  nodeSelector: {pool: work}
  tolerateAllTaints: false
  serviceAccount: {annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/a"}}
mounter:
  hostNetwork: true
  seLinuxOptions: {type: super_t}
  env: [{name: AWS_PROFILE, value: p}]
  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
tests: {bucket: b, write: true}
""")
LITTLE = {
    "events": {"enabled": False},
    "startupTaint": {"enabled": False},
    "serviceAccount": {"create": False},
    "mounter": {"resources": {"limits": None}},
}


@pytest.fixture(
    scope="module", params=[{}, EVERYTHING, LITTLE], ids=["defaults", "everything", "little"]
)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(request.param)


def violations(pod: Manifest) -> list[str]:
    """Ways in which a pod breaks the Pod Security Standard `restricted`."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
    allowed |= {"persistentVolumeClaim"}
    for volume in pod.get("volumes", []):
        found += [f"volume {kind}" for kind in volume.keys() - {"name"} - allowed]
    whole = pod.get("securityContext", {})
    for container in containers(pod):
        own = container.get("securityContext", {})
        both = {**whole, **own}
        capabilities = own.get("capabilities", {})
        checks = {
            "privileged": not own.get("privileged", False),
            "capabilities": capabilities.get("drop") == ["ALL"] and not capabilities.get("add"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "procMount": "procMount" not in own,
            "sysctls": not whole.get("sysctls"),
            "hostPorts": not any("hostPort" in port for port in container.get("ports", [])),
        }
        found += [name for name, holds in checks.items() if not holds]
    return sorted(found)


def test_one_container_of_the_chart_is_privileged_and_it_is_the_node_plugins(rendered):
    privileged = [
        name
        for name, pod in rendered.pods()
        for container in containers(pod)
        if container.get("securityContext", {}).get("privileged")
    ]
    assert privileged == ["s3-csi-node"]


def test_the_mounter_is_a_restricted_pod_but_for_its_two_directories(rendered):
    pod = rendered.mounter
    asked = ["hostNetwork"] if pod.get("hostNetwork") else []
    assert violations(pod) == [*asked, "volume hostPath", "volume hostPath"]


def test_the_pod_of_helm_test_is_a_restricted_pod():
    assert violations(render(EVERYTHING).one("Pod", "csi-s3-test")["spec"]) == []


def test_the_check_itself_sees_what_the_node_plugin_needs(rendered):
    assert {"privileged", "runAsNonRoot", "runAsUser", "capabilities"} <= set(
        violations(rendered.node)
    )


def test_no_pod_shares_the_nodes_processes_and_the_node_plugin_not_its_network(rendered):
    for _, pod in rendered.pods():
        assert not pod.get("hostPID")
        assert not pod.get("hostIPC")
    assert not rendered.node.get("hostNetwork")


def test_the_mounter_has_the_host_network_only_where_it_is_asked_for():
    assert not render().mounter.get("hostNetwork")
    pod = render(EVERYTHING).mounter
    assert pod["hostNetwork"] is True
    assert pod["dnsPolicy"] == "ClusterFirstWithHostNet"  # the store may be a Service


def test_every_root_file_system_is_read_only(rendered):
    for name, pod in rendered.pods():
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name


def test_the_mounter_sees_two_directories_of_the_node_and_changes_one(rendered):
    pod = rendered.mounter
    paths = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    mounts = {m["name"]: m for m in pod["containers"][0]["volumeMounts"]}
    writable = {path for name, path in paths.items() if not mounts[name].get("readOnly")}
    assert {path.split("/plugins/")[1].split("/", 1)[1] for path in paths.values()} == {
        "link",
        "state/spools",
    }
    assert {path.rsplit("/", 2)[-2:][0] for path in writable} == {"state"}
    assert not any("mountPropagation" in mounted for mounted in mounts.values())
    assert {m["mountPath"] for name, m in mounts.items() if name in paths} == set(paths.values())


def test_the_node_plugin_sees_three_of_kubelets_directories_and_read_ahead_alone(rendered):
    pod = rendered.node
    [driver] = rendered.all("CSIDriver")
    plugin = f"plugins/{driver['metadata']['name']}"
    paths = {v["hostPath"]["path"] for v in pod["volumes"]}
    [bdi] = [path for path in paths if path.startswith("/sys/")]
    assert bdi == "/sys/devices/virtual/bdi"
    [root] = {path.removesuffix("/pods") for path in paths if path.endswith("/pods")}
    assert paths == {bdi, *(f"{root}/{name}" for name in ("pods", plugin, "plugins_registry"))}
    mounts = {m["mountPath"]: m.get("mountPropagation") for m in containers(pod)[0]["volumeMounts"]}
    assert mounts.keys() == paths
    both = {path for path, how in mounts.items() if how == "Bidirectional"}
    assert both == {f"{root}/pods", f"{root}/{plugin}"}


def test_every_container_has_requests_of_cpu_and_limits_of_memory_and_disk():
    rendered = render()
    for pod in (rendered.node, rendered.mounter):
        [container] = containers(pod)
        resources = container["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= resources["requests"].keys()
        assert {"memory", "ephemeral-storage"} <= resources["limits"].keys()


def test_a_token_for_the_clusters_api_has_the_node_plugin_alone_and_only_if_it_asks():
    for values, has in (({}, True), (LITTLE, False)):
        pods = dict(render({**values, "tests": {"bucket": "b"}}).pods())
        assert {
            name for name, pod in pods.items() if pod["automountServiceAccountToken"] is not False
        } == ({"s3-csi-node"} if has else set())


@pytest.mark.parametrize(
    ("values", "resources"),
    [
        ({"events": {"enabled": False}}, [["nodes"]]),
        ({"startupTaint": {"enabled": False}}, [["events"]]),
        (LITTLE, None),
    ],
)
def test_a_right_goes_with_the_value_that_needs_it(values, resources):
    roles = render(values).all("ClusterRole")
    assert [[r["resources"] for r in role["rules"]] for role in roles] == (
        [resources] if resources else []
    )
    has_policy = bool(render(values).all("ValidatingAdmissionPolicy"))
    assert has_policy == values.get("startupTaint", {}).get("enabled", True)


def test_the_policy_names_the_release_s_own_taint():
    values = {"driverName": "s3.example.com"}
    policy = render(values, namespace="storage").one(
        "ValidatingAdmissionPolicy", "s3.example.com-node"
    )
    said = str(policy["spec"]["validations"])
    assert "s3.example.com/agent-not-ready" in said
