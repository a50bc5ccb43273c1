"""One cluster, one S3 server and one installed release for all; a namespace for each test."""

import os
import secrets
import sys

import pytest

from e2e import kube, openid, proxy, space, store
from e2e.inspect_node import Inspector
from e2e.release import ROLE_FLAG, SECRET, TEST_BUCKET, VALUES, Release, session

TEST_WITHIN_S = 300
NODES = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """README's release has the name of the session's, and is gone before that one is made."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_WITHIN_S, method="signal"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Before a failed test's namespace goes: what a person would look at."""
    report = yield
    if report.failed and call.when == "call":
        funcargs = getattr(item, "funcargs", {})
        for name, value in funcargs.items():
            if isinstance(value, space.Space):
                report.sections.append((f"namespace of {name}", dump(value.name)))
            if isinstance(value, Release):
                report.sections.append((f"log of {name}", value.logs("", "--since=3m")[-20000:]))
    return report


def dump(namespace: str) -> str:
    """Pods described, Events, and the pods' logs."""
    asked = (
        ("get", "pods", "-o", "wide"),
        ("describe", "pods"),
        ("get", "events", "--sort-by=.lastTimestamp"),
    )
    said = [kube.kubectl(*args, "-n", namespace, check=False) for args in asked]
    for pod in kube.find("pods", "-n", namespace):
        name = pod["metadata"]["name"]
        said.append(f"log of {name}:\n{kube.logs(namespace, name, '--tail=100')}")
    return "\n".join(said)


@pytest.fixture(scope="session")
def image() -> str:
    return kube.required("CSI_S3_E2E_IMAGE", "localhost/csi-s3:e2e")


@pytest.fixture(scope="session")
def workload() -> str:
    return kube.required("CSI_S3_E2E_WORKLOAD_IMAGE", "localhost/csi-s3-workload:e2e")


@pytest.fixture(scope="session")
def host() -> str:
    """An address of this machine that pods reach."""
    return kube.required("CSI_S3_E2E_S3_HOST", "10.99.0.1")


@pytest.fixture(scope="session")
def nodes() -> list[str]:
    """Names of the cluster's nodes that pods may run on, two at least."""
    kube.required("KUBECONFIG")
    found = [
        node["metadata"]["name"]
        for node in kube.find("nodes")
        if not any(
            taint["effect"] != "PreferNoSchedule" for taint in node["spec"].get("taints", [])
        )
    ]
    if len(found) < NODES:
        raise RuntimeError(f"the tests need {NODES} nodes for pods; there are {found}")
    return sorted(found)


@pytest.fixture(scope="session")
def issuer(nodes, host):
    with openid.serving(host) as serving:
        yield serving


@pytest.fixture(scope="session")
def s3(issuer, host):
    with store.running(host, issuer.url) as running:
        yield running


@pytest.fixture(scope="session")
def identity(s3) -> tuple[str, str]:
    """Keys of a user with exactly the permissions of the guides' policy on buckets `e2e-…`."""
    return s3.user(s3.policy("guides", "e2e-*"))


@pytest.fixture(scope="session")
def release(nodes, s3, identity, image, inspector):
    """The driver, installed as README says, with keys in the Secret aws-secret.

    CSI_S3_E2E_KEEP=1 leaves it, and the next run upgrades it: for work on the tests themselves.
    """
    release = session(image)
    keep = os.environ.get("CSI_S3_E2E_KEEP") == "1"
    release.keys(*identity)
    s3.bucket(name=TEST_BUCKET)
    if release.is_installed() and keep:
        release.upgrade(s3, *ROLE_FLAG, **VALUES)
        for component in ("node", "mounter"):  # keys in memory are those of the run before
            kube.kubectl(
                "delete", "pod", "-n", release.namespace,
                "-l", f"app=s3-csi-node,component={component}",
            )  # fmt: skip
        release.wait_ready()
    else:
        if release.is_installed():
            print("a release is left of an earlier run; it is uninstalled", file=sys.stderr)
            release.uninstall()
        release.install(s3, *ROLE_FLAG, **VALUES)
    yield release
    if not keep:
        release.uninstall()
        kube.kubectl("delete", "secret", SECRET, "-n", release.namespace)
        assert not "".join(inspector.left(node, release.driver) for node in nodes)


@pytest.fixture
def ns(release, workload):
    with space.made(workload) as made:
        yield made


@pytest.fixture
def bucket(s3) -> str:
    return s3.bucket()


@pytest.fixture
def closed_bucket(s3) -> str:
    """A bucket that the driver's user may not touch."""
    return s3.bucket("closed")


@pytest.fixture
def link(host):
    """A way to the S3 server that can be slow or down."""
    with proxy.linked(host, (host, store.PORT)) as linked:
        yield linked


@pytest.fixture(scope="session")
def inspector(nodes, workload):
    """Looks at nodes from the inside, as their root."""
    with space.made(workload, name=f"e2e-inspector-{secrets.token_hex(2)}") as made:
        yield Inspector(made, nodes)
