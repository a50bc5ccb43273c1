"""Every message between node, mounter, zygote and workers: its fields, types, sizes, descriptors.

This is the only description of the protocol. A table for each receiver names what it accepts;
`read` refuses everything else as a whole, so that no program handles a message that it has not
declared. Types of values, and how they are checked, are in `link.json_values`.

A mount command is to its worker what node is to the mounter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeAlias

from csi_s3.config.volume import SpoolRules
from csi_s3.link.channel import Message
from csi_s3.link.json_values import Hex, JsonValue, MountId, Text
from csi_s3.link.report import Notice, Report
from csi_s3.link.spec import MountSpec


class MessageBody(JsonValue):
    """Base of the bodies. descriptors: how many come with it."""

    __slots__ = ()

    descriptors: ClassVar[int] = 0


# --- mounter -> node --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(MessageBody):
    """The first message of a connection."""

    version: int
    pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Have(MessageBody):
    """One for each mount that is held, with its descriptor of /dev/fuse.

    spec, init: as node sent them. report: the worker's last one.
    """

    descriptors = 1

    spec: MountSpec
    init: Hex
    report: Report | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(MessageBody):
    """After the last `have`."""


# --- mounter -> node, worker -> keeper --------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBody(MessageBody):
    """When a mount's state changes, and as an answer."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeBody(MessageBody):
    """A failure to publish on the pods of a mount."""

    notice: Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsBody(MessageBody):
    """What a worker has counted. families: checked by `obs.metrics.samples`."""

    families: Mapping[str, Any]


# --- node -> mounter, keeper -> worker --------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeBody(MessageBody):
    """With the descriptor of /dev/fuse. init: the kernel's INIT request.

    From the keeper only: memory_bytes, spool_bytes: the volume's share, in place of the spec's;
    spool_rules: the node's; credentials_dir: the mounter's directory, if the spec has none;
    secrets: variables of its environment.
    """

    descriptors = 1

    spec: MountSpec
    init: Hex
    memory_bytes: int | None = None
    spool_bytes: int | None = None
    spool_rules: SpoolRules = field(default_factory=SpoolRules)
    credentials_dir: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRequest(MessageBody):
    """stop: upload open files and end; answered by a report ENDED. usage: answered by a report.

    From the keeper only: metrics: answered by one, and by another after the worker's last report.
    requests: the worker logs the kernel's requests that are not answered.
    """

    mount_id: MountId


# --- keeper -> zygote is in `mounter.zygote`; zygote -> keeper -----------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned(MessageBody):
    """A worker has this pid."""

    number: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(MessageBody):
    """No process could be made."""

    number: int
    reason: Annotated[str, Text(max_bytes=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited(MessageBody):
    """status: exit code, or minus the signal."""

    number: int
    status: int


Accepted: TypeAlias = Mapping[str, type[MessageBody]]

GREETING: Accepted = MappingProxyType({"hello": Hello, "have": Have, "ready": Ready})
FROM_MOUNTER: Accepted = MappingProxyType({"report": ReportBody, "notice": NoticeBody})
FROM_WORKER: Accepted = MappingProxyType({**FROM_MOUNTER, "metrics": MetricsBody})
FROM_NODE: Accepted = MappingProxyType(
    {"serve": ServeBody, "stop": MountRequest, "usage": MountRequest}
)
FROM_KEEPER: Accepted = MappingProxyType(
    {**FROM_NODE, "metrics": MountRequest, "requests": MountRequest}
)
FROM_ZYGOTE: Accepted = MappingProxyType({"spawned": Spawned, "refused": Refused, "exited": Exited})


def read(message: Message, accepted: Accepted) -> MessageBody | None:
    """The checked body of a message; None if its type is not among the accepted.

    The descriptors stay with the message: as many as its body declares.

    Raises:
        ConnectionError: it is not what its type declares.

    """
    class_ = accepted.get(message.type)
    if class_ is None:
        return None
    try:
        body = class_.from_json(message.body)
    except ValueError as exc:
        raise ConnectionError(f"an invalid {message.type!r} message: {exc}") from exc
    if len(message.fds) != class_.descriptors:
        raise ConnectionError(
            f"{message.type!r} message with {len(message.fds)} descriptors instead of"
            f" {class_.descriptors}"
        )
    return body
