"""Reports and notices of a worker about its mount, on their way to node.

An error is sent as {code, what, hint, public} and rebuilt as the class of `errors` with that code,
so no program parses log text.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Self

from csi_s3.errors import InternalError, VolumeError, by_code


class State(Enum):
    """The state of a mount. FAILED and ENDED are final."""

    SERVING = "serving"  # INIT is answered, and the bucket has answered one LIST
    FAILED = "failed"  # the mount could not be served, or its worker died
    ENDED = "ended"  # unmounted everywhere, or stopped on request; files were uploaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The worker's current numbers for NodeGetVolumeStats and metrics.

    inodes_asked: the inodes that the kernel was asked to forget and has not forgotten yet.
    """

    open_files: int = 0
    inodes: int = 0
    inodes_limit: int = 0
    inodes_asked: int = 0
    dirty_bytes: int = 0
    buffers_bytes: int = 0
    buffers_limit_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """error: with SERVING, why requests to the bucket fail while the mount stays."""

    mount_id: str
    state: State
    error: VolumeError | None = None
    usage: Usage = Usage()

    def to_json(self) -> dict[str, Any]:
        return {
            "mount_id": self.mount_id,
            "state": self.state.value,
            "error": None if self.error is None else error_to_json(self.error),
            "usage": asdict(self.usage),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        error = data.get("error")
        usage = data.get("usage") or {}
        return cls(
            mount_id=data["mount_id"],
            state=State(data["state"]),
            error=None if error is None else error_from_json(error),
            usage=Usage(**{k: usage[k] for k in Usage.__slots__ if k in usage}),
        )


class Reason(Enum):
    """The reason of the Event that is made of a notice."""

    MISSING_OPTION = "MissingMountOption"
    UPLOAD_FAILED = "UploadFailed"
    INTEGRITY = "IntegrityFailed"
    NOT_WRITABLE = "NotWritable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A failure to publish as an Event, because no program gets its message."""

    mount_id: str
    reason: Reason
    error: VolumeError

    def to_json(self) -> dict[str, Any]:
        return {
            "mount_id": self.mount_id,
            "reason": self.reason.value,
            "error": error_to_json(self.error),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            mount_id=data["mount_id"],
            reason=Reason(data["reason"]),
            error=error_from_json(data["error"]),
        )


def error_to_json(error: VolumeError) -> dict[str, str]:
    return {
        "code": error.code,
        "what": error.what,
        "hint": error.hint,
        "public": error.public,
    }


def error_from_json(data: Mapping[str, Any]) -> VolumeError:
    cls = by_code().get(data.get("code", ""), InternalError)
    return cls(data.get("what", ""), data.get("hint", ""), public=data.get("public", ""))
