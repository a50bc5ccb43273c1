"""deploy/ is the chart, and each file of examples/ is what the driver accepts."""

import re

import pytest
import yaml

from csi_s3.config.volume_context import parse_volume
from tests.chart.deploy import PAGE, manifests
from tests.chart.rendered import ROOT, pod_of
from tests.chart.test_security import violations

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def documents(path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_the_plain_manifests_are_the_chart_with_its_defaults():
    assert PAGE.read_text(encoding="utf-8") == manifests(), "run: python -m tests.chart.deploy"


def test_no_plain_manifest_says_that_helm_manages_it():
    assert documents(PAGE)
    assert "helm" not in PAGE.read_text(encoding="utf-8").partition("\n---\n")[2].lower()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_volume_claim_and_pod_that_belong_together(path):
    found = documents(path)
    volumes = {d["metadata"]["name"]: d["spec"] for d in found if d["kind"] == "PersistentVolume"}
    claims = [d for d in found if d["kind"] == "PersistentVolumeClaim"]
    assert volumes.keys() == {c["spec"]["volumeName"] for c in claims}
    for claim in claims:
        volume = volumes[claim["spec"]["volumeName"]]
        where = {key: claim["metadata"][key] for key in ("namespace", "name")}
        assert volume["claimRef"] == where
        assert volume["accessModes"] == claim["spec"]["accessModes"]
        assert volume["storageClassName"] == claim["spec"]["storageClassName"] == ""
        assert volume["csi"]["driver"] == "s3.csi.aws.com"
    pods = [d["spec"] if d["kind"] == "Pod" else pod_of(d) for d in found if d["kind"] in WORKLOADS]
    used = {v["persistentVolumeClaim"]["claimName"] for pod in pods for v in pod["volumes"]}
    assert used == {c["metadata"]["name"] for c in claims}
    for pod in pods:
        assert violations(pod) == []


WORKLOADS = {"Pod", "Job", "Deployment", "StatefulSet"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_driver_takes_the_volumes_of_an_example_without_a_warning(path):
    for document in documents(path):
        if document["kind"] == "PersistentVolume":
            csi = document["spec"]["csi"]
            bucket = csi["volumeAttributes"]["bucketName"].lower()
            options = document["spec"]["mountOptions"]
            parsed = parse_volume({**csi["volumeAttributes"], "bucketName": bucket}, options)
            assert parsed.warnings == ()


def test_examples_can_be_applied_side_by_side():
    handles = [
        d["spec"]["csi"]["volumeHandle"]
        for path in EXAMPLES
        for d in documents(path)
        if d["kind"] == "PersistentVolume"
    ]
    named = [(d["kind"], d["metadata"]["name"]) for path in EXAMPLES for d in documents(path)]
    assert len(set(handles)) == len(handles) >= len(EXAMPLES)
    assert len(set(named)) == len(named)


def test_the_page_of_the_examples_lists_them_all():
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(([a-z0-9-]+\.yaml)\)", page)) == {path.name for path in EXAMPLES}


def test_the_example_for_domino_has_what_domino_looks_for():
    volume, claim, pod = documents(ROOT / "examples" / "domino-external-data-volume.yaml")
    assert claim["metadata"]["labels"] == {"dominodatalab.com/external-data-volume": "Generic"}
    assert claim["metadata"]["namespace"] == "domino-compute"
    config = parse_volume({"bucketName": "bucket"}, volume["spec"]["mountOptions"]).config
    assert (config.tree.uid, config.tree.gid) == (12574, 12574)
    assert pod["spec"]["securityContext"]["runAsUser"] == config.tree.uid
