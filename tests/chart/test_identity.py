"""Whichever place a guide puts the identity in, the mounter runs under it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typing_extensions import override

from tests.chart.rendered import CHART, KUBERNETES, RefusedError, Rendered, helm, render

ROLE = "eks.amazonaws.com/role-arn"
ARN = "arn:aws:iam::111122223333:role/S3CSIDriverRole"
OTHER = "arn:aws:iam::111122223333:role/Another"


def account(rendered: Rendered) -> dict[str, Any]:
    return rendered.one("ServiceAccount", rendered.mounter["serviceAccountName"])


@pytest.mark.parametrize("where", ["node", "controller", "mounter"])
def test_the_role_works_wherever_guides_put_it(where):
    rendered = render({where: {"serviceAccount": {"annotations": {ROLE: ARN}}}})
    assert account(rendered)["metadata"] == {
        **account(rendered)["metadata"],
        "name": "s3-csi-driver-sa",
        "namespace": "kube-system",
        "annotations": {ROLE: ARN},
    }
    assert rendered.node["serviceAccountName"] == "s3-csi-node-sa"
    assert "annotations" not in rendered.one("ServiceAccount", "s3-csi-node-sa")["metadata"]


def test_the_line_of_the_guides_does_what_it_means():
    line = r"controller.serviceAccount.annotations.eks\.amazonaws\.com/role-arn=" + ARN
    rendered = render(args=["--set", line])
    assert account(rendered)["metadata"]["annotations"] == {ROLE: ARN}


def test_the_blueprint_of_domino_has_another_namespace():
    values = {"node": {"serviceAccount": {"annotations": {ROLE: ARN}}}}
    rendered = render(values, namespace="domino-platform")
    assert account(rendered)["metadata"]["namespace"] == "domino-platform"
    [binding] = rendered.all("ClusterRoleBinding")
    assert binding["subjects"][0]["namespace"] == "domino-platform"


def test_annotations_of_several_places_are_merged():
    rendered = render(
        {
            "serviceAccount": {"annotations": {"a": "1"}},
            "node": {"serviceAccount": {"annotations": {ROLE: ARN, "b": "2"}}},
            "controller": {"serviceAccount": {"annotations": {ROLE: ARN, "c": "3"}}},
        }
    )
    assert account(rendered)["metadata"]["annotations"] == {ROLE: ARN, "a": "1", "b": "2", "c": "3"}


def test_two_roles_are_an_error_that_names_both():
    with pytest.raises(RefusedError) as refusal:
        render(
            {
                "node": {"serviceAccount": {"annotations": {ROLE: OTHER}}},
                "controller": {"serviceAccount": {"annotations": {ROLE: ARN}}},
            }
        )
    said = str(refusal.value)
    assert all(text in said for text in (ARN, OTHER, ROLE, "keep one of them"))
    assert "controller.serviceAccount.annotations" in said
    assert "node.serviceAccount.annotations" in said


@pytest.mark.parametrize("values", ["serviceAccount", "node", "mounter"])
def test_an_account_that_somebody_else_makes_is_left_alone(values):
    create = {"create": False}
    rendered = render(
        {values: create if values == "serviceAccount" else {"serviceAccount": create}}
    )
    assert [s["metadata"]["name"] for s in rendered.all("ServiceAccount")] == ["s3-csi-node-sa"]
    assert rendered.mounter["serviceAccountName"] == "s3-csi-driver-sa"


CONTROLLERS = {"controller": {"serviceAccount": {"create": False}}}


def test_an_account_of_a_controller_is_not_the_driver_s(tmp_path):
    with pytest.raises(RefusedError, match="this driver has no controller") as refusal:
        render(CONTROLLERS)
    assert "set serviceAccount.create=false" in str(refusal.value)
    rendered = render({**CONTROLLERS, "serviceAccount": {"create": False}})
    assert [s["metadata"]["name"] for s in rendered.all("ServiceAccount")] == ["s3-csi-node-sa"]
    with cluster(tmp_path, s3_csi_driver_sa={}) as kubeconfig:  # it is there: nothing to doubt
        installed(kubeconfig, "controller.serviceAccount.create=false")


@pytest.mark.parametrize("where", ["node", "controller"])
def test_a_role_that_is_empty_is_none(where):
    rendered = render({where: {"serviceAccount": {"annotations": {ROLE: ""}}}})
    assert "annotations" not in account(rendered)["metadata"]
    values = {
        "node": {"serviceAccount": {"annotations": {ROLE: ARN}}},
        "controller": {"serviceAccount": {"annotations": {ROLE: ""}}},
    }
    assert account(render(values))["metadata"]["annotations"] == {ROLE: ARN}


@pytest.mark.parametrize("where", ["node", "mounter"])
def test_the_account_may_have_another_name(where):
    rendered = render({where: {"serviceAccount": {"name": "mine"}}})
    assert account(rendered)["metadata"]["name"] == "mine"


def test_two_names_or_the_node_plugins_own_are_errors():
    with pytest.raises(RefusedError, match="keep one of them"):
        render({n: {"serviceAccount": {"name": n}} for n in ("node", "mounter")})
    with pytest.raises(RefusedError, match="service account of the node plugin"):
        render({"serviceAccount": {"name": "s3-csi-node-sa"}})


class FakeCluster(ThreadingHTTPServer):
    """As much of an API server as helm's `lookup` asks for: service accounts of one namespace."""

    daemon_threads = False  # joined at its end, so that no test leaves one behind

    def __init__(self, accounts: dict[str, dict[str, str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.accounts = accounts


class _Answers(BaseHTTPRequestHandler):
    server: FakeCluster

    def do_GET(self) -> None:
        head = "/api/v1/namespaces/kube-system/serviceaccounts/"
        path = self.path.partition("?")[0]
        name = path.removeprefix(head)
        if path == "/api/v1":
            kind = {"name": "serviceaccounts", "kind": "ServiceAccount", "namespaced": True}
            listed = {"kind": "APIResourceList", "groupVersion": "v1"}
            self._answer(200, {**listed, "resources": [{**kind, "verbs": ["get"]}]})
        elif path.startswith(head) and name in self.server.accounts:
            metadata = {"name": name, "annotations": self.server.accounts[name]}
            self._answer(200, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        else:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
            self._answer(404, {**status, "reason": "NotFound", "code": 404})

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def cluster(directory: Path, **accounts: dict[str, str]) -> Iterator[Path]:
    """A kubeconfig for a cluster with these service accounts and their annotations."""
    named = {name.replace("_", "-"): annotations for name, annotations in accounts.items()}
    with FakeCluster(named) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        path = directory / "kubeconfig"
        address = f"http://127.0.0.1:{server.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {}}],
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        try:
            yield path
        finally:
            server.shutdown()
            thread.join(10)


def installed(kubeconfig: Path, *sets: str) -> Rendered:
    """What `helm install` would install there, its look-ups answered by the cluster."""
    text = helm(
        *("template", "csi-s3", str(CHART), "--namespace", "kube-system", "--dry-run=server"),
        *("--kube-version", KUBERNETES, "--kubeconfig", str(kubeconfig)),
        *(part for line in sets for part in ("--set", line)),
    )
    return Rendered([document for document in yaml.safe_load_all(text) if document])


SET_ROLE = r"controller.serviceAccount.annotations.eks\.amazonaws\.com/role-arn=" + ARN


@pytest.mark.parametrize("sets", [[], [SET_ROLE]])
def test_the_account_that_eksctl_made_is_used_as_it_is(tmp_path, sets):
    with cluster(tmp_path, s3_csi_driver_sa={ROLE: ARN}) as kubeconfig:
        rendered = installed(kubeconfig, *sets)
    assert [s["metadata"]["name"] for s in rendered.all("ServiceAccount")] == ["s3-csi-node-sa"]
    assert rendered.mounter["serviceAccountName"] == "s3-csi-driver-sa"


@pytest.mark.parametrize("annotations", [{}, {ROLE: OTHER}])
def test_an_account_with_another_role_is_an_error_that_says_what_to_do(tmp_path, annotations):
    with (
        cluster(tmp_path, s3_csi_driver_sa=annotations) as kubeconfig,
        pytest.raises(RefusedError) as refusal,
    ):
        installed(kubeconfig, SET_ROLE)
    said = str(refusal.value)
    command = "kubectl annotate serviceaccount --namespace kube-system s3-csi-driver-sa --overwrite"
    assert f"{command} {ROLE}={ARN}" in said
    assert annotations.get(ROLE, "none") in said


def test_the_release_s_own_account_is_kept_at_an_upgrade_and_may_change(tmp_path):
    ours = {
        "meta.helm.sh/release-name": "csi-s3",
        "meta.helm.sh/release-namespace": "kube-system",
        ROLE: OTHER,
    }
    with cluster(tmp_path, s3_csi_driver_sa=ours) as kubeconfig:
        rendered = installed(kubeconfig, SET_ROLE)
    assert account(rendered)["metadata"]["annotations"] == {ROLE: ARN}


def test_an_account_of_another_release_is_somebody_else_s(tmp_path):
    theirs = {"meta.helm.sh/release-name": "aws", "meta.helm.sh/release-namespace": "kube-system"}
    with cluster(tmp_path, s3_csi_driver_sa=theirs) as kubeconfig:
        rendered = installed(kubeconfig)
    assert [s["metadata"]["name"] for s in rendered.all("ServiceAccount")] == ["s3-csi-node-sa"]


def test_where_there_is_none_the_release_makes_one(tmp_path):
    with cluster(tmp_path) as kubeconfig:
        assert account(installed(kubeconfig, SET_ROLE))["metadata"]["annotations"] == {ROLE: ARN}
