"""`helm uninstall` takes away all that the driver was: mounts, directories, objects."""

import pytest
import yaml

from e2e import kube, space
from e2e.release import SECRET, second


@pytest.fixture
def leaving(s3, image, identity):
    driver = "leaving.s3.example.com"
    with second(s3, image, driver=driver, before=lambda it: it.keys(*identity)) as release:
        yield release


def test_uninstall_leaves_no_mount_no_directory_and_no_object(
    leaving, workload, bucket, nodes, inspector
):
    driver = leaving.driver
    with space.made(workload, driver=driver) as ns:
        claim = ns.claim(bucket)
        pods = [ns.pod(claim, node=node) for node in nodes]
        assert [ns.sh(pod, "ls -A /data") for pod in pods] == ["", ""]
    manifest = kube.helm("get", "manifest", leaving.name, "-n", leaving.namespace)
    objects = [found for found in yaml.safe_load_all(manifest) if found]
    leaving.uninstall()
    left = [
        f"{found['kind']}/{found['metadata']['name']}"
        for found in objects
        if kube.kubectl(
            "get", found["kind"], found["metadata"]["name"], "-n",
            found["metadata"].get("namespace", "default"), "--ignore-not-found",
        )
    ]  # fmt: skip
    assert left == []
    kube.kubectl("delete", "secret", SECRET, "-n", leaving.namespace)
    assert {node: inspector.left(node, driver) for node in nodes} == dict.fromkeys(nodes, "")
    listed = kube.kubectl("get", "csinodes", "-o", "jsonpath={.items[*].spec.drivers[*].name}")
    assert driver not in listed.split()
