"""The docs' walk-through with a demo store, pasted as it is, on the cluster that is there."""

import os
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from e2e import kube
from e2e.release import SECRET, session
from tests.readme import ROOT, blocks, script

OWN_SERVER = "https://10.99.0.1:6443"
WITHIN_S = 900
DEMO_STORE = ("docs/install.md", "## Local test cluster with a demo store")
VOLUME = ("pod/s3-pod", "pvc/s3-pvc", "pv/s3-pv")


@pytest.fixture
def free(nodes, image):
    """Nothing of an earlier run has the names that README uses, before and afterwards."""
    release = session(image)

    def clean() -> None:
        kube.kubectl("delete", *VOLUME, "--ignore-not-found", "--timeout=90s", within_s=100)
        if release.is_installed():
            release.uninstall()
        kube.kubectl("delete", "secret", SECRET, "-n", release.namespace, "--ignore-not-found")
        kube.until(lambda: not release.pods(), what="the end of the pods", within_s=120)

    clean()
    yield release
    clean()


@pytest.fixture
def cluster(nodes, host) -> str:
    """The block that leads to this cluster; on kind, which is made already, what it ends with."""
    _, own, _ = blocks(*DEMO_STORE)
    server = kube.kubectl("config", "view", "--minify", "-o", "jsonpath={..server}")
    if server == OWN_SERVER:
        return own
    if all(node["spec"].get("providerID", "").startswith("kind:") for node in kube.find("nodes")):
        return f"S3_HOST={host}\n"
    pytest.skip(f"the walk-through is for kind and for e2e/cluster; this is {server}")


def pasted(text: str, tmp: Path) -> str:
    """Run it in a bash; what it left running is ended. Returns what was printed."""
    log = tmp / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-e", "-c", text], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp)},
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        code: int | str = process.wait(WITHIN_S)
    except subprocess.TimeoutExpired:
        code = f"no end within {WITHIN_S} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    said = log.read_text(errors="replace")
    assert code == 0, f"{code}\n{said}"
    return said


@pytest.mark.timeout(WITHIN_S + 400, method="signal")
def test_the_walk_through_ends_in_a_pod_that_lists_the_bucket(free, cluster):
    *_, store = blocks(*DEMO_STORE)
    look, use, remove = blocks("README.md", "## Quick start")
    with tempfile.TemporaryDirectory(prefix="e2e-readme-") as tmp:
        said = pasted(script(cluster, store, look, use, remove), Path(tmp))
    _, _, listed = said.partition("pod/s3-pod condition met")
    assert listed.splitlines()[2].endswith(" README.md")
    assert not free.is_installed()
