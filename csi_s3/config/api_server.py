"""The address of the cluster's API, from the environment that kubelet gives to every container."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from csi_s3.errors import BadOptionError

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """url: https://HOST:PORT. token: file, replaced before it expires. ca: PEM file, or None."""

    url: str
    token: Path
    ca: Path | None


def in_cluster(environ: Mapping[str, str] | None = None) -> ApiServer:
    """The API of the cluster in which this process runs, as the pod's service account.

    Raises:
        BadOptionError: this process is not in a pod.

    """
    environ = os.environ if environ is None else environ
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise BadOptionError(
            "--events on and --startup-taint need the cluster's API, and "
            "KUBERNETES_SERVICE_HOST is not set",
            "run this in a pod, or omit both flags",
        )
    return ApiServer(
        url=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        token=_ACCOUNT / "token",
        ca=_ACCOUNT / "ca.crt",
    )
