"""HEAD and ranged GET, and whether an object is what an upload has made (`find_made`)."""

import re
from collections.abc import Mapping

from csi_s3.errors import (
    IntegrityError,
    NotFoundError,
    NotImplementedByStoreError,
    ObjectChangedError,
    PreconditionFailedError,
    StoreRefusedError,
)
from csi_s3.s3.answer_texts import shown
from csi_s3.s3.http import Http
from csi_s3.s3.request_headers import RequestHeaders
from csi_s3.s3.response_headers import conditions, describe, size_in
from csi_s3.s3.signing import Check, Request
from csi_s3.s3.store import Buffer, Chunk, ObjectInfo

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/([0-9]{1,19})")
_CHECK_ENDPOINT = "check that `endpoint-url` is an S3 endpoint and that no proxy alters its answers"
READ_AGAIN = 3  # an object that grows between HEAD and GET; no real one does so three times


async def head(http: Http, key: str) -> ObjectInfo:
    try:
        return await _head(http, key)
    except StoreRefusedError:
        # 400 without a body: another region or an expired token. The answer to a GET names it.
        return (await read_range(http, key, 0, 1)).info


async def head_object(http: Http, key: str, **headers: str) -> Mapping[str, str]:
    """All headers of the answer to a HEAD."""
    request = Request(kind="HEAD", method="HEAD", key=key, headers=headers)
    return (await http.done(request)).headers


async def read_range(
    http: Http, key: str, start: int, length: int, *, etag: str | None = None
) -> Chunk:
    if length <= 0:
        return await _empty(http, key, etag)
    request = Request(
        kind="GET",
        method="GET",
        key=key,
        headers={**conditions(if_match=etag), "Range": f"bytes={start}-{start + length - 1}"},
        answer_bytes=length,
        check=_of_range(key, start, length),
    )
    for _ in range(READ_AGAIN):
        answer = await http.send(request)
        if answer.error is None:
            size = _size(answer.status, answer.headers, answer.body)
            info = describe(key, answer.headers, size=size)
            if etag is not None and info.etag != etag:
                raise changed(key, etag)
            return Chunk(info=info, data=answer.body)
        if isinstance(answer.error, PreconditionFailedError):
            raise changed(key, etag) from answer.error
        if answer.status != 416:  # noqa: PLR2004 - at or behind the end
            raise answer.error
        chunk = await _empty(http, key, etag)
        if chunk.info.size <= start:
            return chunk  # else it has grown since
    raise IntegrityError(f"GET {key!r}: no range from {start}, although HEAD reports more bytes")


def changed(key: str, etag: str | None) -> ObjectChangedError:
    return ObjectChangedError(f"{key!r} is no longer version {etag}", "open the file again")


async def find_made(
    http: Http,
    key: str,
    *,
    etag: str,
    size: int,
    checksums: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
) -> ObjectInfo | None:
    """The object, if it is what a write whose answer was lost has made.

    etag: of these bytes without KMS encryption. checksums: by header name, any of which proves the
    same with it. Size and number of parts prove nothing: two clients that edit one object agree.
    """
    try:
        answer = await head_object(http, key, **{"x-amz-checksum-mode": "ENABLED"})
    except NotFoundError:
        return None
    info = describe(key, answer)
    is_same = info.etag == etag or any(
        value and answer.get(name) == value for name, value in checksums.items()
    )
    has_metadata = all(answer.get(f"x-amz-meta-{k}") == v for k, v in (metadata or {}).items())
    return info if is_same and has_metadata and info.size == size else None


async def check_encryption(
    http: Http, headers: RequestHeaders, made: ObjectInfo, answer: Mapping[str, str]
) -> None:
    """Compare an object made by COMPLETE or COPY with the options `sse` and `sse-kms-key-id`.

    One HEAD where the answer does not name the encryption (`dialects`). A version that is gone by
    then is not looked for.

    Raises:
        IntegrityError: the store encrypted otherwise, or not at all.

    """
    if headers.encrypts and not http.dialect.reports_encryption:
        try:
            answer = await head_object(http, made.key)
        except NotFoundError:
            return
        if describe(made.key, answer).etag != made.etag:
            return
    headers.check_encryption(repr(made.key), answer)


async def _head(http: Http, key: str) -> ObjectInfo:
    def check(_status: int, headers: Mapping[str, str], _body: Buffer) -> None:
        describe(key, headers)
        _check_version(key, headers)

    request = Request(kind="HEAD", method="HEAD", key=key, check=check)
    return describe(key, (await http.done(request)).headers)


async def _empty(http: Http, key: str, etag: str | None) -> Chunk:
    info = await _head(http, key)
    if etag is not None and info.etag != etag:
        raise changed(key, etag)
    return Chunk(info=info, data=b"")


def _of_range(key: str, start: int, length: int) -> Check:
    """Check that the answer to a ranged GET holds exactly these bytes of an object."""

    def check(status: int, headers: Mapping[str, str], body: Buffer) -> None:
        _check_version(key, headers)
        received, content_range = len(body), headers.get("Content-Range", "")
        parsed = _CONTENT_RANGE.fullmatch(content_range)
        if status == 206:  # noqa: PLR2004
            if parsed is None or int(parsed[1]) != start:
                raise IntegrityError(
                    f"GET {key!r}: requested from {start}, Content-Range is {shown(content_range)}",
                    _CHECK_ENDPOINT,
                )
        elif status != 200:  # noqa: PLR2004
            raise IntegrityError(f"GET {key!r}: unexpected HTTP {status}", _CHECK_ENDPOINT)
        elif start or received > length:
            raise NotImplementedByStoreError(f"GET {key!r}: the store does not support ranges")
        total = _size(status, headers, body)
        expected = min(length, total - start)
        if received != expected:
            raise IntegrityError(
                f"GET {key!r}: {received} bytes from {start}, expected {expected} of {total}",
                _CHECK_ENDPOINT,
            )

    return check


def _size(status: int, headers: Mapping[str, str], body: Buffer) -> int:
    """The size of the whole object, from the answer to a ranged GET (200: the whole object).

    Raises:
        IntegrityError: it is not a size.

    """
    if status == 206:  # noqa: PLR2004
        return size_in(headers.get("Content-Range", "").rpartition("/")[2])
    return size_in(headers["Content-Length"]) if "Content-Length" in headers else len(body)


def _check_version(key: str, headers: Mapping[str, str]) -> None:
    """Without an ETag it is a proxy's page. Markers may lack one: their content is never used."""
    if not headers.get("ETag") and not key.endswith("/"):
        raise IntegrityError(f"{key!r}: the answer has no ETag", _CHECK_ENDPOINT)
