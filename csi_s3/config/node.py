"""How the node plugin and the mounter are started: flags, each also an environment variable.

Flags win. The environment is for manifests, where a pod's node name and such arrive that way.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from typing_extensions import override

from csi_s3.errors import BadOptionError

DRIVER_NAME = "s3.csi.aws.com"  # manifests written for the AWS driver work unchanged

_NAME = re.compile(r"[a-zA-Z]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?")
_MAX_NODE_ID_BYTES = 256  # CSI: size limits
_MAX_ID = (1 << 32) - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`csi-s3 node`.

    endpoint: path of the socket that kubelet calls.
    state_dir: below it are the mounts' sources and state directories; the mounter sees it under
        the same path.
    kubelet_dir: nothing outside it is ever published or unpublished.
    mounter: path of the socket on which the mounter is awaited; its directory exists.
    mounter_uid: who the mounter must be; the socket's group and the state directories' owner.
    """

    endpoint: Path
    node_id: str
    state_dir: Path
    kubelet_dir: Path
    mounter: Path
    driver_name: str = DRIVER_NAME
    mounter_uid: int = 0

    @classmethod
    def from_args(cls, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Self:
        """Read flags, then environment (this process's own if none is given).

        Raises:
            BadOptionError: names the flag, the value and the form expected.

        """
        parser = _Flags("node", "the CSI node plugin: mounts volumes for kubelet", environ)
        parser.flag("--endpoint", "unix://PATH", "socket that kubelet calls")
        parser.flag("--node-id", "ID", "this node's name in the cluster")
        parser.flag("--state-dir", "DIR", "sources and state of the mounts, also the mounter's")
        parser.flag("--kubelet-dir", "DIR", "kubelet's directory; targets lie below it")
        parser.flag("--mounter", "PATH", "socket on which the mounter is awaited")
        parser.flag("--driver-name", "NAME", "name of the CSI driver", DRIVER_NAME)
        parser.flag("--mounter-uid", "UID", "user (and group) that the mounter runs as", "0")
        given = parser.read(argv)
        return cls(
            endpoint=_endpoint(given["endpoint"]),
            node_id=_node_id(given["node_id"]),
            state_dir=_absolute("--state-dir", given["state_dir"]),
            kubelet_dir=_absolute("--kubelet-dir", given["kubelet_dir"]),
            mounter=_absolute("--mounter", given["mounter"]),
            driver_name=_driver_name(given["driver_name"]),
            mounter_uid=_uid(given["mounter_uid"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MounterConfig:
    """`csi-s3 mounter`. socket: where node listens."""

    socket: Path

    @classmethod
    def from_args(cls, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Self:
        """As `NodeConfig.from_args`."""
        parser = _Flags("mounter", "serves mounts: one process per mount, no privileges", environ)
        parser.flag("--socket", "PATH", "socket on which the node plugin awaits us")
        return cls(socket=_absolute("--socket", parser.read(argv)["socket"]))


class _Flags(argparse.ArgumentParser):
    """argparse with an environment variable per flag, and our error in place of its exit."""

    def __init__(self, program: str, about: str, environ: Mapping[str, str] | None) -> None:
        super().__init__(prog=f"csi-s3 {program}", description=about, allow_abbrev=False)
        self._environ = os.environ if environ is None else environ
        self._variables: dict[str, str] = {}

    def flag(self, name: str, metavar: str, text: str, default: str | None = None) -> None:
        variable = "CSI_S3_" + name.removeprefix("--").replace("-", "_").upper()
        self._variables[name] = variable
        end = "" if default is None else f"; default {default}"
        self.add_argument(
            name,
            metavar=metavar,
            help=f"{text} [{variable}{end}]",
            default=self._environ.get(variable) or default,
        )

    def read(self, argv: Sequence[str]) -> dict[str, str]:
        given = vars(self.parse_args(list(argv)))
        for name, variable in self._variables.items():
            if not given[name.removeprefix("--").replace("-", "_")]:
                raise BadOptionError(f"{name} is missing", f"give {name} or set {variable}")
        return given

    @override
    def error(self, message: str) -> NoReturn:
        raise BadOptionError(f"{self.prog}: {message}", f"{self.prog} --help lists the flags")


def _endpoint(value: str) -> Path:
    scheme, separator, path = value.partition("://")
    if scheme != "unix" or not separator or not path.startswith("/"):
        raise BadOptionError(
            f"--endpoint {value!r} is not a socket's address", "expected unix:///ABSOLUTE/PATH"
        )
    return Path(path)


def _absolute(flag: str, value: str) -> Path:
    path = Path(value)
    if not path.is_absolute() or ".." in path.parts:
        raise BadOptionError(f"{flag} {value!r} is not a full path", "expected /ABSOLUTE/PATH")
    return path


def _driver_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise BadOptionError(
            f"--driver-name {value!r} is not a CSI driver's name",
            "expected a domain name: letters, digits, '-' and '.', at most 63 characters",
        )
    return value


def _node_id(value: str) -> str:
    if len(value.encode()) > _MAX_NODE_ID_BYTES:
        raise BadOptionError(
            f"--node-id {value[:40]!r}... is too long",
            f"expected at most {_MAX_NODE_ID_BYTES} bytes",
        )
    return value


def _uid(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", value) or int(value) > _MAX_ID:
        raise BadOptionError(
            f"--mounter-uid {value!r} is not a user's number", "expected e.g. 65532"
        )
    return int(value)
