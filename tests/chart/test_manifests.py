"""The pods of the chart run what the programs understand, and fit together."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typing_extensions import override

from csi_s3.config.programs import MounterConfig, NodeConfig, SpoolLimit
from csi_s3.config.store_rules import StoreRules
from csi_s3.errors import BadOptionError
from csi_s3.mounter.memory_shares import MemoryShares
from tests.chart.rendered import (
    CHART,
    ROOT,
    RefusedError,
    Rendered,
    containers,
    environ,
    render,
    template,
)
from tests.chart.test_security import EVERYTHING, LITTLE

MIB = 1 << 20
# kubelet gives these to every pod
KUBELETS = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture(
    scope="module", params=[{}, EVERYTHING, LITTLE], ids=["defaults", "everything", "little"]
)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(request.param)


def node_config(rendered: Rendered) -> NodeConfig:
    [container] = containers(rendered.node)
    assert container["args"][0] == "node"
    return NodeConfig.from_args(container["args"][1:], {**KUBELETS, **environ(container)})


def mounter_config(rendered: Rendered) -> MounterConfig:
    [container] = containers(rendered.mounter)
    assert container["args"][0] == "mounter"
    return MounterConfig.from_args(container["args"][1:], {**KUBELETS, **environ(container)})


def test_the_programs_accept_what_the_manifests_give_them_and_agree(rendered):
    node, mounter = node_config(rendered), mounter_config(rendered)
    assert node.mounter == mounter.socket
    assert node.node_id == "{spec.nodeName}"
    assert node.driver_name == rendered.all("CSIDriver")[0]["metadata"]["name"]
    assert node.registration_dir == node.kubelet_dir / "plugins_registry"
    assert node.kubelet_endpoint == node.endpoint  # one path, here and for kubelet
    assert node.mounter_uid == rendered.mounter["securityContext"]["runAsUser"]


def test_what_a_program_uses_on_the_node_is_mounted_under_the_same_path(rendered):
    node, mounter = node_config(rendered), mounter_config(rendered)
    for pod, needed in (
        (
            rendered.node,
            [node.kubelet_dir / "pods", node.endpoint.parent, node.registration_dir],
        ),
        (rendered.mounter, [mounter.socket.parent, node.state_dir / "spools"]),
    ):
        host = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
        mounted = {
            m["mountPath"]: host.get(m["name"]) for m in pod["containers"][0]["volumeMounts"]
        }
        assert {str(path): mounted.get(str(path)) for path in needed} == {
            str(path): str(path) for path in needed
        }
    for path in (node.endpoint, node.state_dir, node.mounter):
        assert path.is_relative_to(node.endpoint.parent)


def test_probes_ask_the_port_that_the_program_serves(rendered):
    for pod, address, port in (
        (rendered.node, node_config(rendered).http_address, 9810),
        (rendered.mounter, mounter_config(rendered).http_address, 9811),
    ):
        [container] = containers(pod)
        assert address[1] == port
        assert [p["containerPort"] for p in container["ports"]] == [port]
        paths = {
            probe: container[probe]["httpGet"]["path"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert paths == {
            "startupProbe": "/healthz",
            "livenessProbe": "/healthz",
            "readinessProbe": "/readyz",
        }
        assert {container[probe]["httpGet"]["port"] for probe in paths} == {"http"}


def test_both_daemonsets_are_found_by_the_label_that_guides_use_and_told_apart(rendered):
    for name, component in (("s3-csi-node", "node"), ("s3-csi-mounter", "mounter")):
        spec = rendered.one("DaemonSet", name)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert labels["app"] == "s3-csi-node"
        assert labels["component"] == component
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        # `kubectl logs -l app=s3-csi-node -c s3-plugin`, as guides say it, needs it in both
        assert [c["name"] for c in containers(spec["template"]["spec"])] == ["s3-plugin"]


def test_both_daemonsets_run_on_the_same_nodes(rendered):
    for key in ("nodeSelector", "affinity", "tolerations"):
        assert rendered.node[key] == rendered.mounter[key]


def test_default_mount_options_reach_the_node_plugin_one_by_one():
    config = node_config(render(EVERYTHING))
    assert config.default_mount_options.values == {
        "region": "eu-central-1",
        "prefix": "a,b/",  # its comma separates nothing
    }
    assert not node_config(render()).default_mount_options.values
    one = node_config(render({"defaultMountOptions": ["prefix=a,b/"]}))
    assert one.default_mount_options.values == {"prefix": "a,b/"}


def test_the_memory_limit_of_the_pod_is_what_the_mounter_divides():
    assert mounter_config(render()).memory_limit == 4096 * MIB
    other = {"mounter": {"resources": {"limits": {"memory": "512Mi"}}, "maxVolumes": 3}}
    assert mounter_config(render(other)).memory_limit == 512 * MIB
    assert mounter_config(render(other)).max_volumes == 3
    assert mounter_config(render(LITTLE)).memory_limit is None


def test_the_disk_s_values_reach_the_programs():
    mounter, node = mounter_config(render()), node_config(render())
    assert (mounter.spool_limit, mounter.spool_free_percent) == (SpoolLimit(percent=50), 12)
    assert mounter.leftover_days == node.leftover_days == 30
    spool = {"limit": "100Gi", "freePercent": 0, "leftoverDays": 90}
    rendered = render({"mounter": {"spool": spool}})
    assert mounter_config(rendered).spool_limit == SpoolLimit(limit_bytes=100 << 30)
    assert mounter_config(rendered).leftover_days == node_config(rendered).leftover_days == 90
    assert mounter_config(render({"mounter": {"spool": {"limit": ""}}})).spool_limit is None
    with pytest.raises(RefusedError, match="limit"):
        render({"mounter": {"spool": {"limit": "5G"}}})


def test_the_scheduler_is_told_of_the_number_that_the_memory_is_divided_by():
    for number in (2, 16):
        rendered = render({"mounter": {"maxVolumes": number}})
        assert node_config(rendered).max_volumes == mounter_config(rendered).max_volumes == number
    assert node_config(render(LITTLE)).max_volumes is None  # no limit: nothing is divided


def test_a_volume_s_share_is_the_one_that_values_and_docs_tell():
    config = mounter_config(render())
    share = MemoryShares(config.memory_limit, config.max_volumes).share_bytes // MIB
    announced = node_config(render()).max_volumes_announced
    comment = words(CHART / "values.yaml")
    assert f"4Gi and {config.max_volumes} give each volume's buffers {share} MiB" in comment
    assert f"an eighth fewer ({announced} of {config.max_volumes})" in comment
    page = words(ROOT / "docs" / "operations.md")
    assert f"of 4 GiB, {config.max_volumes} volumes get {share} MiB each" in page
    assert f"{announced} of {config.max_volumes}" in page
    with pytest.raises(BadOptionError, match=r"\((\d+) MiB\)") as refusal:
        MemoryShares(MIB, config.max_volumes)
    least = re.search(r"\((\d+) MiB\)", str(refusal.value))[1]
    page = words(ROOT / "docs" / "troubleshooting.md")
    assert f"{least} MiB for {config.max_volumes} volumes" in page


def words(path: Path) -> str:
    """The text of a page or of comments, as if it had no line ends."""
    return " ".join(path.read_text(encoding="utf-8").replace("\n  # ", " ").split())


def test_labels_of_the_pods_may_be_ours_by_name_and_are_there_once():
    name, component = "app.kubernetes.io/name", "app.kubernetes.io/component"
    given = {name: "mine", component: "storage", "app": "x", "team": "data"}
    text = template({"node": {"podLabels": given}})
    rendered = Rendered([document for document in yaml.load_all(text, Strict) if document])
    for daemonset, own in (("s3-csi-node", "node"), ("s3-csi-mounter", "mounter")):
        labels = rendered.one("DaemonSet", daemonset)["spec"]["template"]["metadata"]["labels"]
        assert labels == {
            "app": "s3-csi-node",
            "component": own,
            name: "mine",
            component: "storage",
            "app.kubernetes.io/instance": "csi-s3",
            "team": "data",
        }


@pytest.mark.parametrize("values", [{}, EVERYTHING, LITTLE])
def test_no_key_and_no_variable_is_there_twice(values):
    for document in yaml.load_all(template(values), Strict):
        for _, pod in Rendered([document]).pods() if document else ():
            for container in containers(pod):
                names = [variable["name"] for variable in container.get("env", [])]
                assert len(names) == len(set(names))


class Strict(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, as kubectl's readers do."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is there twice: {sorted(keys)}"
        return super().construct_mapping(node, deep)


def test_events_and_taint_follow_their_values():
    assert node_config(render()).events
    assert node_config(render()).startup_taint == "s3.csi.aws.com/agent-not-ready"
    assert not node_config(render(LITTLE)).events
    assert node_config(render(LITTLE)).startup_taint == ""
    assert node_config(render({"driverName": "a.b"})).startup_taint == "a.b/agent-not-ready"
    own = {"startupTaint": {"key": "x/y"}, "node": {"tolerateAllTaints": False}}
    assert node_config(render(own)).startup_taint == "x/y"
    assert {"key": "x/y", "operator": "Exists"} in render(own).node["tolerations"]


def test_what_concerns_s3_is_in_the_mounter_s_environment_and_nowhere_else():
    rendered = render(EVERYTHING)
    [mounter], [node] = containers(rendered.mounter), containers(rendered.node)
    assert environ(mounter) == {
        "CSI_S3_CREDENTIALS_SECRET": "aws-secret",
        "CSI_S3_MEMORY_LIMIT": str(4096 * MIB),
        "AWS_ENDPOINT_URL_S3": "https://minio.example.com:9000",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_STS": "https://sts.example.com",
        "AWS_CA_BUNDLE": "/etc/csi-s3/ca/ca.crt",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://[fd00:ec2::23]/v1/credentials",
        "HTTP_PROXY": "http://p:1",
        "HTTPS_PROXY": "http://p:1",
        "NO_PROXY": ".svc",
        "AWS_PROFILE": "p",
    }
    assert set(environ(node)) == {"CSI_S3_NODE_ID", "CSI_S3_DEFAULT_MOUNT_OPTIONS"}
    always = {"CSI_S3_CREDENTIALS_SECRET", "CSI_S3_MEMORY_LIMIT"}
    assert set(environ(containers(render().mounter)[0])) == always


@pytest.mark.parametrize("kind", ["configMap", "secret"])
def test_the_ca_bundle_comes_from_a_config_map_or_a_secret(kind):
    pod = render({"s3": {"caBundle": {kind: "mine", "key": "root.pem"}}}).mounter
    [volume] = [v for v in pod["volumes"] if v["name"] == "ca"]
    name = {"configMap": "name", "secret": "secretName"}[kind]
    assert volume[kind][name] == "mine"
    assert volume[kind]["items"] == [{"key": "root.pem", "path": "ca.crt"}]
    [container] = containers(pod)
    [mount] = [m for m in container["volumeMounts"] if m["name"] == "ca"]
    assert environ(container)["AWS_CA_BUNDLE"] == f"{mount['mountPath']}/ca.crt"


def test_the_secret_s_keys_become_the_files_that_the_mounter_reads():
    names = {"name": "s", "keyId": "ID", "accessKey": "KEY", "sessionToken": "TOKEN"}
    rendered = render({"awsAccessSecret": names})
    [volume] = [v for v in rendered.mounter["volumes"] if "secret" in v]
    assert volume["secret"]["secretName"] == "s"
    assert environ(containers(rendered.mounter)[0])["CSI_S3_CREDENTIALS_SECRET"] == "s"
    assert volume["secret"]["optional"] is True
    assert {i["key"]: i["path"] for i in volume["secret"]["items"]} == {
        "ID": "key_id",
        "KEY": "access_key",
        "TOKEN": "session_token",
    }
    [mount] = [
        m for m in containers(rendered.mounter)[0]["volumeMounts"] if m["name"] == volume["name"]
    ]
    assert Path(mount["mountPath"]) == mounter_config(rendered).credentials_dir


def test_the_mounter_waits_for_the_administrator_and_the_node_plugin_for_nobody():
    rendered = render()
    strategies = {
        d["metadata"]["name"]: d["spec"]["updateStrategy"]["type"]
        for d in rendered.all("DaemonSet")
    }
    assert strategies == {"s3-csi-node": "RollingUpdate", "s3-csi-mounter": "OnDelete"}


def test_the_csidriver_object_says_what_the_driver_is():
    [driver] = render().all("CSIDriver")
    assert driver["metadata"]["name"] == "s3.csi.aws.com"
    assert driver["spec"] == {
        "attachRequired": False,
        "podInfoOnMount": True,
        "requiresRepublish": True,
        "fsGroupPolicy": "None",
        "volumeLifecycleModes": ["Persistent"],
    }


def test_every_object_is_in_the_namespace_of_the_release_or_named_after_the_driver(rendered):
    scoped = {"CSIDriver", "ClusterRole", "ClusterRoleBinding", "PersistentVolume"}
    scoped |= {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    [driver] = rendered.all("CSIDriver")
    for manifest in rendered.manifests:
        if manifest["kind"] not in scoped:
            assert manifest["metadata"]["namespace"] == "kube-system"
        elif manifest["kind"] != "PersistentVolume":
            assert manifest["metadata"]["name"].startswith(driver["metadata"]["name"])


def test_image_and_pull_secrets_are_those_of_the_values():
    rendered = render(
        {
            **EVERYTHING,
            "image": {"repository": "r.example.com/csi-s3", "tag": "1", "pullPolicy": "Always"},
        }
    )
    pods = dict(rendered.pods())
    assert len(pods) == 3
    for pod in pods.values():
        assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
        assert {c["image"] for c in containers(pod)} == {"r.example.com/csi-s3:1"}
        assert {c["imagePullPolicy"] for c in containers(pod)} == {"Always"}


def test_chart_and_image_have_the_version_of_the_package():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
    [container] = containers(render().node)
    assert container["image"].endswith(f":{project['version']}")


def test_helm_test_is_there_with_a_bucket_only_and_its_script_is_python():
    assert not render().all("Pod")
    assert not render().all("PersistentVolume")
    for write in (False, True):
        rendered = render({"tests": {"bucket": "b", "write": write}})
        [container] = rendered.one("Pod", "csi-s3-test")["spec"]["containers"]
        compile(container["args"][0], "helm test", "exec")
        assert ("unlink" in container["args"][0]) is write
        [volume] = rendered.all("PersistentVolume")
        assert ("read-only" in volume["spec"]["mountOptions"]) is not write


def test_the_rules_for_volumes_are_the_values():
    assert mounter_config(render()).store_rules == StoreRules()
    values = {
        "allowedEndpoints": ["minio.example.com", "*.example.org", "[fd12::1]"],
        "allowTokenOverHttp": True,
    }
    assert mounter_config(render({"s3": values})).store_rules == StoreRules(
        allowed_endpoints=("minio.example.com", "*.example.org", "fd12::1"),
        allow_token_over_http=True,
    )
