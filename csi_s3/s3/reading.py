"""HEAD and ranged GET: the one place where another client for bulk reads could be chosen."""

import re

from csi_s3.errors import (
    IntegrityError,
    NotImplementedByStoreError,
    ObjectChangedError,
    PreconditionFailedError,
    StoreRefusedError,
)
from csi_s3.s3.headers import Headers
from csi_s3.s3.http import Answer, Http
from csi_s3.s3.objects import conditions, describe
from csi_s3.s3.signing import Request
from csi_s3.s3.store import Chunk, ObjectInfo

_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")
READ_AGAIN = 3  # an object that grows all the time is not one


async def head(http: Http, headers: Headers, key: str) -> ObjectInfo:
    try:
        return await _head(http, headers, key)
    except StoreRefusedError:
        # 400 without a body: another region or an ended token; an answer with a body tells.
        return (await read_range(http, headers, key, 0, 1)).info


async def read_range(
    http: Http, headers: Headers, key: str, start: int, length: int, *, etag: str | None = None
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
    )
    for _ in range(READ_AGAIN):
        answer = await http.send(request)
        if answer.fault is None:
            info = describe(key, answer.headers, size=_whole_size(key, answer, start, length))
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


async def _head(http: Http, headers: Headers, key: str) -> ObjectInfo:
    request = Request(kind="HEAD", method="HEAD", key=key, headers=headers.every)
    return describe(key, (await http.done(request)).headers)


async def _empty(http: Http, headers: Headers, key: str, etag: str | None) -> Chunk:
    info = await _head(http, headers, key)
    if etag is not None and info.etag != etag:
        raise changed(key, etag)
    return Chunk(info=info, data=b"")


def _whole_size(key: str, answer: Answer, start: int, length: int) -> int:
    """The object's size by the answer to a ranged GET, whose body is held to its promise."""
    got = len(answer.body)
    if answer.status == 206:  # noqa: PLR2004
        told = answer.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(told)
        if found is None or int(found[1]) != start:
            raise IntegrityError(f"GET {key!r}: asked from {start}, Content-Range is {told!r}")
        total = int(found[2])
        due = min(length, total - start)
    elif start or got > length:
        raise NotImplementedByStoreError(f"GET {key!r}: the store does not know ranges")
    else:  # 200: the whole object, and it fits
        total = due = int(answer.headers.get("Content-Length", got))
    if got != due:
        raise IntegrityError(f"GET {key!r}: {got} bytes from {start}, {due} were due of {total}")
    return total
