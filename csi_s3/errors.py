"""Every failure that a user can see: its errno, RPC status, stable code and hint.

One tree, so that the FUSE boundary, the gRPC interceptor and the link between node and mounter
answer from the same facts. Any other exception that reaches a boundary is a bug.
"""

import logging
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from errno import (
    EACCES,
    EBADF,
    EDQUOT,
    EEXIST,
    EFBIG,
    EINVAL,
    EIO,
    EISDIR,
    ENAMETOOLONG,
    ENFILE,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ESTALE,
    ETIMEDOUT,
)
from typing import ClassVar, Self

from typing_extensions import override


class Status(Enum):
    """Status codes of gRPC by name; only `csi.interceptors` turns them into `grpc.StatusCode`."""

    INVALID_ARGUMENT = auto()
    NOT_FOUND = auto()
    ALREADY_EXISTS = auto()
    PERMISSION_DENIED = auto()
    UNAUTHENTICATED = auto()
    FAILED_PRECONDITION = auto()
    ABORTED = auto()
    DEADLINE_EXCEEDED = auto()
    RESOURCE_EXHAUSTED = auto()
    UNAVAILABLE = auto()
    UNIMPLEMENTED = auto()
    INTERNAL = auto()


class Occurrence:
    """That something failed, once: the same for all errors that tell of it; see `again`."""

    __slots__ = ("__weakref__",)


@dataclass(eq=False)
class VolumeError(Exception):
    """Base of the tree. `what`: what failed and where. `hint`: what to do.

    public: replaces `what` outside of logs, see `as_public`.
    occurrence: what is logged once.
    """

    errno: ClassVar[int] = EIO
    status: ClassVar[Status] = Status.INTERNAL
    code: ClassVar[str] = "internal"  # stable: log field, metric label, docs anchor
    retryable: ClassVar[bool] = False
    mendable: ClassVar[bool] = False  # after a change of keys or of space
    level: ClassVar[int] = logging.INFO  # at which the boundary logs it

    what: str
    hint: str = ""
    public: str = field(default="", kw_only=True, repr=False)
    occurrence: Occurrence = field(default_factory=Occurrence, init=False, repr=False)

    @property
    def keeps_bytes(self) -> bool:
        """Data that could not be stored may be stored later, so it is not discarded."""
        return self.retryable or self.mendable

    @override
    def __str__(self) -> str:
        return f"{self.what} ({self.hint})" if self.hint else self.what

    def again(self) -> Self:
        """An equal error of the same occurrence, to be stored, or raised where it was stored.

        An error that has been raised refers to the frames of all callers that it went through,
        with their buffers, and each further raise adds some. So a stored error is never raised
        itself, and one that was raised is never stored.
        """
        error = replace(self)
        error.occurrence = self.occurrence
        return error

    def as_public(self) -> "VolumeError":
        """The error for CSI answers and Events, in the same words each time: kubelet counts them.

        It names no object, because an Event is on all pods of a volume, and no request id.
        """
        return type(self)(self.public or self.what, self.hint)


class InternalError(VolumeError):
    """A bug in this driver; the log has its id and its traceback."""

    level = logging.ERROR


# --- answers of the object store -------------------------------------------------------------


class NotFoundError(VolumeError):
    """No such object (or upload)."""

    errno, status, code = ENOENT, Status.NOT_FOUND, "not-found"
    level = logging.DEBUG


class NoSuchBucketError(VolumeError):
    """The store has no bucket of this name.

    Not ENOENT: programs would take files for removed, and a C library would take a listing for
    complete.
    """

    status, code = Status.NOT_FOUND, "no-such-bucket"
    level = logging.ERROR


class AccessDeniedError(VolumeError):
    """The store knows the identity and refuses the request (403)."""

    errno, status, code = EACCES, Status.PERMISSION_DENIED, "s3-access-denied"
    level = logging.WARNING


class CredentialsError(VolumeError):
    """No credentials were found, or they are expired or invalid."""

    errno, status, code = EACCES, Status.UNAUTHENTICATED, "s3-credentials"
    mendable = True
    level = logging.ERROR


class ArchivedError(VolumeError):
    """The object is in an archive tier and is not restored."""

    errno, status, code = EACCES, Status.FAILED_PRECONDITION, "s3-archived"


class PreconditionFailedError(VolumeError):
    """The condition of a request does not hold (412)."""

    errno, status, code = EEXIST, Status.ABORTED, "s3-precondition-failed"


class ObjectChangedError(VolumeError):
    """The object is no longer the requested version."""

    errno, status, code = ESTALE, Status.ABORTED, "object-changed"


class StoreUnavailableError(VolumeError):
    """5xx, throttling or no connection, after the bounded retries."""

    status, code, retryable = Status.UNAVAILABLE, "s3-unavailable", True
    level = logging.WARNING


class StoreTimeoutError(VolumeError):
    """No progress in time."""

    errno, status, code, retryable = ETIMEDOUT, Status.DEADLINE_EXCEEDED, "s3-timeout", True
    level = logging.WARNING


class StoreFullError(VolumeError):
    """The store has no space left (507)."""

    errno, status, code = ENOSPC, Status.RESOURCE_EXHAUSTED, "s3-full"
    mendable = True
    level = logging.WARNING


class QuotaExceededError(VolumeError):
    """A quota of the bucket or of its owner is exceeded."""

    errno, status, code = EDQUOT, Status.RESOURCE_EXHAUSTED, "s3-quota"
    mendable = True
    level = logging.WARNING


class StoreRefusedError(VolumeError):
    """Any other refusal of a request (4xx): the message has the store's code and text."""

    status, code = Status.FAILED_PRECONDITION, "s3-refused"
    level = logging.WARNING


class NotImplementedByStoreError(VolumeError):
    """The store does not implement the request or the condition (501)."""

    errno, status, code = EOPNOTSUPP, Status.UNIMPLEMENTED, "s3-not-implemented"
    level = logging.WARNING


class IntegrityError(VolumeError):
    """Checksum, length or encryption differs from what was sent or requested."""

    status, code = Status.INTERNAL, "integrity"
    level = logging.ERROR


# --- answers of the file system -----------------------------------------------------------------


class StaleError(VolumeError):
    """The version of an open handle is gone; the kernel looks the name up again."""

    errno, status, code = ESTALE, Status.ABORTED, "stale"
    level = logging.DEBUG


class ExistsError(VolumeError):
    """The name, or the target of a publish, is in use."""

    errno, status, code = EEXIST, Status.ALREADY_EXISTS, "exists"
    level = logging.DEBUG


class NotDirectoryError(VolumeError):
    """A path goes through a file, or rmdir was called on a file."""

    errno, code = ENOTDIR, "not-a-directory"
    level = logging.DEBUG


class IsDirectoryError(VolumeError):
    """A directory where a file was expected."""

    errno, code = EISDIR, "is-a-directory"
    level = logging.DEBUG


class NotEmptyError(VolumeError):
    """The directory is not empty."""

    errno, code = ENOTEMPTY, "not-empty"
    level = logging.DEBUG


class InvalidNameError(VolumeError):
    """A name that S3 cannot hold."""

    errno, code = EINVAL, "invalid-name"


class BadLinkError(VolumeError):
    """The content of an object that is a symbolic link cannot be a target."""

    code = "bad-link"


class KeyTooLongError(VolumeError):
    """The key would be over 1024 bytes of UTF-8."""

    errno, code = ENAMETOOLONG, "key-too-long"


@dataclass(eq=False)
class NotPermittedError(VolumeError):
    """An option (allow-delete, allow-overwrite) is not set, or S3 cannot do it."""

    errno, status, code = EPERM, Status.PERMISSION_DENIED, "not-permitted"

    option: str = ""  # the mount option that would allow it


class UnsupportedError(VolumeError):
    """Not implemented yet, or impossible on S3."""

    errno, status, code = EOPNOTSUPP, Status.UNIMPLEMENTED, "unsupported"


class NotCopiedError(VolumeError):
    """The store does not copy this range; the kernel reads and writes it then."""

    errno, status, code = EOPNOTSUPP, Status.UNIMPLEMENTED, "not-copied"
    level = logging.DEBUG


class InvalidRangeError(VolumeError):
    """A range of a file that a call cannot be about: below 0, without a byte, over itself."""

    errno, code = EINVAL, "invalid-range"
    level = logging.DEBUG


class NoDataError(VolumeError):
    """SEEK_DATA or SEEK_HOLE from the end of the file, or with nothing but a hole behind."""

    errno, code = ENXIO, "no-data"
    level = logging.DEBUG


class NotWritableError(VolumeError):
    """The handle is not open for writing."""

    errno, code = EBADF, "not-writable"
    level = logging.DEBUG


class FileTooLargeError(VolumeError):
    """More bytes than an S3 object, or 10,000 parts of the current size, can have."""

    errno, code = EFBIG, "file-too-large"


class SpoolFullError(VolumeError):
    """There is no disk space for data that is not in the store yet."""

    errno, status, code = ENOSPC, Status.RESOURCE_EXHAUSTED, "spool-full"
    level = logging.WARNING


# --- answers to publishing and mounting ----------------------------------------------------------


class BadOptionError(VolumeError):
    """An option is unknown, malformed or contradictory; the message names the expected form."""

    errno, status, code = EINVAL, Status.INVALID_ARGUMENT, "bad-option"


class BadRequestError(VolumeError):
    """A CSI request that violates the specification or leaves kubelet's directory."""

    errno, status, code = EINVAL, Status.INVALID_ARGUMENT, "bad-request"


class BusyError(VolumeError):
    """Another operation on the target is in progress; kubelet repeats the request."""

    status, code, retryable = Status.ABORTED, "operation-pending", True


class VolumeNotFoundError(VolumeError):
    """No such volume is published or served here."""

    errno, status, code = ENOENT, Status.NOT_FOUND, "volume-not-found"


class MountError(VolumeError):
    """mount(2), a bind or their verification failed."""

    status, code = Status.INTERNAL, "mount-failed"
    level = logging.ERROR


class TargetNotEmptyError(VolumeError):
    """Files below a target that is not mounted could not be moved away."""

    status, code = Status.INTERNAL, "target-not-empty"
    level = logging.WARNING


class FuseUnavailableError(MountError):
    """This machine or container has no usable /dev/fuse."""

    status, code = Status.FAILED_PRECONDITION, "fuse-unavailable"


class MounterUnavailableError(VolumeError):
    """No mounter is connected, or it does not answer."""

    status, code, retryable = Status.UNAVAILABLE, "mounter-unavailable", True
    level = logging.WARNING


class MemoryLimitError(VolumeError):
    """The mounter already serves as many volumes as its memory allows."""

    errno, status, code, retryable = ENOMEM, Status.RESOURCE_EXHAUSTED, "memory-limit", True
    level = logging.WARNING


class OutOfMemoryError(VolumeError):
    """The volume's memory for what is not a file's bytes is in use: names, listings, renames."""

    errno, status, code = ENOMEM, Status.RESOURCE_EXHAUSTED, "out-of-memory"
    level = logging.WARNING


class TooManyOpenFilesError(VolumeError):
    """The volume's memory for open files and directories is in use."""

    errno, status, code = ENFILE, Status.RESOURCE_EXHAUSTED, "too-many-open-files"
    level = logging.WARNING


class WorkerDiedError(VolumeError):
    """The process that serves a mount ended; the mount was aborted."""

    status, code, retryable = Status.UNAVAILABLE, "worker-died", True
    level = logging.ERROR


class RemountError(VolumeError):
    """The mount of a running pod was unmounted by hand, and mounting again failed.

    The message has the cause. The status is always UNAVAILABLE: kubelet takes others as final, then
    removes its record of a volume that is not mounted, and the pod could never end (decision 0016).
    """

    status, code, retryable = Status.UNAVAILABLE, "remount-failed", True
    level = logging.WARNING


def shortened(text: str, max_bytes: int) -> str:
    """Cut a message to so many bytes of UTF-8, between characters, with "…" at its end.

    What is not valid Unicode (a lone surrogate, from a store's header or a name) is escaped, and so
    is a NUL, which no text of a message may have.
    """
    raw = text.replace("\0", "\\0").encode(errors="backslashreplace")
    if len(raw) <= max_bytes:
        return raw.decode()
    return raw[: max(0, max_bytes - len("…".encode()))].decode(errors="ignore") + "…"


def by_code() -> dict[str, type[VolumeError]]:
    """Every class of the tree by its stable code, for reports that crossed a process boundary."""
    classes: dict[str, type[VolumeError]] = {VolumeError.code: InternalError}
    todo: list[type[VolumeError]] = [*VolumeError.__subclasses__()]
    while todo:
        cls = todo.pop()
        classes.setdefault(cls.code, cls)
        todo += cls.__subclasses__()
    return classes
