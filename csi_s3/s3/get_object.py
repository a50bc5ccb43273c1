"""HEAD and ranged GET: the one place where another client for bulk reads could be chosen."""

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
from csi_s3.s3.http import Http
from csi_s3.s3.request_headers import RequestHeaders
from csi_s3.s3.response_headers import conditions, describe
from csi_s3.s3.signing import Check, Request
from csi_s3.s3.store import Buffer, Chunk, ObjectInfo

_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")
_WHO_CHANGES = "is `endpoint-url` an S3 endpoint, and does nothing before it change its answers?"
READ_AGAIN = 3  # an object that grows all the time is not one


async def head(http: Http, headers: RequestHeaders, key: str) -> ObjectInfo:
    try:
        return await _head(http, headers, key)
    except StoreRefusedError:
        # 400 without a body: another region or an ended token; an answer with a body tells.
        return (await read_range(http, headers, key, 0, 1)).info


async def read_range(
    http: Http,
    headers: RequestHeaders,
    key: str,
    start: int,
    length: int,
    *,
    etag: str | None = None,
) -> Chunk:
    if length <= 0:
        return await _empty(http, headers, key, etag)
    request = Request(
        kind="GET",
        method="GET",
        key=key,
        headers={
            **headers.every,
            **conditions(if_match=etag),
            "Range": f"bytes={start}-{start + length - 1}",
        },
        answer_bytes=length,
        check=_of_range(key, start, length),
    )
    for _ in range(READ_AGAIN):
        answer = await http.send(request)
        if answer.fault is None:
            size = _size(answer.status, answer.headers, answer.body)
            info = describe(key, answer.headers, size=size)
            if etag is not None and info.etag != etag:
                raise changed(key, etag)
            return Chunk(info=info, data=answer.body)
        if answer.fault.status != 416:  # noqa: PLR2004 - at or behind the end
            error = http.error(request, answer.fault)
            if isinstance(error, PreconditionFailedError):
                raise changed(key, etag) from error
            raise error
        chunk = await _empty(http, headers, key, etag)
        if chunk.info.size <= start:
            return chunk  # else it has grown since
    raise IntegrityError(f"GET {key!r}: no range from {start}, and HEAD tells of more bytes")


def changed(key: str, etag: str | None) -> ObjectChangedError:
    return ObjectChangedError(f"{key!r} is no longer version {etag}", "open the file again")


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
        head = Request(kind="HEAD", method="HEAD", key=made.key, headers=headers.every)
        try:
            answer = (await http.done(head)).headers
        except NotFoundError:
            return
        if describe(made.key, answer).etag != made.etag:
            return
    headers.check_encryption(repr(made.key), answer)


async def _head(http: Http, headers: RequestHeaders, key: str) -> ObjectInfo:
    request = Request(
        kind="HEAD",
        method="HEAD",
        key=key,
        headers=headers.every,
        check=lambda _status, answer, _body: _check_head(key, answer),
    )
    return describe(key, (await http.done(request)).headers)


async def _empty(http: Http, headers: RequestHeaders, key: str, etag: str | None) -> Chunk:
    info = await _head(http, headers, key)
    if etag is not None and info.etag != etag:
        raise changed(key, etag)
    return Chunk(info=info, data=b"")


def _of_range(key: str, start: int, length: int) -> Check:
    """Hold the answer to a ranged GET to its promise: these bytes of an object."""

    def check(status: int, headers: Mapping[str, str], body: Buffer) -> None:
        _check_version(key, headers)
        got, told = len(body), headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(told)
        if status == 206:  # noqa: PLR2004
            if found is None or int(found[1]) != start:
                raise IntegrityError(
                    f"GET {key!r}: asked from {start}, Content-Range is {told!r}", _WHO_CHANGES
                )
        elif status != 200:  # noqa: PLR2004
            raise IntegrityError(f"GET {key!r}: HTTP {status} is no answer to it", _WHO_CHANGES)
        elif start or got > length:
            raise NotImplementedByStoreError(f"GET {key!r}: the store does not know ranges")
        total = _size(status, headers, body)
        due = min(length, total - start)
        if got != due:
            raise IntegrityError(
                f"GET {key!r}: {got} bytes from {start}, {due} were due of {total}", _WHO_CHANGES
            )

    return check


def _size(status: int, headers: Mapping[str, str], body: Buffer) -> int:
    """The whole object's, by the answer to a ranged GET; 200: it fits, and is there whole."""
    if status == 206:  # noqa: PLR2004
        return int(headers.get("Content-Range", "").rpartition("/")[2])
    return int(headers.get("Content-Length", len(body)))


def _check_version(key: str, headers: Mapping[str, str]) -> None:
    """Without an ETag it is a page of something before the store; a marker is never read."""
    if not headers.get("ETag") and not key.endswith("/"):
        raise IntegrityError(f"{key!r}: the answer has no ETag", _WHO_CHANGES)


def _check_head(key: str, headers: Mapping[str, str]) -> None:
    describe(key, headers)
    _check_version(key, headers)
