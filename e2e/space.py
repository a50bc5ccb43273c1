"""A test's own namespace, and all that it makes in and for it: volumes, claims, pods."""

import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from e2e import kube
from e2e.kube import Object

DRIVER = "s3.csi.aws.com"
IDLE = "trap 'exit 0' TERM; sleep infinity & wait"
GONE_WITHIN_S = 90
# A container that has bytes in /data/open which S3 does not have. A shell would not do: its
# redirection is a duplicate, whose close uploads.
_HOLD = (
    "import time; file = open('/data/open', 'wb', buffering=0); file.write(b'kept');"
    " open('/tmp/up', 'w').close(); time.sleep(1000)"
)
HOLDS_OPEN: Object = {
    "command": ["python", "-c", _HOLD],
    "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1},
}
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
NO_RIGHTS = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class Space:
    """name: of the namespace. What is made through this object goes with it."""

    def __init__(self, name: str, image: str, driver: str = DRIVER) -> None:
        self.name, self.driver, self._image = name, driver, image
        self.volumes: list[str] = []  # PersistentVolumes that go with it

    def claim(
        self,
        bucket: str,
        *options: str,
        name: str = "",
        mode: str = "ReadWriteMany",
        handle: str = "",
        **source: Any,
    ) -> str:
        """Make a PersistentVolume of the bucket and its claim; return the claim's name.

        source: further fields of its `csi`.
        """
        name = name or f"s3-{secrets.token_hex(3)}"
        volume = self._volume(bucket, options, name, mode, handle)
        volume["spec"]["csi"] |= source
        self._bind([volume])
        return name

    def claims(self, *buckets: str) -> list[str]:
        """Make a volume and a claim of each bucket; return the claims' names."""
        made = {f"s3-{secrets.token_hex(3)}": bucket for bucket in buckets}
        self._bind([
            self._volume(bucket, (), name, "ReadWriteMany", "") for name, bucket in made.items()
        ])  # fmt: skip
        return list(made)

    def _volume(
        self, bucket: str, options: Iterable[str], name: str, mode: str, handle: str
    ) -> Object:
        volume = f"{self.name}-{name}"
        self.volumes.append(volume)
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": "1Ti"},
                "accessModes": [mode],
                "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": self.name, "name": name},
                "mountOptions": list(options),
                "csi": {
                    "driver": self.driver,
                    "volumeHandle": handle or volume,
                    "volumeAttributes": {"bucketName": bucket},
                },
            },
        }

    def _bind(self, volumes: list[Object]) -> None:
        """One after the other, each seen by the controller: it tries again only after 15 s."""
        kube.apply(*volumes)
        kube.wait_phase("pv", [it["metadata"]["name"] for it in volumes], "Available")
        claims = [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": it["spec"]["claimRef"],
                "spec": {
                    "accessModes": it["spec"]["accessModes"],
                    "storageClassName": "",
                    "resources": {"requests": it["spec"]["capacity"]},
                    "volumeName": it["metadata"]["name"],
                },
            }
            for it in volumes
        ]
        kube.apply(*claims)
        names = [claim["metadata"]["name"] for claim in claims]
        kube.wait_phase("pvc", names, "Bound", self.name)

    def template(
        self,
        mounts: str | Iterable[Object],
        script: str = IDLE,
        *,
        user: int | None = None,
        node: str = "",
        grace_s: int = 1,
        claim_read_only: bool = False,
        **more: Any,
    ) -> Object:
        """A pod's spec.

        mounts: the claim that is seen at /data, or volumeMounts, whose names are claims.
        more: further fields of the spec; `container` holds further fields of the container.
        """
        if isinstance(mounts, str):
            mounts = [{"name": mounts, "mountPath": "/data"}]
        mounts = list(mounts)
        container = {
            "name": "main",
            "image": self._image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script],
            "volumeMounts": mounts,
            **more.pop("container", {}),
        }
        spec: Object = {
            "terminationGracePeriodSeconds": grace_s,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": [
                {
                    "name": name,
                    "persistentVolumeClaim": {"claimName": name, "readOnly": claim_read_only},
                }
                for name in dict.fromkeys(mount["name"] for mount in mounts)
            ],
            **more,
        }
        if user is not None:
            own = {"runAsUser": user, "runAsGroup": user}
            spec["securityContext"] = {**own, **spec.get("securityContext", {})}
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        return spec

    def start(self, mounts: str | Iterable[Object], script: str = IDLE, **more: Any) -> str:
        """Make a pod (see `template`) and return its name at once."""
        name = more.pop("name", "") or f"pod-{secrets.token_hex(3)}"
        labels = more.pop("labels", {})
        spec = self.template(mounts, script, **{"restartPolicy": "Never", **more})
        self.apply("v1", "Pod", name, spec, labels=labels)
        return name

    def pod(self, mounts: str | Iterable[Object], script: str = IDLE, **more: Any) -> str:
        """Make a pod (see `template`), wait until it is Ready, and return its name."""
        name = self.start(mounts, script, **more)
        kube.wait_ready(self.name, f"pod/{name}")
        return name

    def run(self, mounts: str | Iterable[Object], script: str, **more: Any) -> str:
        """Run a pod to its end, which must be good, and return its log."""
        within_s = more.pop("within_s", 90)
        return kube.wait_ended(self.name, self.start(mounts, script, **more), within_s=within_s)

    def apply(
        self, version: str, kind: str, name: str, spec: Object, *, labels: Object | None = None
    ) -> None:
        metadata = {"name": name, "namespace": self.name, "labels": labels or {}}
        kube.apply({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})

    def sh(self, pod: str, script: str, *, within_s: float = 60) -> str:
        return kube.execute(self.name, pod, script, within_s=within_s)

    def fails(self, pod: str, script: str, *, within_s: float = 60) -> str:
        return kube.fails(self.name, pod, script, within_s=within_s)

    def event(self, pod: str, regex: str, *, within_s: float = 90) -> str:
        return kube.wait_event(self.name, pod, regex, within_s=within_s)

    def delete(self, *what: str, within_s: float = GONE_WITHIN_S) -> None:
        """Delete objects (`pod/x`, or kinds and names as kubectl takes them) and see them gone."""
        kubectl_s = f"{within_s:.0f}s"
        kube.kubectl(
            "delete", "-n", self.name, *what, "--wait", f"--timeout={kubectl_s}",
            within_s=within_s + 10,
        )  # fmt: skip

    def close(self, *, wait: bool = False) -> list[str]:
        """Remove everything; what could not be removed, one line each.

        wait: until the namespace is gone, because its name is used again.
        """
        left = []
        owners = "deployment,statefulset,job,daemonset,replicaset"
        for kinds in (owners, "pod"):
            try:
                self.delete(kinds, "--all")
            except kube.CommandError as exc:
                left.append(f"{kinds} in {self.name}: {exc}")
        if left:
            kube.kubectl(
                "delete", "-n", self.name, "pod", "--all", "--grace-period=0", "--force",
                "--wait=false", check=False,
            )  # fmt: skip
        for kind, names in (("namespace", [self.name]), ("pv", self.volumes)):
            if names:
                kube.kubectl("delete", kind, *names, "--wait=false", "--ignore-not-found")
        if wait:
            kube.kubectl(
                "wait", "--for=delete", f"namespace/{self.name}", "--timeout=90s", within_s=100
            )
        return left


@contextmanager
def made(
    image: str, *, name: str = "", labels: Mapping[str, str] | None = None, driver: str = DRIVER
) -> Iterator[Space]:
    """A new namespace. Fails at the end when something of it cannot be removed."""
    space = Space(name or f"e2e-{secrets.token_hex(4)}", image, driver)
    kube.apply({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": space.name, "labels": dict(labels or {})},
    })  # fmt: skip
    kube.until(
        lambda: kube.kubectl(
            "get", "sa", "default", "-n", space.name, "--ignore-not-found", "-o", "name"
        ),
        what=f"the default service account of {space.name}",
    )
    try:
        yield space
    finally:
        left = space.close(wait=bool(name))
        if left:
            print("could not be removed:", *left, sep="\n", file=sys.stderr)
            raise AssertionError("\n".join(left))
