"""What an administrator does: install, look, test, scrape, apply manifests."""

import pytest

from e2e import kube, space
from e2e.release import ROLE, ROLE_FLAG, second


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
    kube.helm("test", release.name, "-n", release.namespace, "--timeout=120s")


def test_logs_are_json_lines_that_name_volume_and_pod(release, ns, bucket):
    pod = ns.pod(ns.claim(bucket))
    ours = [line for line in release.lines() if line.get("volume", "").startswith(ns.name)]
    assert {line["program"] for line in ours} == {"node", "mounter", "worker"}
    assert f"{ns.name}/{pod}" in {line.get("pod") for line in ours}


def test_deploy_is_accepted_by_the_api_server(release):
    deploy = str(__file__).rsplit("/", 2)[0] + "/deploy"
    said = kube.kubectl("apply", "--dry-run=server", "-k", deploy)
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
    assert f'volume="{ns.name}-' in served


@pytest.fixture
def made_by_eksctl(s3, image, identity):
    """A release beside a service account that was there before it."""

    def before(release):
        account = ("serviceaccount", "s3-csi-driver-sa", "-n", release.namespace)
        kube.kubectl("create", *account)
        kube.kubectl("annotate", *account, f"eks.amazonaws.com/role-arn={ROLE}")
        release.keys(*identity)

    driver = "eksctl.s3.example.com"
    values = {"defaultMountOptions": ["uid=4711", "allow-delete"]}
    with second(
        s3, image, driver=driver, before=before, flags=ROLE_FLAG, values=values
    ) as release:  # fmt: skip
        yield release


def test_an_account_that_eksctl_made_is_used_and_default_options_are_every_volumes(
    made_by_eksctl, workload, s3, bucket
):
    s3.put(bucket, "f", "hello")
    with space.made(workload, driver=made_by_eksctl.driver) as ns:
        said = ns.run(ns.claim(bucket, "gid=12"), "stat -c '%u %g' /data/f; rm /data/f")
        assert said == "4711 12\n"
        assert ns.run(ns.claim(bucket, "uid=5"), "stat -c '%u %g' /data") == "5 0\n"
    made_by_eksctl.uninstall()
    account = kube.get("sa", "s3-csi-driver-sa", made_by_eksctl.namespace)
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] == ROLE
