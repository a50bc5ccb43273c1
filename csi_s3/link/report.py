"""Reports and notices of a worker about its mount, on their way to node."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from csi_s3.errors import VolumeError
from csi_s3.link.json_values import JsonValue, MountId


class State(Enum):
    """The state of a mount. FAILED and ENDED are final."""

    SERVING = "serving"  # INIT is answered, and the bucket has answered one LIST
    FAILED = "failed"  # the mount could not be served, or its worker died
    ENDED = "ended"  # unmounted everywhere, or stopped on request; files were uploaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The worker's current numbers for NodeGetVolumeStats and metrics.

    inodes_asked: the inodes that the kernel was asked to forget and has not forgotten yet.
    requests_in_flight: of the kernel, without an answer.
    memory_bytes, memory_limit_bytes: by kind of memory, see docs/memory.md.
    """

    open_files: int = 0
    inodes: int = 0
    inodes_limit: int = 0
    inodes_asked: int = 0
    dirty_bytes: int = 0
    requests_in_flight: int = 0
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    memory_limit_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(JsonValue):
    """error: with SERVING, why requests to the bucket fail while the mount stays."""

    mount_id: MountId
    state: State
    error: VolumeError | None = None
    usage: Usage = Usage()


class Reason(Enum):
    """The reason of the Event that is made of a notice."""

    MISSING_OPTION = "MissingMountOption"
    UPLOAD_FAILED = "UploadFailed"
    INTEGRITY = "IntegrityFailed"
    NOT_WRITABLE = "NotWritable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(JsonValue):
    """A failure to publish as an Event, because no program gets its message."""

    mount_id: MountId
    reason: Reason
    error: VolumeError
