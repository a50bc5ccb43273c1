"""Ends a node as a power failure does, and brings it back: kind's, or those of e2e/cluster."""

import os
import shutil
import signal
from pathlib import Path

from e2e import kube

UP_WITHIN_S = 180
SCRIPTS = Path(__file__).parent / "cluster"


def crash(node: str) -> None:
    """Kill the node's first process, and with it all that runs there."""
    if _is_container(node):
        kube.run("docker", "kill", "--signal=KILL", node)
        return
    pid = int(_pid_file(node).read_text())
    os.kill(pid, signal.SIGKILL)


def bring_back(node: str, nodes: int) -> None:
    """Start the node again; it comes up with the disk that it had."""
    if _is_container(node):
        kube.run("docker", "start", node)
    else:
        kube.run(str(SCRIPTS / "up.sh"), str(nodes), within_s=UP_WITHIN_S)
    kube.kubectl(
        "wait", f"node/{node}", "--for=condition=Ready", f"--timeout={UP_WITHIN_S}s",
        within_s=UP_WITHIN_S + 10,
    )  # fmt: skip


def _is_container(node: str) -> bool:
    if shutil.which("docker") is None:
        return False
    named = ("--filter", f"name=^{node}$")
    return bool(kube.run("docker", "ps", "--all", "--quiet", *named, check=False).strip())


def _pid_file(node: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = os.environ.get("CSI_S3_E2E_CACHE") or Path(base) / "csi-s3-e2e"
    found = Path(cache) / "state" / "run" / f"{node}.pid"
    if not found.exists():
        raise RuntimeError(f"{node} is neither a container of kind nor a node of e2e/cluster")
    return found
