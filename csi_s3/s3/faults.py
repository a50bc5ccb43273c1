"""Translation of S3's errors, and of its client library's, to the classes of `errors`.

The message has operation, bucket, key, S3's code and text, HTTP status and request id; the hint
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
from csi_s3.s3.answer_texts import CODE_CHARS, MESSAGE_CHARS, short_text

_NOT_S3 = "not an S3 response"  # in place of a code
# Another attempt may succeed after all of 5xx, a gateway's own included (520 to 527 are
# Cloudflare's), but for these: not implemented, HTTP version, negotiation, insufficient storage,
# loop, extension, network login required.
_RETRYABLE_BELOW_500 = frozenset({408, 425, 429, 499})
_FINAL_FROM_500 = frozenset({501, 505, 506, 507, 508, 510, 511})
# The body was damaged or cut off on its way to the store; it can be sent again.
_DAMAGED = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})
# Besides the damaged ones. ClientDisconnected: MinIO behind a proxy that gave up.
# ConditionalRequestConflict: 409, another request was under way.
_RETRYABLE_CODE = re.compile(
    r"IncompleteBody|ClientDisconnected|XMinioBackendDown|InternalError|ServiceUnavailable"
    r"|OperationAborted|ConditionalRequestConflict|PriorRequestNotComplete|TransientError"
    r"|RequestTimeout(Exception)?|SlowDown(Read|Write)?|(Bandwidth|Request)LimitExceeded"
    r"|TooManyRequests|RequestThrottled(Exception)?|Throttl(ed|ing)Exception|Throttling"
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
# A quota, by its code (Ceph, versitygw, Ozone 403; Scality 429; MinIO 400; Huawei 403) or, with a
# general code, by the text (Garage 403 AccessDenied). A rate limit is not a quota of bytes: the
# text counts only with these statuses.
_QUOTA_CODE = re.compile(r"Quota\w*Exceeded|InsufficientStorageSpace", re.IGNORECASE)
_QUOTA_TEXT = re.compile(
    r"quota (is |was |has been )?(reached|exceeded)|cap exceeded", re.IGNORECASE
)
_QUOTA_TEXT_STATUS = frozenset({400, 403, 413, 507})
_UNKNOWN_KEYS = frozenset({"InvalidAccessKeyId", "XAdminUserNotFound"})  # MinIO's: or expired
_WRONG_REGION = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"}
)
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
    **dict.fromkeys(("PUT", "CREATE-UPLOAD", "PART", "COMPLETE"), "s3:PutObject on the key"),
    **dict.fromkeys(
        ("COPY", "PART-COPY"), "s3:GetObject on the source and s3:PutObject on the key"
    ),
    "DELETE": "s3:DeleteObject on the key",
    "DELETE-MANY": "s3:DeleteObject on the keys",
    "ABORT": "s3:AbortMultipartUpload on the key",
}
_MINIO_NAME_BYTES = 246  # of a directory that has a marker; of a file 255
_OLD_ENDPOINT = re.compile(r"(?:^|\.)s3[.-]([a-z0-9-]+)\.amazonaws\.com")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """A request as messages show it."""

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
        """Without the key (`VolumeError.public`)."""
        return f"{self.kind} s3://{self.bucket}/{self.key and '…'}"

    def hide(self, text: str) -> str:
        """Remove the key from S3's message: AWS's AccessDenied names it."""
        full = f"{self.bucket}/{self.key}"
        return text.replace(full, f"{self.bucket}/…") if self.key else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A refusal, as parsed from S3's answer. region: the bucket's, where the answer names it.

    condition: which header of a conditional request was not met, where the answer names it.

    Keys and regions have two properties each. `rejects_keys` and `rejects_region`: the answer says
    so explicitly. `may_reject_keys`: the refusal could also mean the keys (401, 403), so others are
    worth an attempt. `names_region`: the answer also says which region is right.
    """

    status: int
    code: str
    message: str
    request_id: str = ""
    region: str = ""
    condition: str = ""

    @property
    def is_retryable(self) -> bool:
        if self.no_room is not None:
            return False
        is_code = self.code in _DAMAGED | {_NOT_S3} or _RETRYABLE_CODE.fullmatch(self.code)
        return is_passing(self.status) or bool(is_code)

    @property
    def is_without_effect(self) -> bool:
        """S3 itself says that it did nothing; the same status from a gateway is no proof."""
        return bool(self.code) and self.status in {400, 429, 503}

    @property
    def no_room(self) -> type[VolumeError] | None:
        """The error of a store without room for more bytes, if this is one."""
        in_text = self.status in _QUOTA_TEXT_STATUS and _QUOTA_TEXT.search(self.message)
        if in_text or _QUOTA_CODE.search(self.code):
            return QuotaExceededError
        return StoreFullError if self.status == 507 or self.code in _FULL else None  # noqa: PLR2004

    @property
    def rejects_keys(self) -> bool:
        """The code says that these keys are expired or unknown."""
        return self.code in _EXPIRED | _UNKNOWN_KEYS

    @property
    def may_reject_keys(self) -> bool:
        """Other keys might be accepted. The answer to a HEAD has no code, so any 403 counts."""
        return self.no_room is None and (self.rejects_keys or self.status in {401, 403})

    @property
    def rejects_region(self) -> bool:
        """The answer says that the bucket, or the signature, belongs to another region."""
        return self.status in {301, 307, 308} or self.code in _WRONG_REGION

    @property
    def names_region(self) -> bool:
        """The same, with the right region; a HEAD is answered 400 with a header and no code."""
        is_head = self.status == 400 and not self.message  # noqa: PLR2004
        return bool(self.region) and (self.rejects_region or is_head)

    @property
    def refuses_checksum(self) -> bool:
        """The store does not support x-amz-checksum-… (Backblaze B2 names the header)."""
        refused = self.status in {400, 501} and self.code not in _DAMAGED
        return refused and "x-amz-checksum" in self.message.lower()


def is_passing(status: int) -> bool:
    """Whether another attempt may be answered otherwise, by the status alone."""
    if status < 500:  # noqa: PLR2004
        return status in _RETRYABLE_BELOW_500
    return status not in _FINAL_FROM_500


def read(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> Fault:
    """Parse S3's answer; from a body that is not S3's (a proxy's page) nothing is taken."""
    return from_fields(status, headers, xml.fields(xml.parse(body)) if body else {})


def from_fields(status: int, headers: Mapping[str, str], fields: Mapping[str, str]) -> Fault:
    """The refusal that these elements make, with texts that are safe to show.

    fields: of S3's <Error>, by name.
    """
    old = _OLD_ENDPOINT.search(fields.get("Endpoint", "")[:CODE_CHARS])
    region = headers.get("x-amz-bucket-region") or fields.get("Region") or (old and old[1])
    request_id = headers.get("x-amz-request-id") or fields.get("RequestId", "")
    return Fault(
        status=status,
        code=short_text(fields.get("Code", ""), CODE_CHARS),
        message=short_text(fields.get("Message", ""), MESSAGE_CHARS),
        request_id=short_text(request_id, CODE_CHARS),
        region=short_text(region or "", CODE_CHARS),
        condition=short_text(fields.get("Condition", ""), CODE_CHARS),
    )


def read_late(status: int, headers: Mapping[str, str], body: bytes | bytearray) -> Fault:
    """Parse a 200 that is not a success: S3's error, an incomplete answer, or a proxy's page."""
    fault = read(status, headers, body)
    if fault.code:
        return fault
    kind = short_text(headers.get("Content-Type") or "no content type", CODE_CHARS)
    return replace(fault, code=_NOT_S3, message=f"{kind}, {len(body)} bytes")  # it may be a secret


def to_error(fault: Fault, request: RequestContext) -> VolumeError:
    """The error for the file system and for CSI's answers, with message and hint."""
    cls: type[VolumeError] = fault.no_room or StoreUnavailableError
    if fault.code in _DAMAGED:
        cls = IntegrityError
    elif fault.no_room is None and not fault.is_retryable:
        cls = _BY_CODE.get(fault.code) or _BY_STATUS.get(fault.status, StoreRefusedError)
    if cls is InvalidNameError and _is_long_for_minio(request.key):
        cls = KeyTooLongError
    text = ": ".join(filter(None, [fault.code, fault.message])) or "no explanation"
    request_id = f", request id {fault.request_id}" if fault.request_id else ""
    return cls(
        f"{request}: {text} (HTTP {fault.status}{request_id})",
        _hint(cls, fault, request),
        public=f"{request.public}: {request.hide(text)} (HTTP {fault.status})",
    )


def _is_long_for_minio(key: str) -> bool:
    longest = max(key.encode(errors="surrogateescape").split(b"/"), key=len)
    return len(longest) > _MINIO_NAME_BYTES


def from_connection(exc: Exception, request: RequestContext) -> VolumeError:
    """The error for no usable answer: a timeout, a failed connection, or an incomplete answer."""
    cls: type[VolumeError] = StoreUnavailableError
    if isinstance(exc, TimeoutError) or isinstance(exc.__cause__, TimeoutError):
        cls, text = StoreTimeoutError, f"no progress at {request.endpoint}"
        hint = "check that this node can reach the endpoint (network policy, proxy, route)"
    elif isinstance(exc, aiohttp.ClientHttpProxyError):  # its own text has the proxy's password
        refusal = short_text(f"{exc.status} {exc.message}", CODE_CHARS)
        text = f"the proxy refuses to connect to {request.endpoint}: {refusal}"
        hint = "check HTTPS_PROXY, with its user and password, and NO_PROXY"
    elif is_untrusted(exc):
        text = f"TLS to {request.endpoint} failed: {text_of(exc)}"
        hint = "check `endpoint-url`; for a private certificate authority set `ca-bundle`"
    else:
        text = f"{request.endpoint}: {type(exc).__name__}: {text_of(exc)}"
        hint = (
            "check `endpoint-url`, `region` and name resolution, and that this node can reach the"
            " endpoint; a store without bucket host names needs `force-path-style`"
        )
    return cls(f"{request}: {text}", hint, public=f"{request.public}: {text}")


def text_of(exc: Exception) -> str:
    """The exception's text without aiohttp's note on TLS, which may be an object's address.

    Without the text of an answer that is not HTTP: it has the first bytes, and the whole URL.
    """
    if isinstance(exc, aiohttp.ClientResponseError):
        return "the answer is not HTTP"
    return short_text(re.sub(r" ssl:(?:<[^>]*>|\w+)(?= \[|$)", "", str(exc)), MESSAGE_CHARS)


def is_untrusted(exc: Exception) -> bool:
    """A TLS failure, which a retry does not repair."""
    return isinstance(exc, aiohttp.ClientSSLError | ssl.SSLError)


def _hint(cls: type[VolumeError], fault: Fault, request: RequestContext) -> str:
    if fault.rejects_region:
        return (
            f"set `region` to the bucket's region (now {request.region}), or check `endpoint-url`"
        )
    if cls is AccessDeniedError:
        action = _ACTIONS.get(request.kind, "s3:GetObject on the key")
        return (
            f"the policy of this identity (credentials: {request.signed_by}) must allow {action};"
            " also check bucket policy, bucket name, `expected-bucket-owner`, KMS key and the"
            " role's annotation"
        )
    if cls is NoSuchBucketError:
        return f"check the bucket's name and `endpoint-url` (request sent to {request.endpoint})"
    if cls is CredentialsError:
        return _credentials_hint(fault, request)
    if fault.code == _NOT_S3:
        return "check that `endpoint-url` is an S3 endpoint, not a web console or a proxy's page"
    return _HINTS.get(cls, "")


_CHECK_OPTIONS = (
    "check the options that requests are sent with (sse, storage-class, upload-checksums,"
    " expected-bucket-owner), and `endpoint-url`"
)
_HINTS: dict[type[VolumeError], str] = {
    KeyTooLongError: (
        "a key has at most 1024 bytes, on MinIO a directory's name at most 246: shorten it"
    ),
    StoreUnavailableError: "the store is overloaded or failing; all retries failed",
    StoreFullError: "the store is full: remove objects, or add disks",
    QuotaExceededError: (
        "a quota of the bucket or its owner is exhausted: remove objects, or raise the quota"
    ),
    IntegrityError: "the data is corrupted in transit: check memory and network of this node",
    ArchivedError: "restore the object from its archive tier first",
    StoreRefusedError: _CHECK_OPTIONS,
    NotImplementedByStoreError: _CHECK_OPTIONS,
}


def _credentials_hint(fault: Fault, request: RequestContext) -> str:
    if fault.code == "RequestTimeTooSkewed":
        return "this node's clock is wrong: check its time synchronization"
    if fault.code in _EXPIRED:
        return f"the session token (credentials: {request.signed_by}) has expired: replace it"
    return (
        f"check access key and secret key (credentials: {request.signed_by}) and that they belong"
        f" to the endpoint {request.endpoint}"
    )
