"""Copies inside the store, with what S3 makes of two conditions and of tags."""

import logging

from csi_s3.errors import AccessDeniedError, NotFoundError, PreconditionFailedError
from csi_s3.s3 import get_object, xml
from csi_s3.s3.faults import Fault
from csi_s3.s3.http import Http
from csi_s3.s3.list_objects import timestamp
from csi_s3.s3.request_headers import RequestHeaders
from csi_s3.s3.response_headers import conditions
from csi_s3.s3.signing import Request
from csi_s3.s3.store import ObjectInfo

log = logging.getLogger(__name__)

COPY_QUIET_S = 300.0  # S3 sends white space meanwhile, other stores nothing


class Copier:
    """keeps_tags: until the policy was seen to refuse them; then one WARNING, and copies go on."""

    def __init__(self, http: Http, headers: RequestHeaders) -> None:
        self._http, self._headers = http, headers
        self._keeps_tags = True

    async def copy(self, source: ObjectInfo, key: str, *, if_none_match: bool) -> ObjectInfo:
        """As `store.ObjectStore.copy`.

        A policy without tagging rights refuses to copy an object that has tags, and says no more
        than AccessDenied; so that refusal is tried once without them.
        """
        if if_none_match and not self._http.dialect.compares_copy_target:
            await self._refuse_existing(key)
        if not self._keeps_tags:
            return await self._copy(source, key, if_none_match=if_none_match, with_tags=False)
        try:
            return await self._copy(source, key, if_none_match=if_none_match, with_tags=True)
        except AccessDeniedError as refused:
            try:
                info = await self._copy(source, key, if_none_match=if_none_match, with_tags=False)
            except AccessDeniedError:
                raise refused from None
            if self._keeps_tags:
                self._keeps_tags = False
                log.warning(
                    "copies leave the objects' tags behind: the policy lacks s3:GetObjectTagging"
                    " and s3:PutObjectTagging: %s",
                    refused.what,
                )
            return info

    async def _copy(
        self, source: ObjectInfo, key: str, *, if_none_match: bool, with_tags: bool
    ) -> ObjectInfo:
        request = Request(
            kind="COPY",
            method="PUT",
            key=key,
            headers={
                **self._headers.every,
                **self._headers.copied(source),
                **conditions(if_none_match=if_none_match),
                **({} if with_tags else {"x-amz-tagging-directive": "REPLACE"}),
            },
            quiet_s=COPY_QUIET_S,
            heavy_bytes=source.size,
            answered_with="ETag",
        )
        answer = await self._http.send(request)
        if answer.fault is not None:
            error = self._http.error(request, answer.fault)
            if isinstance(error, PreconditionFailedError) and (
                not if_none_match or await self._is_changed(source, answer.fault)
            ):
                raise get_object.changed(source.key, source.etag) from error
            if isinstance(error, PreconditionFailedError) and answer.maybe_done:
                there = await get_object.head(self._http, self._headers, key)
                if (there.size, there.etag) == (source.size, source.etag):
                    return there  # ours, whose answer was lost; at least it has the same bytes
            raise error
        said = xml.fields(answer.root)
        info = ObjectInfo(
            key=key,
            size=source.size,
            etag=xml.quoted_etag(said.get("ETag", "")),
            last_modified=timestamp(said.get("LastModified", "")),
        )
        await get_object.check_encryption(self._http, self._headers, info, answer.headers)
        return info

    async def _refuse_existing(self, key: str) -> None:
        """Ask first, though another client may create the object before the copy."""
        try:
            await get_object.head(self._http, self._headers, key)
        except NotFoundError:
            return
        raise PreconditionFailedError(f"COPY to {key!r}: it exists")

    async def _is_changed(self, source: ObjectInfo, fault: Fault) -> bool:
        """Which of a copy's two conditions failed: the source's (True) or the target's."""
        if "copy-source" in fault.condition.lower():
            return True
        try:
            return (
                await get_object.head(self._http, self._headers, source.key)
            ).etag != source.etag
        except NotFoundError:
            return True
