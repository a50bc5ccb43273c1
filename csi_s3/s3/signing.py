"""One request to a bucket: its exact URL, and botocore's SigV4 signature over it.

URLs are quoted here, once, and neither signer nor aiohttp may change them again, so that any key
(`//`, `./`, `%`, `+`, control characters, a leading `/`) is sent as it was signed.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from typing_extensions import override
from yarl import URL

from csi_s3.s3.answer_body import XML_BYTES
from csi_s3.s3.credentials.refresh import AccessKeys
from csi_s3.s3.endpoint import Endpoint
from csi_s3.s3.store import Buffer

UNSIGNED = "UNSIGNED-PAYLOAD"
_ERRORS = "surrogateescape"
Check: TypeAlias = Callable[[int, Mapping[str, str], Buffer], None]  # status, headers, body
_NO_BODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One S3 operation, sent until it succeeds or is given up.

    kind: HEAD, GET, LIST, PUT, ...: for messages, counts and policy hints.
    key: empty for the bucket itself.
    quiet_s: the longest time without progress while the store works on this.
    answer_bytes, heavy_bytes: the size of the answer, the bytes that the store must copy: for the
        deadline.
    most_bytes: a longer answer is an error; for an object's bytes it is answer_bytes.
    answered_with: the element, root or below it, without which a 200 is not a success: S3 may send
        the status before the result is known (copy, complete), and a proxy sends it with its page.
    check: raises IntegrityError if the answer to a success is malformed; the request is then sent
        again.
    """

    kind: str
    method: str
    key: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Buffer = b""
    quiet_s: float = 30.0
    answer_bytes: int = 0
    heavy_bytes: int = 0
    most_bytes: int = XML_BYTES
    answered_with: str = ""
    check: Check | None = None

    @property
    def listed(self) -> str | None:
        """The prefix that a LIST is of; None for other requests."""
        return self.query.get("prefix", "") if self.kind == "LIST" else None


def quoted_key(key: str) -> str:
    """Lone surrogates stand for bytes that are not UTF-8, as `list_objects` decodes them."""
    return quote(key, safe="/~", errors=_ERRORS)


def url_of(request: Request, endpoint: Endpoint) -> str:
    url = f"{endpoint.url}/{quoted_key(request.key)}" if request.key else endpoint.root
    if not request.query:
        return url
    return f"{url}?{urlencode(request.query, quote_via=quote, safe='', errors=_ERRORS)}"


def exact(url: str) -> URL:
    """For aiohttp: a URL that is not normalized."""
    return URL(url, encoded=True)


def payload_hash(request: Request, endpoint: Endpoint) -> str:
    """The value of x-amz-content-sha256. TLS protects the body, or a checksum in a signed header.

    Only plain HTTP with upload-checksums=off needs the hash: SHA-256 of 1 GiB costs 0.7 CPU
    seconds, as much as sending it.
    """
    summed = any(name.startswith("x-amz-checksum-") for name in request.headers)
    if endpoint.url.startswith("https:") or summed:
        return UNSIGNED
    return hashlib.sha256(request.body).hexdigest() if len(request.body) else _NO_BODY


def signed_headers(
    request: Request, endpoint: Endpoint, url: str, *, keys: AccessKeys | None, payload: str
) -> dict[str, str]:
    """The request's headers with date and signature; unchanged for anonymous requests."""
    if keys is None:
        return dict(request.headers)
    headers = {**request.headers, "Host": urlsplit(endpoint.url).netloc}  # else botocore parses url
    signed = AWSRequest(method=request.method, url=url, headers=headers)
    signed.context["payload"] = payload
    _Signer(keys, endpoint.service, endpoint.region).add_auth(signed)
    return dict(signed.headers.items())


class _Signer(S3SigV4Auth):  # type: ignore[misc] # botocore is untyped
    @override
    def payload(self, request: AWSRequest) -> str:
        return str(request.context["payload"])
