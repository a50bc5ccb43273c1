"""What a new version keeps of the one that it changes: headers, user metadata, class, tags.

S3 keeps them by itself in a copy only. A change of a file is a PUT or an upload, which must say
them again; they are asked for once per change (one HEAD, and one GET of the tags if there are any).
"""

import logging
from collections.abc import Mapping
from urllib.parse import urlencode

from lxml import etree

from csi_s3.errors import AccessDeniedError, NotFoundError, VolumeError
from csi_s3.s3 import get_object, xml
from csi_s3.s3.http import Http
from csi_s3.s3.request_headers import SSE, SSE_KEY, RequestHeaders
from csi_s3.s3.response_headers import describe
from csi_s3.s3.signing import Request
from csi_s3.s3.store import ObjectInfo

log = logging.getLogger(__name__)

_KEPT = (
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


class PreservedHeaders:
    """keeps_tags: until the policy was seen to refuse them; then one WARNING, and changes go on."""

    def __init__(self, http: Http, headers: RequestHeaders) -> None:
        self._http, self._headers = http, headers
        self._keeps_tags = True

    async def kept(self, key: str) -> dict[str, str]:
        """The headers of a write that keeps what the object has; none where it is gone.

        Options of the volume win over them: put those behind.
        """
        try:
            return await self._of(key, await self._head(key))
        except (NotFoundError, AccessDeniedError):
            return {}

    async def kept_of(self, source: ObjectInfo) -> dict[str, str]:
        """As `kept`, of that version: what a copy would keep.

        Raises:
            NotFoundError, ObjectChangedError: the source is gone, or another version.

        """
        found = await self._head(source.key)
        if source.etag and describe(source.key, found).etag != source.etag:
            raise get_object.changed(source.key, source.etag)
        return await self._of(source.key, found)

    async def _head(self, key: str) -> Mapping[str, str]:
        head = Request(kind="HEAD", method="HEAD", key=key, headers=self._headers.every)
        return (await self._http.done(head)).headers

    async def _of(self, key: str, found: Mapping[str, str]) -> dict[str, str]:
        kept = {name: found[name] for name in _KEPT if found.get(name)}
        kept |= {k.lower(): v for k, v in found.items() if k.lower().startswith(_META)}
        if int(found.get("x-amz-tagging-count", "0")):
            kept |= await self._tags(key)
        return kept

    async def _tags(self, key: str) -> dict[str, str]:
        if not self._keeps_tags:
            return {}
        request = Request(
            kind="GET-TAGS",
            method="GET",
            key=key,
            query={"tagging": ""},
            headers=self._headers.every,
            answered_with="TagSet",
        )
        try:
            answer = await self._http.done(request)
        except AccessDeniedError as exc:
            self.leave_tags(exc)
            return {}
        return {"x-amz-tagging": urlencode(_tag_pairs(answer.root))}

    def leave_tags(self, refused: VolumeError) -> None:
        """The policy refuses tags: say so once, and do not try again."""
        if self._keeps_tags:
            self._keeps_tags = False
            log.warning(
                "changed objects lose their tags: the policy lacks s3:GetObjectTagging"
                " and s3:PutObjectTagging: %s",
                refused.what,
            )


def _tag_pairs(root: etree._Element | None) -> list[tuple[str, str]]:
    pairs = []
    for tag in () if root is None else root.iter("{*}Tag"):
        said: Mapping[str, str] = xml.fields(tag)
        pairs.append((said.get("Key", ""), said.get("Value", "")))
    return pairs
