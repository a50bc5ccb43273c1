"""What a new version keeps of the one that it replaces: headers, user metadata, class, tags.

S3 keeps them by itself in a copy only. A change of a file is a PUT or an upload, which must send
them again; they are read once per change (one HEAD, and one GET of the tags if there are any).
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import urlencode

from csi_s3.errors import AccessDeniedError, IntegrityError, NotFoundError
from csi_s3.s3 import get_object, xml
from csi_s3.s3.http import Http
from csi_s3.s3.request_headers import SSE, SSE_KEY
from csi_s3.s3.response_headers import describe
from csi_s3.s3.signing import Request
from csi_s3.s3.store import ObjectInfo

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_TAGS_TEXT = 16 << 10  # 10 tags of 128 and 256 characters, of which each may be 3 as %XX

_PRESERVED = (
    "Content-Type",
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Expires",
    "x-amz-website-redirect-location",
    "x-amz-storage-class",
    SSE,
    SSE_KEY,
)
_META = "x-amz-meta-"
_TAGS = "x-amz-tagging"


class PreservedHeaders:
    """For all writes of one bucket.

    Tags need rights of their own. When the policy is seen to refuse them, one WARNING is logged;
    from then on changes and copies are made without tags.
    """

    def __init__(self, http: Http) -> None:
        self._http = http
        self._has_tags = True

    async def of(self, key: str) -> dict[str, str]:
        """Read the headers that a write of this key preserves; none where the object is gone.

        Options of the volume win over them: put those behind.
        """
        try:
            return await self._read(key, await get_object.head_object(self._http, key))
        except (NotFoundError, AccessDeniedError):
            return {}

    async def of_version(self, source: ObjectInfo) -> dict[str, str]:
        """As `of`, for that version: what a copy would preserve.

        Raises:
            NotFoundError, ObjectChangedError: the source is gone, or another version.

        """
        answer = await get_object.head_object(self._http, source.key)
        if source.etag and describe(source.key, answer).etag != source.etag:
            raise get_object.changed(source.key, source.etag)
        return await self._read(source.key, answer)

    async def write(
        self, preserved: Mapping[str, str], send: Callable[[Mapping[str, str]], Awaitable[T]]
    ) -> T:
        """Send a write with these headers; without the tags if the policy refuses them."""
        if _TAGS not in preserved:
            return await send(preserved)
        untagged = {name: value for name, value in preserved.items() if name != _TAGS}
        return await self.try_tags(lambda tags: send(preserved if tags else untagged))

    async def try_tags(self, send: Callable[[bool], Awaitable[T]]) -> T:
        """Send with tags; if that is denied, once more without them.

        S3 says no more than AccessDenied, whichever right is missing.
        """
        if not self._has_tags:
            return await send(False)
        try:
            return await send(True)
        except AccessDeniedError as denied:
            try:
                result = await send(False)
            except AccessDeniedError:
                raise denied from None
            self._drop_tags(denied)
            return result

    async def _read(self, key: str, answer: Mapping[str, str]) -> dict[str, str]:
        preserved = {name: answer[name] for name in _PRESERVED if answer.get(name)}
        preserved |= {k.lower(): v for k, v in answer.items() if k.lower().startswith(_META)}
        if self._has_tags and answer.get("x-amz-tagging-count", "0") != "0":
            preserved |= await self._read_tags(key)
        return preserved

    async def _read_tags(self, key: str) -> dict[str, str]:
        request = Request(
            kind="GET-TAGS", method="GET", key=key, query={"tagging": ""}, answered_with="TagSet"
        )
        try:
            answer = await self._http.done(request)
        except AccessDeniedError as exc:
            self._drop_tags(exc)
            return {}
        assert answer.root is not None  # noqa: S101 - for the type checker: answered_with
        tags = [xml.fields(tag) for tag in answer.root.iter("{*}Tag")]
        text = urlencode([(tag.get("Key", ""), tag.get("Value", "")) for tag in tags])
        if len(text) > MAX_TAGS_TEXT:
            raise IntegrityError(
                f"GET-TAGS {key!r}: {len(tags)} tags take {len(text)} characters in a header",
                "report it to the store's vendor",
            )
        return {_TAGS: text}

    def _drop_tags(self, denied: AccessDeniedError) -> None:
        if self._has_tags:
            self._has_tags = False
            log.warning(
                "changed and copied objects lose their tags: the policy lacks"
                " s3:GetObjectTagging and s3:PutObjectTagging: %s",
                denied.what,
            )
