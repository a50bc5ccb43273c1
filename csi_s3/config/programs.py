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

from csi_s3.config.api_server import ApiServer, in_cluster
from csi_s3.config.defaults import DefaultOptions
from csi_s3.config.option_parser import split_commas
from csi_s3.config.volume_context import parse_defaults
from csi_s3.errors import BadOptionError

DRIVER_NAME = "s3.csi.aws.com"  # manifests written for the AWS driver work unchanged

_NAME = re.compile(r"[a-zA-Z]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?")
_MAX_NODE_ID_BYTES = 256  # CSI: size limits
_MAX_ID = (1 << 32) - 2
_MAX_PORT = (1 << 16) - 1
_MAX_VOLUMES, _MOST_VOLUMES = 16, 10_000
_SPARE = 8  # one place in so many is kept from the scheduler
_HTTP = "where /metrics, /healthz and /readyz are served"
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[a-zA-Z0-9._-]+):([0-9]{1,5})")
# Kubernetes: a taint's key is a name, with a DNS name and "/" before it as a rule.
_TAINT = re.compile(r"([a-z0-9.-]{1,253}/)?[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`csi-s3 node`.

    endpoint: path of the socket that kubelet calls.
    state_dir: below it are the mounts' sources and state directories; the mounter sees it under
        the same path.
    kubelet_dir: nothing outside it is ever published or unpublished.
    mounter: path of the socket on which the mounter is awaited; its directory exists.
    mounter_uid: who the mounter must be; the socket's group and the state directories' owner.
    registration_dir: where kubelet looks for plug-ins; None: nobody is told of this one.
    kubelet_endpoint: path of `endpoint` as kubelet sees it.
    http_address: host and port of metrics and health; None is off.
    default_mount_options: what every volume starts from.
    max_volumes: the mounter's; None: its memory has no limit, and so no number of volumes.
    startup_taint: key of the taint to remove from this node when it can serve; "" is none.
    events: whether pods get Events through the cluster's API.
    api_server: that API, where taint or Events ask for it.
    """

    endpoint: Path
    node_id: str
    state_dir: Path
    kubelet_dir: Path
    mounter: Path
    driver_name: str = DRIVER_NAME
    mounter_uid: int = 0
    registration_dir: Path | None = None
    kubelet_endpoint: Path
    http_address: tuple[str, int] | None = None
    default_mount_options: DefaultOptions = DefaultOptions()  # noqa: RUF009 - frozen
    max_volumes: int | None = None
    startup_taint: str = ""
    events: bool = False
    api_server: ApiServer | None = None

    @property
    def max_volumes_announced(self) -> int:
        """The number for the scheduler, 0 for no limit: an eighth less than the mounter serves.

        The scheduler counts volume handles. A volume that pods use with several fsGroups, or with
        options that were edited meanwhile, is several mounts to the mounter, and one whose pods are
        gone has its place until its files are uploaded. Without some places for those, a pod would
        wait on a node that the scheduler takes for free.
        """
        return 0 if self.max_volumes is None else self.max_volumes - self.max_volumes // _SPARE

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
        parser.optional("--registration-dir", "DIR", "kubelet's plugins_registry, to register in")
        parser.optional("--kubelet-endpoint", "PATH", "--endpoint's path as kubelet sees it")
        parser.optional("--http-address", "HOST:PORT", _HTTP)
        parser.optional("--default-mount-options", "LIST", "mount options every volume starts from")
        parser.optional("--max-volumes", "N", "the mounter's, for the cluster's scheduler")
        parser.optional("--startup-taint", "KEY", "taint to take from this node when it is ready")
        parser.flag("--events", "on|off", "post Events on pods whose volumes fail", "off")
        values = parser.read(argv)
        endpoint = _endpoint(values["endpoint"])
        taint, events = _taint(values["startup_taint"]), _switch("--events", values["events"])
        return cls(
            endpoint=endpoint,
            node_id=_node_id(values["node_id"]),
            state_dir=_absolute("--state-dir", values["state_dir"]),
            kubelet_dir=_absolute("--kubelet-dir", values["kubelet_dir"]),
            mounter=_absolute("--mounter", values["mounter"]),
            driver_name=_driver_name(values["driver_name"]),
            mounter_uid=_uid(values["mounter_uid"]),
            registration_dir=_directory("--registration-dir", values["registration_dir"]),
            kubelet_endpoint=_absolute(
                "--kubelet-endpoint", values["kubelet_endpoint"] or str(endpoint)
            ),
            http_address=_address(values["http_address"]),
            default_mount_options=parse_defaults(_items(values["default_mount_options"])),
            max_volumes=_max_volumes(values["max_volumes"]) if values["max_volumes"] else None,
            startup_taint=taint,
            events=events,
            api_server=in_cluster(environ) if taint or events else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MounterConfig:
    """`csi-s3 mounter`.

    socket: where node listens.
    http_address: host and port of metrics and health; None is off.
    memory_limit: bytes that all volumes, and this program, share; None: nobody limits them.
    max_volumes: how many volumes share the limit.
    credentials_dir: files key_id, access_key and session_token, read again when they change.
    """

    socket: Path
    http_address: tuple[str, int] | None = None
    memory_limit: int | None = None
    max_volumes: int = _MAX_VOLUMES
    credentials_dir: Path | None = None

    @classmethod
    def from_args(cls, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Self:
        """As `NodeConfig.from_args`."""
        parser = _Flags("mounter", "serves mounts: one process per mount, no privileges", environ)
        parser.flag("--socket", "PATH", "socket on which the node plugin awaits us")
        parser.optional("--http-address", "HOST:PORT", _HTTP)
        parser.optional("--memory-limit", "BYTES", "memory limit of this pod")
        parser.flag("--max-volumes", "N", "volumes that share the limit", str(_MAX_VOLUMES))
        parser.optional("--credentials-dir", "DIR", "a mounted Secret: key_id, access_key, ...")
        values = parser.read(argv)
        return cls(
            socket=_absolute("--socket", values["socket"]),
            http_address=_address(values["http_address"]),
            memory_limit=_memory_limit(values["memory_limit"]),
            max_volumes=_max_volumes(values["max_volumes"]),
            credentials_dir=_directory("--credentials-dir", values["credentials_dir"]),
        )


class _Flags(argparse.ArgumentParser):
    """argparse with an environment variable per flag, and our error in place of its exit."""

    def __init__(self, program: str, about: str, environ: Mapping[str, str] | None) -> None:
        super().__init__(prog=f"csi-s3 {program}", description=about, allow_abbrev=False)
        self._environ = os.environ if environ is None else environ
        self._variables: dict[str, str] = {}
        self._optional: set[str] = set()

    def optional(self, name: str, metavar: str, text: str) -> None:
        """Take a flag that may be left out, or empty, which is the same."""
        self._optional.add(name)
        self.flag(name, metavar, text, "")

    def flag(self, name: str, metavar: str, text: str, default: str | None = None) -> None:
        variable = "CSI_S3_" + name.removeprefix("--").replace("-", "_").upper()
        self._variables[name] = variable
        end = f"; default {default}" if default else "; optional" if default == "" else ""
        self.add_argument(
            name,
            metavar=metavar,
            help=f"{text} [{variable}{end}]",
            default=self._environ.get(variable) or default,
        )

    def read(self, argv: Sequence[str]) -> dict[str, str]:
        values = vars(self.parse_args(list(argv)))
        for name, variable in self._variables.items():
            if name not in self._optional and not values[name[2:].replace("-", "_")]:
                raise BadOptionError(f"{name} is missing", f"give {name} or set {variable}")
        return values

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


def _directory(flag: str, value: str) -> Path | None:
    return _absolute(flag, value) if value else None


def _address(value: str) -> tuple[str, int] | None:
    if not value:
        return None
    found = _ADDRESS.fullmatch(value)
    if found is None or not 0 < int(found[2]) <= _MAX_PORT:
        raise BadOptionError(
            f"--http-address {value!r} is not an address to listen on",
            "expected HOST:PORT such as 0.0.0.0:9810 or [::]:9810",
        )
    return found[1].strip("[]"), int(found[2])


def _items(value: str) -> tuple[str, ...]:
    """One item a line; a single line is split at its commas, but for those between quotes."""
    lines = value.splitlines()
    if len(lines) < 2 and not value.endswith("\n"):  # noqa: PLR2004
        lines = split_commas(value)
    return tuple(line for line in lines if line.strip())


def _taint(value: str) -> str:
    if value and not _TAINT.fullmatch(value):
        raise BadOptionError(
            f"--startup-taint {value!r} is not a taint's key",
            f"expected the key alone, such as {DRIVER_NAME}/agent-not-ready",
        )
    return value


def _switch(flag: str, value: str) -> bool:
    if value not in {"on", "off"}:
        raise BadOptionError(f"{flag} {value!r} is not valid", "expected on or off")
    return value == "on"


def _memory_limit(value: str) -> int | None:
    if not value:
        return None
    return _number("--memory-limit", value, low=1, high=1 << 60)


def _max_volumes(value: str) -> int:
    return _number("--max-volumes", value, low=1, high=_MOST_VOLUMES)


def _number(flag: str, value: str, *, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", value) or not low <= int(value) <= high:
        raise BadOptionError(
            f"{flag} {value!r} is not valid", f"expected an integer from {low} to {high}"
        )
    return int(value)
