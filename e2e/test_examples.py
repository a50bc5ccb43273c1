"""Every file of examples/, applied as it is, except for bucket, endpoint, image and KMS key."""

import json
from pathlib import Path

import pytest
import yaml

from e2e import kube, store

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.yaml"))
PUBLIC = "noaa-ghcn-pds"
DOMINO = "domino-compute"
WITHIN_S = 180
KMS_ARN = "arn:aws:kms:us-east-1:111122223333:key/YOUR-KEY-ID"  # MinIO's keys have plain names


def replaced(text, s3, image):
    """Put what this cluster has in place of what a reader replaces."""
    bucket = s3.bucket()
    s3.put(bucket, "csv/by_year/1763.csv", "ITE00100554,17630101,TMAX,-36\n")
    for name in (PUBLIC, "YOUR-OTHER-BUCKET-NAME", "YOUR-BUCKET-NAME"):
        if name in text:
            text = text.replace(name, bucket)
            if name == PUBLIC:
                s3.open_to_all(bucket)
    return (
        text.replace("https://YOUR-STORE:9000", s3.endpoint)
        .replace(KMS_ARN, f"{store.KMS_KEY}\n    - endpoint-url={s3.endpoint}")
        .replace("busybox:1.37", image)
    ), bucket


def wait_done(found):
    """A pod that ends, a Job, and a Deployment do what they are for; others just run.

    Volume, claim and pod come at once: binding them, and seeing it, takes Kubernetes minutes at
    times (91 s seen).
    """
    kind, name = found["kind"], found["metadata"]["name"]
    namespace = found["metadata"].get("namespace", "default")
    if kind == "Pod" and found["spec"].get("restartPolicy") == "Never":
        kube.wait_ended(namespace, name, within_s=WITHIN_S)
    elif kind == "Pod":
        kube.wait_ready(namespace, f"pod/{name}", within_s=WITHIN_S)
    elif kind == "Job":
        kube.kubectl(
            "wait", "-n", namespace, f"job/{name}", "--for=condition=Complete",
            f"--timeout={WITHIN_S}s", within_s=WITHIN_S + 10,
        )  # fmt: skip
    elif kind == "Deployment":
        kube.kubectl(
            "rollout", "status", "-n", namespace, f"deployment/{name}",
            f"--timeout={WITHIN_S}s", within_s=WITHIN_S + 10,
        )  # fmt: skip


@pytest.fixture
def domino():
    kube.kubectl("create", "namespace", DOMINO)
    yield
    kube.kubectl("delete", "namespace", DOMINO, "--timeout=90s", within_s=100)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_works(release, s3, image, path, domino):
    text, bucket = replaced(path.read_text(), s3, image)
    objects = [found for found in yaml.safe_load_all(text) if found]
    listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    assert "YOUR-" not in text
    kube.kubectl("apply", "-f", "-", stdin=listing)
    try:
        for found in objects:
            wait_done(found)
        if path.stem == "several-pods-one-volume":
            kube.until(lambda: kube.logs("default", "s3-reader"), what="what the reader reads")
            assert len([key for key in s3.keys(bucket) if key.startswith("s3-writers-")]) == 3
    except Exception as exc:
        for found in objects:
            if found["kind"] == "Pod":
                at = (found["metadata"].get("namespace", "default"), found["metadata"]["name"])
                exc.add_note("\n".join([*kube.messages(*at), kube.logs(*at)]))
        raise
    finally:
        kube.kubectl(
            "delete", "-f", "-", "--ignore-not-found", "--timeout=90s", stdin=listing, within_s=100
        )
