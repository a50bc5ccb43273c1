"""From what S3 and its libraries say to the classes of `errors`: here and nowhere else.

The message tells operation, bucket, key, S3's code and text, HTTP status and request id; the hint
what to check. Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace

import aiohttp
from typing_extensions import override

from csi_s3.errors import (
    AccessDeniedError,
    ArchivedError,
    CredentialsError,
    IntegrityError,
    InvalidNameError,
    KeyTooLongError,
    NoSuchBucketError,
    NotFoundError,
    NotImplementedByStoreError,
    PreconditionFailedError,
    QuotaExceededError,
    StoreFullError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VolumeError,
)
from csi_s3.s3 import xml

_NO_ANSWER = "no answer of S3"  # in place of a code
# Passing is all of 5xx, a gateway's own included (520 to 527 are Cloudflare's), but for these: not
# implemented, HTTP version, negotiation, no room, loop, extension, a network that wants a login.
_RETRYABLE_BELOW_500 = frozenset({408, 425, 429, 499})
_FINAL_FROM_500 = frozenset({501, 505, 506, 507, 508, 510, 511})
# The body was damaged or cut on its way to the store; it is still here.
_DAMAGED = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})
_RETRYABLE_CODES = _DAMAGED | frozenset(
    {
        "IncompleteBody",
        "ClientDisconnected",  # MinIO: a proxy before it gave up
        "XMinioBackendDown",
        "InternalError",
        "OperationAborted",
        "ConditionalRequestConflict",  # 409: another request was under way
        "PriorRequestNotComplete",
        "TransientError",
        "ServiceUnavailable",
        _NO_ANSWER,
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "BandwidthLimitExceeded",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_EXPIRED = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidTokenId",  # MinIO
    }
)
# A quota, in a code (Ceph, versitygw, Ozone 403; Scality 429; MinIO 400; Huawei 403) or, where the
# code is another's, in the text (Garage 403 AccessDenied). A rate is no quota of bytes: a text
# counts only with these statuses.
_QUOTA_CODE = re.compile(r"Quota\w*Exceeded|InsufficientStorageSpace", re.IGNORECASE)
_QUOTA_TEXT = re.compile(
    r"quota (is |was |has been )?(reached|exceeded)|cap exceeded", re.IGNORECASE
)
_QUOTA_TEXT_STATUS = frozenset({400, 403, 413, 507})
_UNKNOWN_KEYS = frozenset({"InvalidAccessKeyId", "XAdminUserNotFound"})  # MinIO's: or ended
_ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"})
_FULL = frozenset({"XMinioStorageFull", "InsufficientStorage"})
_BY_CODE: dict[str, type[VolumeError]] = {
    "AccessDenied": AccessDeniedError,
    "NoSuchBucket": NoSuchBucketError,
    "InvalidBucketName": NoSuchBucketError,
    "NoSuchKey": NotFoundError,
    "NoSuchUpload": NotFoundError,
    "PreconditionFailed": PreconditionFailedError,
    "InvalidObjectState": ArchivedError,
    "NotImplemented": NotImplementedByStoreError,
    "InvalidDigest": IntegrityError,
    "KeyTooLongError": KeyTooLongError,
    "XMinioInvalidObjectName": InvalidNameError,
    "XMinioInvalidResourceName": InvalidNameError,
    "SignatureDoesNotMatch": CredentialsError,
    "RequestTimeTooSkewed": CredentialsError,
    **dict.fromkeys(_EXPIRED | _UNKNOWN_KEYS, CredentialsError),
}
_BY_STATUS: dict[int, type[VolumeError]] = {
    401: CredentialsError,
    403: AccessDeniedError,
    404: NotFoundError,
    412: PreconditionFailedError,
    501: NotImplementedByStoreError,
}
_ACTIONS = {
    "LIST": "s3:ListBucket on the bucket",
    "PUT": "s3:PutObject on the key",
    "CREATE-UPLOAD": "s3:PutObject on the key",
    "PART": "s3:PutObject on the key",
    "COMPLETE": "s3:PutObject on the key",
    "COPY": "s3:GetObject on the source and s3:PutObject on the key",
    "PART-COPY": "s3:GetObject on the source and s3:PutObject on the key",
    "DELETE": "s3:DeleteObject on the key",
    "DELETE-MANY": "s3:DeleteObject on the keys",
    "ABORT": "s3:AbortMultipartUpload on the key",
}
_MINIO_NAME_BYTES = 246  # of a directory that has a marker; of a file 255
_OLD_ENDPOINT = re.compile(r"(?:^|\.)s3[.-]([a-z0-9-]+)\.amazonaws\.com")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """What was asked, for the message."""

    kind: str
    bucket: str
    key: str
    endpoint: str
    region: str
    signed_by: str  # where the credentials came from

    @override
    def __str__(self) -> str:
        key = repr(self.key)[1:-1]  # control characters escaped
        return f"{self.kind} s3://{self.bucket}/{key}"

    @property
    def public(self) -> str:
        """Without the key (`VolumeError.as_public`)."""
        return f"{self.kind} s3://{self.bucket}/{self.key and '…'}"

    def hide(self, text: str) -> str:
        """Take the key out of a message of S3's, which names it in AWS's AccessDenied."""
        full = f"{self.bucket}/{self.key}"
        return text.replace(full, f"{self.bucket}/…") if self.key else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A refusal as S3 tells it. region: the bucket's, where the answer names it.

    condition: which header of a conditional request was not met, where the answer names it.
    """

    status: int
    code: str
    message: str
    request_id: str
    region: str
    condition: str

    @property
    def is_retryable(self) -> bool:
        if self.no_room is not None:
            return False
        return is_passing(self.status) or self.code in _RETRYABLE_CODES

    @property
    def is_unaccepted(self) -> bool:
        """S3 itself says that it did nothing; a gateway's word of its own is no proof."""
        return bool(self.code) and self.status in {400, 429, 503}

    @property
    def no_room(self) -> type[VolumeError] | None:
        """The error of a store without room for more bytes, if that is what was said."""
        in_text = self.status in _QUOTA_TEXT_STATUS and _QUOTA_TEXT.search(self.message)
        if in_text or _QUOTA_CODE.search(self.code):
            return QuotaExceededError
        return StoreFullError if self.status == 507 or self.code in _FULL else None  # noqa: PLR2004

    @property
    def is_expired(self) -> bool:
        return self.code in _EXPIRED

    @property
    def is_of_keys(self) -> bool:
        """Said in so many words: these keys have ended, or nobody has them."""
        return self.code in _EXPIRED | _UNKNOWN_KEYS

    @property
    def may_mean_keys(self) -> bool:
        """Other keys might be let in; a HEAD is refused without a word."""
        return self.no_room is None and (self.is_of_keys or self.status in {401, 403})

    @property
    def is_moved(self) -> bool:
        """Said in so many words: not here, or not signed for this region."""
        return self.status in {301, 307, 308} or self.code in _ELSEWHERE

    @property
    def is_elsewhere(self) -> bool:
        """Moved to a region that is told; a HEAD tells it without a body."""
        head = self.status == 400 and not self.message  # noqa: PLR2004
        return bool(self.region) and (self.is_moved or head)

    @property
    def refuses_checksum(self) -> bool:
        """A store that does not know x-amz-checksum-… (Backblaze B2 names the header)."""
        refused = self.status in {400, 501} and self.code not in _DAMAGED
        return refused and "x-amz-checksum" in self.message.lower()


def is_passing(status: int) -> bool:
    """Whether another attempt may be answered otherwise, by the status alone."""
    if status < 500:  # noqa: PLR2004
        return status in _RETRYABLE_BELOW_500
    return status not in _FINAL_FROM_500


def read(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """Take S3's answer apart; a body that is not S3's (a proxy's page) tells nothing."""
    said = xml.fields(xml.parse(body)) if body else {}
    found = _OLD_ENDPOINT.search(said.get("Endpoint", ""))
    region = headers.get("x-amz-bucket-region") or said.get("Region") or (found and found[1])
    return Fault(
        status=status,
        code=said.get("Code", ""),
        message=said.get("Message", ""),
        request_id=headers.get("x-amz-request-id") or said.get("RequestId", ""),
        region=region or "",
        condition=said.get("Condition", ""),
    )


def read_late(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """A 200 that lacks what makes it a success: S3's error, or the answer was cut or a proxy's."""
    fault = read(status, headers, body)
    if fault.code:
        return fault
    return replace(fault, code=_NO_ANSWER, message=f"the body begins {body[:60]!r}")


def to_error(fault: Fault, asked: RequestContext) -> VolumeError:
    """The class that the file system and the CSI answers understand, with message and hint."""
    cls: type[VolumeError] = fault.no_room or StoreUnavailableError
    if fault.code in _DAMAGED:
        cls = IntegrityError
    elif fault.no_room is None and not fault.is_retryable:
        cls = _BY_CODE.get(fault.code) or _BY_STATUS.get(fault.status, StoreRefusedError)
    if cls is InvalidNameError and _is_long_for_minio(asked.key):
        cls = KeyTooLongError
    said = ": ".join(filter(None, [fault.code, fault.message])) or "no explanation"
    request = f", request id {fault.request_id}" if fault.request_id else ""
    return cls(
        f"{asked}: {said} (HTTP {fault.status}{request})",
        _hint(cls, fault, asked),
        public=f"{asked.public}: {asked.hide(said)} (HTTP {fault.status})",
    )


def _is_long_for_minio(key: str) -> bool:
    longest = max(key.encode(errors="surrogateescape").split(b"/"), key=len)
    return len(longest) > _MINIO_NAME_BYTES


def from_connection(exc: Exception, asked: RequestContext) -> VolumeError:
    """No usable answer: time passed, the connection failed, or the answer was cut."""
    cls: type[VolumeError] = StoreUnavailableError
    if isinstance(exc, TimeoutError) or isinstance(exc.__cause__, TimeoutError):
        cls, said = StoreTimeoutError, f"no progress at {asked.endpoint}"
        hint = "check that this node reaches the endpoint (network policy, proxy, route)"
    elif isinstance(exc, aiohttp.ClientHttpProxyError):  # its own text has the proxy's password
        refusal = f"{exc.status} {exc.message}"
        said = f"the proxy refuses to connect to {asked.endpoint}: {refusal}"
        hint = "check HTTPS_PROXY, with its user and password, and NO_PROXY"
    elif is_untrusted(exc):
        said = f"TLS to {asked.endpoint} failed: {words(exc)}"
        hint = "check `endpoint-url`; for a private certificate authority set `ca-bundle`"
    else:
        said = f"{asked.endpoint}: {type(exc).__name__}: {words(exc)}"
        hint = (
            "check `endpoint-url` and `region`, name resolution, and that this node reaches the"
            " endpoint; a store without bucket host names needs `force-path-style`"
        )
    return cls(f"{asked}: {said}", hint, public=f"{asked.public}: {said}")


def words(exc: Exception) -> str:
    """The exception's text without aiohttp's note on TLS, which is an object's address at worst."""
    return re.sub(r" ssl:(?:<[^>]*>|\w+)(?= \[|$)", "", str(exc))


def is_untrusted(exc: Exception) -> bool:
    """A TLS failure, which no retry mends."""
    return isinstance(exc, aiohttp.ClientSSLError | ssl.SSLError)


def _hint(cls: type[VolumeError], fault: Fault, asked: RequestContext) -> str:
    if fault.is_moved:
        return f"set `region` to the bucket's region (now {asked.region}), or check `endpoint-url`"
    if cls is AccessDeniedError:
        action = _ACTIONS.get(asked.kind, "s3:GetObject on the key")
        return (
            f"the policy of this identity (credentials: {asked.signed_by}) must allow {action};"
            " check also bucket policy, bucket name, `expected-bucket-owner`, KMS key and the"
            " role's annotation"
        )
    if cls is NoSuchBucketError:
        return f"check the bucket's name and `endpoint-url` (asked at {asked.endpoint})"
    if cls is CredentialsError:
        return _credentials_hint(fault, asked)
    if fault.code == _NO_ANSWER:
        return "is `endpoint-url` an S3 endpoint, and no console, and no proxy's page?"
    return _HINTS.get(cls, "")


_CHECK_OPTIONS = (
    "check the options that go with requests (sse, storage-class, upload-checksums,"
    " expected-bucket-owner), and `endpoint-url`"
)
_HINTS: dict[type[VolumeError], str] = {
    KeyTooLongError: (
        "a key has at most 1024 bytes; on MinIO the name of a directory at most 246: shorten it"
    ),
    StoreUnavailableError: "the store is overloaded or failing; this was tried several times",
    StoreFullError: "the store has no room: remove objects there, or give it more disks",
    QuotaExceededError: (
        "a quota of the bucket, or of its owner, is used up: remove objects, or have it raised"
    ),
    IntegrityError: "the bytes change on their way: check memory and network of this node",
    ArchivedError: "restore the object from its archive tier first",
    StoreRefusedError: _CHECK_OPTIONS,
    NotImplementedByStoreError: _CHECK_OPTIONS,
}


def _credentials_hint(fault: Fault, asked: RequestContext) -> str:
    if fault.code == "RequestTimeTooSkewed":
        return "this node's clock is wrong: check its time synchronisation"
    if fault.is_expired:
        return f"the session token (credentials: {asked.signed_by}) has ended: give new ones"
    return (
        f"check access key and secret key (credentials: {asked.signed_by}) and that they belong"
        f" to the endpoint {asked.endpoint}"
    )
