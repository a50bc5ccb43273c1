"""What a worker says about its mount, on its way back to node.

Nobody parses log text: an error travels as {code, what, hint} and is rebuilt as the class of
`errors` that has that code.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Self

from csi_s3.errors import InternalError, VolumeError, by_code


class State(Enum):
    """A mount in a worker's life. FAILED and ENDED are last words."""

    SERVING = "serving"  # INIT is answered and the bucket has answered one LIST
    FAILED = "failed"  # never served, or died
    ENDED = "ended"  # unmounted everywhere, or stopped on request; files were uploaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What NodeGetVolumeStats and metrics show, as it is now in the worker.

    inodes_asked: of inodes, those that the kernel was asked to forget and has not yet.
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
    """error: with SERVING, what is wrong with the bucket while the mount stays."""

    mount_id: str
    state: State
    error: VolumeError | None = None
    usage: Usage = Usage()

    def to_json(self) -> dict[str, Any]:
        e = self.error
        return {
            "mount_id": self.mount_id,
            "state": self.state.value,
            "error": None if e is None else error_to_json(e),
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
    """Why a mount's users are told something, as an Event's reason."""

    MISSING_OPTION = "MissingMountOption"
    UPLOAD_FAILED = "UploadFailed"
    INTEGRITY = "IntegrityFailed"
    NOT_WRITABLE = "NotWritable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What the users of a mount should hear, and no program is told in words."""

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
