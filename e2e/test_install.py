"""What an administrator does: install, look, test, scrape, apply manifests."""

import json

from e2e import kube
from e2e.conftest import ROLE


def test_helm_status_says_what_to_do_next(release):
    said = kube.helm("status", release.name, "-n", release.namespace)
    assert "kubectl get pods --namespace kube-system" in said
    assert ROLE in said


def test_the_mounter_runs_under_the_annotated_account(release):
    for pod in release.pods("mounter"):
        spec = kube.get("pod", pod, release.namespace)["spec"]
        assert spec["serviceAccountName"] == "s3-csi-driver-sa"
    account = kube.get("sa", "s3-csi-driver-sa", release.namespace)
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] == ROLE


def test_helm_test_mounts_a_bucket(release):
    kube.helm("test", release.name, "-n", release.namespace, "--logs", "--timeout=120s")


def test_logs_are_json_lines(release):
    lines = release.lines()
    assert {"node", "mounter"} <= {line["logger"].split(".")[1] for line in lines}


def test_deploy_is_accepted_by_the_api_server(release):
    deploy = str(__file__).rsplit("/", 2)[0] + "/deploy"
    said = kube.kubectl("apply", "--dry-run=server", "--recursive", "-f", deploy)
    assert "daemonset.apps/s3-csi-node" in said
    assert "csidriver.storage.k8s.io/s3.csi.aws.com" in said


def test_readiness_and_metrics_are_served(release, ns, bucket, s3):
    s3.put(bucket, "f", "x" * 1000)
    pod = ns.pod(ns.claim(bucket))
    ns.sh(pod, "cat /data/f; ls /data")
    for component, port in (("node", 9810), ("mounter", 9811)):
        pods = release.pods(component)
        for name in pods:
            assert release.http(name, port, "/healthz")
            assert release.http(name, port, "/readyz")
        texts = [release.http(name, port, "/metrics") for name in pods]
        assert all("# HELP csi_s3_" in text for text in texts)
        uids = [item["metadata"]["uid"] for item in kube.find("pods", "-n", ns.name)]
        assert not any(uid in text for uid in uids for text in texts)
    served = "".join(release.http(name, 9811, "/metrics") for name in release.pods("mounter"))
    assert json.dumps(f"{ns.name}-").strip('"') in served
