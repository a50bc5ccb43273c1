"""Whose keys they are: the Secret's, changed under way; and IRSA with a real STS.

EKS' webhook is played by `as_webhook`: it gives the mounter's pods what the webhook gives them.
"""

import contextlib
import hashlib
import json
import threading

import pytest

from e2e import kube, space
from e2e.release import ROLE, ROLE_FLAG, SECRET, second
from e2e.store import AUDIENCE

TOKEN = "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"
LIVES_S = 12
SLOW_READ = """
import hashlib, time
digest = hashlib.sha256()
with open("/data/big", "rb", buffering=0) as file:
    while piece := file.read(4 << 20):
        digest.update(piece)
        time.sleep(1)
print(digest.hexdigest())
"""


# --- keys in a Secret ---------------------------------------------------------------------------


def wait_for_keys(release, access):
    """kubelet writes a changed Secret into running pods when it next looks at them."""
    script = "cat /etc/csi-s3/credentials/key_id"
    for pod in release.pods("mounter"):
        kube.until(
            lambda pod=pod: kube.execute(release.namespace, pod, script) == access,
            what=f"the changed Secret in {pod}", within_s=150,
        )  # fmt: skip


@pytest.mark.timeout(500, method="signal")
def test_a_changed_secret_is_used_without_a_restart(ns, s3, bucket, release, identity):
    s3.put(bucket, "f", "hello")
    pod = ns.pod(ns.claim(bucket, "allow-overwrite"))
    mounters = release.pods("mounter")
    first = s3.user("guides")
    try:
        release.keys(*first)
        wait_for_keys(release, first[0])
        ns.sh(pod, "sleep 6; cat /data/f; echo 1 > /data/f")  # they are looked at now and then
        used = [line["message"] for line in release.lines("mounter") if line.get("volume", "")
                .startswith(ns.name) and "credentials for bucket" in line["message"]]  # fmt: skip
        assert any(message.startswith("new credentials") for message in used), used
        assert release.pods("mounter") == mounters
    finally:
        release.keys(*identity)
        wait_for_keys(release, identity[0])
    s3.remove_user(first[0])
    assert ns.sh(pod, "cat /data/f; echo 2 > /data/f; cat /data/f") == "1\n2\n"


@pytest.mark.timeout(500, method="signal")
def test_wrong_keys_are_an_event_and_right_ones_start_the_pod(ns, bucket, release, identity):
    try:
        release.keys(identity[0], "0" * 40)
        script = "cat /etc/csi-s3/credentials/access_key"
        for mounter in release.pods("mounter"):
            kube.until(
                lambda mounter=mounter: kube.execute(release.namespace, mounter, script)
                == "0" * 40,
                what="the wrong keys in the mounter", within_s=150,
            )  # fmt: skip
        pod = ns.start(ns.claim(bucket))
        said = ns.event(pod, "FailedMount: .*rpc error: code = Unauthenticated desc = .*")
        secret = f"Secret {SECRET} in the driver's namespace"
        for part in ("SignatureDoesNotMatch", secret, "[s3-credentials]"):
            assert part in said
        assert identity[1] not in said
    finally:
        release.keys(*identity)
    kube.wait_ready(ns.name, f"pod/{pod}", within_s=200)
    wait_for_keys(release, identity[0])


# --- IRSA ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def irsa(s3, image, nodes):
    """A release with no keys at all, whose mounters have what EKS' webhook injects."""
    driver = "irsa.s3.example.com"
    values = {"sts": {"endpointUrl": s3.endpoint}}
    with second(s3, image, driver=driver, flags=ROLE_FLAG, values=values) as release:
        s3.policy(subject(release), "e2e-*")
        yield release


@pytest.fixture
def irsa_ns(irsa, workload):
    with space.made(workload, driver=irsa.driver) as made:
        yield made


def subject(release):
    return f"system:serviceaccount:{release.namespace}:s3-csi-driver-sa"


def as_webhook(release, nodes, volume):
    """Give the mounter's pods role, token file and the volume that holds it, and restart them."""
    account = kube.get("sa", "s3-csi-driver-sa", release.namespace)
    role = account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
    name = "aws-iam-token"
    container = {
        "name": "s3-plugin",
        "env": [
            {"name": "AWS_ROLE_ARN", "value": role},
            {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": TOKEN},
        ],
        "volumeMounts": [
            {"name": name, "mountPath": TOKEN.rpartition("/")[0], "readOnly": "projected" in volume}
        ],
    }
    spec = {"containers": [container], "volumes": [{"name": name, "$retainKeys": ["name", *volume],
                                                    **volume}]}  # fmt: skip
    patch = json.dumps({"spec": {"template": {"spec": spec}}})
    kube.kubectl("patch", "daemonset", "s3-csi-mounter", "-n", release.namespace, "-p", patch)
    for node in nodes:
        release.kill("mounter", node)


def test_irsa_reads_and_writes_as_the_annotated_role(irsa, irsa_ns, s3, bucket, nodes):
    source = {"audience": AUDIENCE, "expirationSeconds": 86400, "path": "token"}
    as_webhook(irsa, nodes, {"projected": {"sources": [{"serviceAccountToken": source}]}})
    s3.put(bucket, "f", "hello")
    said = irsa_ns.run(irsa_ns.claim(bucket), "cat /data/f; echo new > /data/new; cat /data/new")
    assert said == "hellonew\n"
    assert s3.get(bucket, "new") == b"new\n"
    assert any(f"web identity, role {ROLE}" in line["message"] for line in irsa.lines("mounter")), (
        "the keys came from elsewhere"
    )


def test_a_role_that_may_not_is_named(irsa, irsa_ns, closed_bucket, nodes):
    source = {"audience": AUDIENCE, "expirationSeconds": 86400, "path": "token"}
    as_webhook(irsa, nodes, {"projected": {"sources": [{"serviceAccountToken": source}]}})
    pod = irsa_ns.start(irsa_ns.claim(closed_bucket))
    said = irsa_ns.event(pod, "FailedMount: .*rpc error: code = PermissionDenied desc = .*")
    for part in (closed_bucket, ROLE, "s3:ListBucket"):
        assert part in said


def test_an_identity_that_sts_refuses_is_an_event_that_says_what_to_check(
    irsa, irsa_ns, bucket, nodes
):
    source = {"audience": "another.audience", "expirationSeconds": 86400, "path": "token"}
    as_webhook(irsa, nodes, {"projected": {"sources": [{"serviceAccountToken": source}]}})
    pod = irsa_ns.start(irsa_ns.claim(bucket))
    said = irsa_ns.event(pod, "FailedMount: .*rpc error: code = Unauthenticated desc = .*")
    for part in (ROLE, subject(irsa), "[s3-credentials]"):
        assert part in said


@pytest.fixture
def short_lived(irsa, nodes, issuer):
    """Tokens that end after LIVES_S; the returned function puts a new one into the mounters."""
    as_webhook(irsa, nodes, {"emptyDir": {"medium": "Memory"}})

    def renew():
        token = issuer.token(subject(irsa), seconds=LIVES_S)
        script = (
            f"import os; open('{TOKEN}.new', 'w').write('{token}');"
            f" os.rename('{TOKEN}.new', '{TOKEN}')"
        )
        for pod in irsa.pods("mounter"):
            kube.kubectl("exec", "-n", irsa.namespace, pod, "--", "python3", "-c", script)

    renew()
    return renew


@contextlib.contextmanager
def renewed(renew):
    """New tokens before the old ones end, as long as this lasts."""
    ended = threading.Event()
    failed = []

    def renewing():
        while not ended.wait(3):
            try:
                renew()
            except kube.CommandError as exc:
                failed.append(exc)

    renew()
    thread = threading.Thread(target=renewing)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
    assert failed == []


def test_credentials_that_expire_in_mid_read_are_renewed(irsa, irsa_ns, s3, bucket, short_lived):
    body = hashlib.sha256(b"seed").digest() * (4 << 20)  # 128 MiB: more than is read ahead
    s3.put(bucket, "big", body)
    with renewed(short_lived):
        claim = irsa_ns.claim(bucket, "memory-target=64")
        said = irsa_ns.run(
            claim, "", container={"command": ["python", "-c", SLOW_READ]}, within_s=150
        )
    assert said.strip() == hashlib.sha256(body).hexdigest()
    renewals = [
        line for line in irsa.lines("mounter")
        if line.get("volume", "").startswith(irsa_ns.name)
        and line["message"].startswith("new credentials")
    ]  # fmt: skip
    assert len(renewals) >= 2, renewals


def test_credentials_that_end_are_an_error_and_new_ones_mend_the_mount(
    irsa, irsa_ns, s3, bucket, short_lived
):
    s3.put(bucket, "f", "hello")
    with renewed(short_lived):  # until it runs, however long that takes
        pod = irsa_ns.pod(irsa_ns.claim(bucket))
    kube.until(
        lambda: "Permission denied" in kube.execute(
            irsa_ns.name, pod, "cat /data/f 2>&1 || true"
        ), what="the end of the credentials", within_s=60,
    )  # fmt: skip
    short_lived()
    kube.until(
        lambda: kube.execute(irsa_ns.name, pod, "cat /data/f 2>/dev/null || true") == "hello",
        what="new credentials", within_s=30,
    )  # fmt: skip
