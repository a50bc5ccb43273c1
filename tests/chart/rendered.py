"""The chart as helm renders it: helm is the judge, nothing of its language is imitated here."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.binaries import binary

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "csi-s3"
KUBERNETES = "1.34.0"  # what helm believes to install into: it cannot ask here

Manifest = dict[str, Any]


class RefusedError(Exception):
    """The text is what helm says to a person."""


def helm(*args: str, stdin: str = "") -> str:
    command = [str(binary("helm")), *args]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise RefusedError(done.stderr)
    return done.stdout


def template(
    values: Mapping[str, Any] | None = None,
    *,
    namespace: str = "kube-system",
    kubernetes: str = KUBERNETES,
    args: Sequence[str] = (),
) -> str:
    return helm(
        *("template", "csi-s3", str(CHART), "--namespace", namespace),
        *("--kube-version", kubernetes, "--values", "-", *args),
        stdin=yaml.safe_dump(dict(values or {})),
    )


def render(values: Mapping[str, Any] | None = None, **how: Any) -> "Rendered":
    documents = yaml.safe_load_all(template(values, **how))
    return Rendered([document for document in documents if document])


class Rendered:
    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.manifests = manifests

    def all(self, kind: str) -> list[Manifest]:
        return [m for m in self.manifests if m["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        found = [m for m in self.all(kind) if m["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} times {kind} {name}"
        return found[0]

    @property
    def node(self) -> Manifest:
        return pod_of(self.one("DaemonSet", "s3-csi-node"))

    @property
    def mounter(self) -> Manifest:
        return pod_of(self.one("DaemonSet", "s3-csi-mounter"))

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """Every pod of any object, with the object's name."""
        for manifest in self.manifests:
            if manifest["kind"] == "Pod":
                yield manifest["metadata"]["name"], manifest["spec"]
            elif "template" in manifest.get("spec", {}):
                yield manifest["metadata"]["name"], pod_of(manifest)


def pod_of(workload: Manifest) -> Manifest:
    return workload["spec"]["template"]["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environ(container: Manifest) -> dict[str, str]:
    """The container's environment; what only the cluster knows is in braces."""
    return {variable["name"]: _value(variable, container) for variable in container.get("env", [])}


def _value(variable: Manifest, container: Manifest) -> str:
    match variable.get("valueFrom", {}):
        case {"fieldRef": {"fieldPath": path}}:
            return f"{{{path}}}"
        case {"resourceFieldRef": {"resource": path}}:
            return str(_bytes(_looked_up(container["resources"], path)))
    return variable["value"]


def _looked_up(resources: Manifest, path: str) -> str:
    section, name = path.split(".")
    return resources[section][name]


def _bytes(quantity: str) -> int:
    units = {"Ki": 10, "Mi": 20, "Gi": 30}
    return int(quantity[:-2]) << units[quantity[-2:]]
