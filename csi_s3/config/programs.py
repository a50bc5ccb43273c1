"""Flags of the node plugin and the mounter; each is also an environment variable.

Flags win. The environment is for manifests, which set a pod's node name and such that way.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from typing_extensions import override

from csi_s3.config import value_types
from csi_s3.config.api_server import ApiServer, in_cluster
from csi_s3.config.defaults import DefaultOptions
from csi_s3.config.option_parser import read_value, split_commas
from csi_s3.config.value_types import ValueType, ValueTypeError, integer, pattern
from csi_s3.config.volume_context import parse_defaults
from csi_s3.errors import BadOptionError

DRIVER_NAME = "s3.csi.aws.com"  # manifests written for the AWS driver work unchanged

_MAX_NODE_ID_BYTES = 256  # CSI: size limits
_MAX_PORT = (1 << 16) - 1
_MAX_VOLUMES = 16
_SPARE = 8  # the scheduler is told an eighth less


@dataclass(frozen=True, slots=True)
class _Flag:
    """default: as text; "": the flag may be left out or empty; None: it is required.

    The field of the configuration has its name, with underscores.
    """

    name: str
    value_type: ValueType
    help: str
    default: str | None = None

    @property
    def field(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        return f"CSI_S3_{self.field.upper()}"


def _read_endpoint(text: str) -> Path:
    if not text.startswith("unix:///"):
        raise ValueTypeError
    return Path(text.removeprefix("unix://"))


def _read_path(text: str) -> Path:
    path = Path(value_types.PATH.read(text))
    if ".." in path.parts:
        raise ValueTypeError
    return path


def _read_address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([a-zA-Z0-9._-]+)):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[3]) <= _MAX_PORT:
        raise ValueTypeError
    return match[1] or match[2], int(match[3])


def _read_node_id(text: str) -> str:
    if len(text.encode()) > _MAX_NODE_ID_BYTES:
        raise ValueTypeError
    return text


def _read_options(text: str) -> DefaultOptions:
    """One option a line; a single line is split at its commas, except for those in quotes."""
    lines = text.splitlines()
    if len(lines) < 2 and not text.endswith("\n"):  # noqa: PLR2004
        lines = split_commas(text)
    return parse_defaults([line for line in lines if line.strip()])


_PATH = ValueType("PATH", "an absolute path without '..'", _read_path)
_ADDRESS = ValueType("HOST:PORT", "HOST:PORT such as 0.0.0.0:9810 or [::]:9810", _read_address)
_VOLUMES = integer(1, 10_000)
_NAME = pattern(
    "NAME",
    "a domain name: letters, digits, '-' and '.', at most 63 characters",
    r"[a-zA-Z]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?",
)
_TAINT = pattern(  # a name, usually with a DNS name and "/" before it
    "KEY",
    f"the key of a taint alone, such as {DRIVER_NAME}/agent-not-ready",
    r"([a-z0-9.-]{1,253}/)?[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?",
)
_NODE_ID = ValueType("ID", f"at most {_MAX_NODE_ID_BYTES} bytes", _read_node_id)
_ENDPOINT = ValueType("unix://PATH", "unix:///ABSOLUTE/PATH", _read_endpoint)
_OPTIONS = ValueType("LIST", "mount options", _read_options)
_HTTP_ADDRESS = _Flag("--http-address", _ADDRESS, "address of /metrics, /healthz and /readyz", "")

_NODE_FLAGS = (
    _Flag("--endpoint", _ENDPOINT, "socket that kubelet calls"),
    _Flag("--node-id", _NODE_ID, "name of this node in the cluster"),
    _Flag(
        "--state-dir", _PATH, "directory of source mounts and their state, shared with the mounter"
    ),
    _Flag("--kubelet-dir", _PATH, "kubelet's directory, which contains all targets"),
    _Flag("--mounter", _PATH, "socket to which the mounter connects"),
    _Flag("--driver-name", _NAME, "name of the CSI driver", DRIVER_NAME),
    _Flag("--mounter-uid", value_types.ID, "user and group of the mounter", "0"),
    _Flag("--registration-dir", _PATH, "kubelet's plugins_registry, to register the driver in", ""),
    _Flag("--kubelet-endpoint", _PATH, "path of --endpoint as kubelet sees it", ""),
    _HTTP_ADDRESS,
    _Flag("--default-mount-options", _OPTIONS, "mount options that every volume starts from", ""),
    _Flag("--max-volumes", _VOLUMES, "the mounter's --max-volumes, for the scheduler", ""),
    _Flag("--startup-taint", _TAINT, "taint to remove from this node when it is ready", ""),
    _Flag("--events", value_types.SWITCH, "post Events on pods whose volumes fail", "off"),
)
_MOUNTER_FLAGS = (
    _Flag("--socket", _PATH, "socket on which the node plugin listens"),
    _HTTP_ADDRESS,
    _Flag("--memory-limit", integer(1, 1 << 60, metavar="BYTES"), "memory limit of this pod", ""),
    _Flag("--max-volumes", _VOLUMES, "number of volumes that share the limit", str(_MAX_VOLUMES)),
    _Flag("--credentials-dir", _PATH, "a mounted Secret with key_id, access_key, ...", ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`csi-s3 node`.

    endpoint: path of the socket that kubelet calls.
    state_dir: below it are source mounts and state directories; the mounter sees it under the same
        path.
    kubelet_dir: nothing outside it is ever published or unpublished.
    mounter: path of the socket to which the mounter connects; its directory exists.
    mounter_uid: the mounter's user; the socket's group and the state directories' owner.
    registration_dir: where kubelet looks for plug-ins; None: this one is not registered.
    kubelet_endpoint: path of `endpoint` as kubelet sees it.
    http_address: host and port of metrics and health; None is off.
    default_mount_options: mount options that every volume starts from.
    max_volumes: the mounter's; None: its memory has no limit, and so no number of volumes.
    startup_taint: key of the taint to remove from this node when it is ready; "" is none.
    events: whether Events are posted on pods.
    api_server: of the cluster, if taint or Events need it.
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

        The scheduler counts volume handles. To the mounter, a volume that pods use with several
        fsGroups, or with options that were edited since, is several mounts; and a volume whose pods
        are gone stays until its files are uploaded. Without this reserve a pod would wait on a node
        that the scheduler takes for free.
        """
        return 0 if self.max_volumes is None else self.max_volumes - self.max_volumes // _SPARE

    @classmethod
    def from_args(cls, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Self:
        """Read flags, then environment (this process's own if none is given).

        Raises:
            BadOptionError: names the flag, the value and the form expected.

        """
        about = "the CSI node plugin: mounts volumes for kubelet"
        values = _read("csi-s3 node", about, _NODE_FLAGS, argv, environ)
        values.setdefault("kubelet_endpoint", values["endpoint"])
        if values["events"] or "startup_taint" in values:
            values["api_server"] = in_cluster(environ)
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class MounterConfig:
    """`csi-s3 mounter`.

    socket: where node listens.
    http_address: host and port of metrics and health; None is off.
    memory_limit: bytes that all volumes, and this program, share; None: no limit.
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
        about = "serves mounts, one process for each, without privileges"
        return cls(**_read("csi-s3 mounter", about, _MOUNTER_FLAGS, argv, environ))


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        raise BadOptionError(f"{self.prog}: {message}", f"{self.prog} --help lists the flags")


def _read(
    program: str,
    about: str,
    flags: Sequence[_Flag],
    argv: Sequence[str],
    environ: Mapping[str, str] | None,
) -> dict[str, Any]:
    """The values by field, without those of optional flags that are left out or empty."""
    environ = os.environ if environ is None else environ
    parser = _Parser(prog=program, description=about, allow_abbrev=False)
    for flag in flags:
        end = f"; default {flag.default}" if flag.default else "; optional" * (flag.default == "")
        parser.add_argument(
            flag.name,
            metavar=flag.value_type.metavar,
            help=f"{flag.help} [{flag.variable}{end}]",
            default=environ.get(flag.variable) or flag.default,
        )
    texts = vars(parser.parse_args(list(argv)))
    values = {}
    for flag in flags:
        if text := texts[flag.field]:
            values[flag.field] = read_value(flag.name, flag.value_type, text)
        elif flag.default != "":
            raise BadOptionError(
                f"{flag.name} is missing", f"give {flag.name} or set {flag.variable}"
            )
    return values
