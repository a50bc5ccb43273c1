"""Copies inside the store, with what S3 makes of two conditions and of tags."""

from csi_s3.errors import NotFoundError, PreconditionFailedError
from csi_s3.s3 import get_object, xml
from csi_s3.s3.faults import Fault
from csi_s3.s3.http import Http
from csi_s3.s3.list_objects import timestamp
from csi_s3.s3.request_headers import RequestHeaders
from csi_s3.s3.response_headers import conditions
from csi_s3.s3.signing import Request
from csi_s3.s3.store import ObjectInfo

COPY_QUIET_S = 300.0  # AWS sends white space during the copy, other stores send nothing


async def copy(
    http: Http,
    headers: RequestHeaders,
    source: ObjectInfo,
    key: str,
    *,
    if_none_match: bool,
    with_tags: bool,
) -> ObjectInfo:
    """As `store.ObjectStore.copy`, for an object with bytes.

    Raises:
        AccessDeniedError: perhaps for the tags only, if the object has any.

    """
    if if_none_match and not http.dialect.compares_copy_target:
        await _refuse_existing(http, key)
    request = Request(
        kind="COPY",
        method="PUT",
        key=key,
        headers={
            **headers.copied(source),
            **conditions(if_none_match=if_none_match),
            **({} if with_tags else {"x-amz-tagging-directive": "REPLACE"}),
        },
        quiet_s=COPY_QUIET_S,
        heavy_bytes=source.size,
        answered_with="ETag",
    )
    answer = await http.send(request)
    if answer.fault is not None and isinstance(answer.error, PreconditionFailedError):
        if not if_none_match or await _is_changed(http, source, answer.fault):
            raise get_object.changed(source.key, source.etag) from answer.error
        if answer.maybe_done:
            present = await get_object.head(http, key)
            if (present.size, present.etag) == (source.size, source.etag):
                return present  # of the attempt whose answer was lost; the bytes are the same
    if answer.error is not None:
        raise answer.error
    result = xml.fields(answer.root)
    info = ObjectInfo(
        key=key,
        size=source.size,
        etag=xml.quoted_etag(result.get("ETag", "")),
        last_modified=_date(result.get("LastModified", "")),
    )
    await get_object.check_encryption(http, headers, info, answer.headers)
    return info


def _date(text: str) -> float:
    """The copy is made, whatever the answer says."""
    try:
        return timestamp(text)
    except ValueError:
        return 0.0


async def _refuse_existing(http: Http, key: str) -> None:
    """Ask first, though another client may create the object before the copy."""
    try:
        await get_object.head(http, key)
    except NotFoundError:
        return
    raise PreconditionFailedError(f"COPY to {key!r}: it exists")


async def _is_changed(http: Http, source: ObjectInfo, fault: Fault) -> bool:
    """Which of a copy's two conditions failed: the source's (True) or the target's."""
    if "copy-source" in fault.condition.lower():
        return True
    try:
        return (await get_object.head(http, source.key)).etag != source.etag
    except NotFoundError:
        return True
