"""An installed chart, and what may be asked of its pods."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e import kube
from e2e.space import DRIVER
from e2e.store import Store

CHART = Path(__file__).parent.parent / "charts" / "csi-s3"
SECRET = "aws-secret"  # its name
READY_WITHIN_S = 180
ROLE = "arn:aws:iam::111122223333:role/S3CSIDriverRole"
# As guides have it.
ROLE_FLAG = (
    "--set",
    r"controller.serviceAccount.annotations.eks\.amazonaws\.com/role-arn=" + ROLE,
)
TEST_BUCKET = "e2e-helm-test"
VALUES = {"tests": {"bucket": TEST_BUCKET, "write": True}}  # of the session's release


class Release:
    """image: NAME:TAG. Where it is, what it is called, and which driver it installs."""

    def __init__(self, name: str, namespace: str, driver: str, image: str) -> None:
        self.name, self.namespace, self.driver = name, namespace, driver
        self._repository, self._tag = image.rsplit(":", 1)

    def install(self, store: Store, *flags: str, **values: Any) -> str:
        """`helm install`, as README has it; returns helm's NOTES.

        flags: further command line. values: of the chart.
        """
        said = self._helm("install", store, *flags, **values)
        self.wait_ready()
        return said

    def upgrade(self, store: Store, *flags: str, **values: Any) -> str:
        return self._helm("upgrade", store, *flags, **values)

    def _helm(self, verb: str, store: Store, *flags: str, **values: Any) -> str:
        given = {
            "image": {"repository": self._repository, "tag": self._tag},
            "driverName": self.driver,
            "s3": {"endpointUrl": store.endpoint, "allowTokenOverHttp": True},  # it has no TLS
            **values,
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(given, file)
            file.flush()
            return kube.helm(
                verb, self.name, str(CHART), "--namespace", self.namespace,
                "--values", file.name, *flags,
            )  # fmt: skip

    def uninstall(self) -> None:
        kube.helm("uninstall", self.name, "--namespace", self.namespace, "--wait", "--timeout=120s")
        kube.until(lambda: not self.pods(), what="the end of the release's pods", within_s=120)

    def is_installed(self) -> bool:
        listed = kube.helm("list", "--namespace", self.namespace, "--all", "--short")
        return self.name in listed.split()

    def wait_ready(self) -> None:
        """Both DaemonSets are rolled out, and kubelet of every node knows the driver."""
        for name in ("s3-csi-node", "s3-csi-mounter"):
            kube.until(lambda name=name: self._is_rolled_out(name), what=f"DaemonSet {name}",
                       within_s=READY_WITHIN_S)  # fmt: skip
        nodes = {node["metadata"]["name"] for node in kube.find("nodes")}
        kube.until(lambda: self._registered() >= nodes, what="registration on every node")

    def _is_rolled_out(self, name: str) -> bool:
        found = kube.get("daemonset", name, self.namespace)
        status = found["status"]
        wanted = status.get("desiredNumberScheduled", 0)
        is_current = status.get("observedGeneration") == found["metadata"]["generation"]
        rolls = found["spec"]["updateStrategy"]["type"] != "OnDelete"
        updated = status.get("updatedNumberScheduled", 0) if rolls else wanted
        return bool(is_current and wanted == updated == status.get("numberReady", 0) > 0)

    def _registered(self) -> set[str]:
        return {
            node["metadata"]["name"]
            for node in kube.find("csinodes")
            for driver in node["spec"]["drivers"] or []
            if driver["name"] == self.driver
        }

    def pods(self, component: str = "", node: str = "") -> list[str]:
        """Names of its pods, of both components or one, on all nodes or one."""
        labels = "app=s3-csi-node" + (f",component={component}" if component else "")
        place = ["--field-selector", f"spec.nodeName={node}"] if node else []
        found = kube.find("pods", "-n", self.namespace, "-l", labels, *place)
        return [pod["metadata"]["name"] for pod in found]

    def kill(self, component: str, node: str) -> None:
        """Delete the component's pod on a node without any grace and await the next."""
        old = set(self.pods(component, node))
        kube.kubectl(
            "delete", "pod", "-n", self.namespace, *old, "--grace-period=0", "--force",
        )  # fmt: skip
        self.replaced(component, node, old)

    def kill_workers(self, node: str, bucket: str) -> None:
        """End the processes that serve a bucket on a node, as the OOM killer does.

        Every worker names its bucket in the log, beside its pid in the mounter's pod.
        """
        pod = self.pods("mounter", node)[0]
        said = kube.kubectl("logs", "-n", self.namespace, pod, "--tail=-1")
        lines = [json.loads(line) for line in said.splitlines()]
        pids = [
            line["pid"]
            for line in lines
            if line.get("program") == "worker" and f"bucket {bucket}:" in line["message"]
        ]
        end = (
            "import contextlib, os, sys\nfor pid in map(int, sys.argv[1:]):\n"
            " with contextlib.suppress(ProcessLookupError): os.kill(pid, 9)"
        )
        names = map(str, pids)
        kube.kubectl("exec", "-n", self.namespace, pod, "--", "python3", "-c", end, *names)

    def replaced(self, component: str, node: str, old: set[str]) -> None:
        def fresh() -> list[str]:
            return [pod for pod in self.pods(component, node) if pod not in old]

        new = kube.until(fresh, what=f"a new {component} pod on {node}")
        kube.wait_ready(self.namespace, f"pod/{new[0]}", within_s=READY_WITHIN_S)

    def logs(self, component: str = "", *args: str) -> str:
        labels = "app=s3-csi-node" + (f",component={component}" if component else "")
        return kube.kubectl(
            "logs", "-n", self.namespace, "-l", labels, "--prefix", "--tail=-1",
            "--max-log-requests=20", *args, check=False,
        )  # fmt: skip

    def lines(self, component: str = "") -> list[dict[str, Any]]:
        """What it has logged: JSON, one object a line."""
        said = kube.kubectl(
            "logs", "-n", self.namespace, "--tail=-1", "--max-log-requests=20",
            "-l", "app=s3-csi-node" + (f",component={component}" if component else ""),
        )  # fmt: skip
        return [json.loads(line) for line in said.splitlines()]

    def http(self, pod: str, port: int, path: str) -> str:
        """A page of a pod, through the API server."""
        return kube.raw(f"/api/v1/namespaces/{self.namespace}/pods/{pod}:{port}/proxy{path}")

    def keys(self, access: str, secret: str, **more: str) -> None:
        """Put keys into the Secret that the driver reads, as README has it."""
        kube.apply({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": SECRET, "namespace": self.namespace},
            "stringData": {"key_id": access, "access_key": secret, **more},
        })  # fmt: skip


@contextmanager
def second(
    store: Store,
    image: str,
    *,
    driver: str,
    before: Callable[["Release"], object] = lambda _: None,
    flags: tuple[str, ...] = (),
    values: Mapping[str, Any] | None = None,
) -> Iterator[Release]:
    """A release of another driver name in a namespace of its own, beside the session's.

    before: prepares the namespace.
    """
    name = driver.split(".", maxsplit=1)[0]
    release = Release(name, f"e2e-{name}", driver, image)
    kube.kubectl("create", "namespace", release.namespace)
    try:
        before(release)
        release.install(store, *flags, **{"node": {"priorityClassName": ""}, **(values or {})})
        yield release
    finally:
        if release.is_installed():
            release.uninstall()
        kube.kubectl("delete", "namespace", release.namespace, "--timeout=120s", within_s=130)


def session(image: str) -> Release:
    return Release("csi-s3", "kube-system", DRIVER, image)
