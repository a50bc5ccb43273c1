"""Flags of the node plugin and the mounter; each is also an environment variable.

Flags win. The environment is for manifests, which set a pod's node name and such that way.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, Self

from typing_extensions import override

from csi_s3.config import value_types
from csi_s3.config.api_server import ApiServer, in_cluster
from csi_s3.config.defaults import DefaultOptions
from csi_s3.config.option_parser import read_value, split_commas
from csi_s3.config.store_rules import HOSTS, StoreRules
from csi_s3.config.value_types import ValueType, ValueTypeError, integer, pattern
from csi_s3.config.volume_context import parse_defaults
from csi_s3.errors import BadOptionError

DRIVER_NAME = "s3.csi.aws.com"  # manifests written for the AWS driver work unchanged

_MAX_NODE_ID_BYTES = 256  # CSI: size limits
_MAX_PORT = (1 << 16) - 1
_MAX_VOLUMES = 16
_SPARE = 8  # the scheduler gets an eighth less


def _flag(
    value_type: ValueType, help_: str, default: str | None = None, *, empty: object = None
) -> Any:  # noqa: ANN401 - as `dataclasses.field`
    """A field of a configuration that a flag of its name sets.

    default: as text; "": the flag may be left out or empty, and the field is then `empty`; None: it
    is required.
    """
    metadata = {"value_type": value_type, "help": help_, "default": default}
    if default is None:
        return field(metadata=metadata)
    return field(default=value_type.read(default) if default else empty, metadata=metadata)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolLimit:
    """Of all spools of a node together: bytes, or a percentage of the disk; one of them."""

    limit_bytes: int | None = None
    percent: int | None = None


def _read_spool(text: str) -> SpoolLimit:
    match = re.fullmatch(r"([1-9][0-9]{0,17})(%|[KMGT]i)?", text)
    if match is None:
        raise ValueTypeError
    number, unit = int(match[1]), match[2] or ""
    if unit == "%":
        if number > 100:  # noqa: PLR2004 - percent
            raise ValueTypeError
        return SpoolLimit(percent=number)
    return SpoolLimit(limit_bytes=number << (10 * " KMGT".index(unit[:1] or " ")))


def _read_options(text: str) -> DefaultOptions:
    """One option a line; a single line is split at its commas, except for those in quotes."""
    lines = text.splitlines()
    if len(lines) < 2 and not text.endswith("\n"):  # noqa: PLR2004
        lines = split_commas(text)
    return parse_defaults([line for line in lines if line.strip()])


_PATH = ValueType("PATH", "an absolute path without '..'", _read_path)
_ADDRESS = ValueType("HOST:PORT", "HOST:PORT such as 0.0.0.0:9810 or [::]:9810", _read_address)
_VOLUMES = integer(1, 900)  # node takes 1,000 messages from a mounter that connects
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
_SPOOL_LIMIT = ValueType(
    "SIZE", "bytes, with or without Ki, Mi, Gi or Ti, or a percentage such as 50%", _read_spool
)
_DAYS = integer(1, 10_000, metavar="DAYS")
_DAYS_HELP = "how long data that was not uploaded, and that nothing will upload, is kept"
_DAYS_DEFAULT = "30"
_OPTIONS = ValueType("LIST", "mount options", _read_options)
_HTTP_HELP = "address of /metrics, /healthz and /readyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`csi-s3 node`.

    state_dir: the mounter sees it under the same path.
    kubelet_dir: nothing outside it is ever published or unpublished.
    mounter_uid: also the socket's group and the state directories' owner.
    max_volumes: None: the mounter's memory has no limit, and so no number of volumes.
    api_server: of the cluster, if taint or Events need it.
    """

    endpoint: Path = _flag(_ENDPOINT, "socket that kubelet calls")
    node_id: str = _flag(_NODE_ID, "name of this node in the cluster")
    state_dir: Path = _flag(
        _PATH, "directory of source mounts and their state, shared with the mounter"
    )
    kubelet_dir: Path = _flag(_PATH, "kubelet's directory, which contains all targets")
    mounter: Path = _flag(_PATH, "socket to which the mounter connects")
    driver_name: str = _flag(_NAME, "name of the CSI driver", DRIVER_NAME)
    mounter_uid: int = _flag(value_types.ID, "user and group of the mounter", "0")
    registration_dir: Path | None = _flag(
        _PATH, "kubelet's plugins_registry, to register the driver in", ""
    )
    kubelet_endpoint: Path = _flag(
        _PATH, "path of --endpoint as kubelet sees it", "", empty=MISSING
    )
    http_address: tuple[str, int] | None = _flag(_ADDRESS, _HTTP_HELP, "")
    default_mount_options: DefaultOptions = _flag(
        _OPTIONS, "mount options that every volume starts from", "", empty=DefaultOptions()
    )
    max_volumes: int | None = _flag(_VOLUMES, "the mounter's --max-volumes, for the scheduler", "")
    startup_taint: str = _flag(
        _TAINT, "taint to remove from this node when it is ready", "", empty=""
    )
    leftover_days: int = _flag(_DAYS, _DAYS_HELP, _DAYS_DEFAULT)
    events: bool = _flag(value_types.SWITCH, "post Events on pods whose volumes fail", "off")
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
        values = _read("csi-s3 node", about, cls, argv, environ)
        values.setdefault("kubelet_endpoint", values["endpoint"])
        if values["events"] or "startup_taint" in values:
            values["api_server"] = in_cluster(environ)
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class MounterConfig:
    """`csi-s3 mounter`. credentials_dir: its files are read again when they change."""

    socket: Path = _flag(_PATH, "socket on which the node plugin listens")
    http_address: tuple[str, int] | None = _flag(_ADDRESS, _HTTP_HELP, "")
    memory_limit: int | None = _flag(
        integer(1, 1 << 60, metavar="BYTES"), "memory limit of this pod", ""
    )
    max_volumes: int = _flag(_VOLUMES, "number of volumes that share the limit", str(_MAX_VOLUMES))
    spool_limit: SpoolLimit | None = _flag(
        _SPOOL_LIMIT, "disk space of all spools together, divided by --max-volumes", ""
    )
    spool_free_percent: int = _flag(
        integer(0, 99, metavar="PERCENT"), "of the node's disk, which spools leave free", "0"
    )
    leftover_days: int = _flag(_DAYS, _DAYS_HELP, _DAYS_DEFAULT)
    credentials_dir: Path | None = _flag(_PATH, "a mounted Secret with key_id, access_key, ...", "")
    allowed_endpoints: tuple[str, ...] = _flag(
        HOSTS, "hosts that a volume's endpoint-url may name; left out: any", "", empty=()
    )
    allow_loopback: bool = _flag(
        value_types.SWITCH, "volumes may name stores on this host, for development", "off"
    )
    allow_token_over_http: bool = _flag(
        value_types.SWITCH, "session tokens may be sent without TLS", "off"
    )

    @property
    def store_rules(self) -> StoreRules:
        return StoreRules(
            allowed_endpoints=self.allowed_endpoints,
            allow_loopback=self.allow_loopback,
            allow_token_over_http=self.allow_token_over_http,
        )

    @classmethod
    def from_args(cls, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Self:
        """As `NodeConfig.from_args`."""
        about = "serves mounts, one process for each, without privileges"
        return cls(**_read("csi-s3 mounter", about, cls, argv, environ))


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        raise BadOptionError(f"{self.prog}: {message}", f"{self.prog} --help lists the flags")


def _read(
    program: str,
    about: str,
    config: type[NodeConfig | MounterConfig],
    argv: Sequence[str],
    environ: Mapping[str, str] | None,
) -> dict[str, Any]:
    """The values by field, without those of optional flags that are left out or empty."""
    environ = os.environ if environ is None else environ
    parser = _Parser(prog=program, description=about, allow_abbrev=False)
    flags = [field for field in fields(config) if field.metadata]
    for flag in flags:
        variable, default = f"CSI_S3_{flag.name.upper()}", flag.metadata["default"]
        end = f"; default {default}" if default else "; optional" * (default == "")
        parser.add_argument(
            f"--{flag.name.replace('_', '-')}",
            metavar=flag.metadata["value_type"].metavar,
            help=f"{flag.metadata['help']} [{variable}{end}]",
            default=environ.get(variable) or default,
        )
    texts = vars(parser.parse_args(list(argv)))
    values = {}
    for flag in flags:
        name = f"--{flag.name.replace('_', '-')}"
        if text := texts[flag.name]:
            values[flag.name] = read_value(name, flag.metadata["value_type"], text)
        elif flag.metadata["default"] != "":
            variable = f"CSI_S3_{flag.name.upper()}"
            raise BadOptionError(f"{name} is missing", f"give {name} or set {variable}")
    return values
