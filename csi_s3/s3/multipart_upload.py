"""One multipart upload of the real store.

Its checksum algorithm is named at creation, so that S3 holds every part to it, but for stores that
cannot (`dialects`); their parts carry a checksum as well, and the store verifies it.
"""

import hashlib
import logging
from collections.abc import Sequence

from typing_extensions import override

from csi_s3.errors import (
    IntegrityError,
    NotFoundError,
    ObjectChangedError,
    PreconditionFailedError,
    VolumeError,
)
from csi_s3.s3 import get_object, xml
from csi_s3.s3.answer_texts import shown
from csi_s3.s3.checksums import Algorithm
from csi_s3.s3.http import Http, Response
from csi_s3.s3.request_headers import RequestHeaders
from csi_s3.s3.response_headers import conditions, stored, version_of
from csi_s3.s3.signing import Request
from csi_s3.s3.store import Buffer, ObjectInfo, Part, Upload

log = logging.getLogger(__name__)

COMPLETE_QUIET_S = 300.0  # AWS sends white space while it works, other stores send nothing
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class MultipartUpload(Upload):
    """Stateless but for its id: parts may be in flight in any number and order.

    sums: computed for every part. is_named: the upload was created with the algorithm's name, so
        `complete` must have the checksums.
    """

    def __init__(
        self,
        http: Http,
        headers: RequestHeaders,
        *,
        key: str,
        upload_id: str,
        sums: Algorithm | None,
        is_named: bool,
    ) -> None:
        self._http, self._headers = http, headers
        self._key, self._id = key, upload_id
        self._sums, self._is_named = sums, is_named

    @override
    async def part(self, number: int, data: Buffer) -> Part:
        checksum = {self._sums.header: self._sums.of(data)} if self._sums else {}
        request = Request(
            kind="PART",
            method="PUT",
            key=self._key,
            query={"partNumber": str(number), "uploadId": self._id},
            headers={"Content-Type": "application/octet-stream", **checksum},
            body=data,
            check=stored(f"part {number} of {self._key!r}", checksum),
        )
        answer = await self._http.done(request)
        etag = version_of(f"part {number} of {self._key!r}", answer.headers)
        return Part(number=number, etag=etag, size=len(data), checksum="".join(checksum.values()))

    @override
    async def part_from(self, number: int, source: ObjectInfo, start: int, length: int) -> Part:
        request = Request(
            kind="PART-COPY",
            method="PUT",
            key=self._key,
            query={"partNumber": str(number), "uploadId": self._id},
            headers={
                **self._headers.copy_source(source),
                "x-amz-copy-source-range": f"bytes={start}-{start + length - 1}",
            },
            quiet_s=COMPLETE_QUIET_S,
            heavy_bytes=length,
            answered_with="ETag",
        )
        answer = await self._http.send(request)
        if answer.error is not None:
            error = answer.error
            if isinstance(error, PreconditionFailedError) or _is_without_object(answer):
                raise ObjectChangedError(f"{source.key!r} is no longer {source.etag}: {error.what}")
            raise error
        result = xml.fields(answer.root)
        checksum = self._sums.read(result.get(self._sums.element, "")) if self._sums else ""
        etag = xml.quoted_etag(result.get("ETag", ""))
        return Part(number=number, etag=etag, size=length, checksum=checksum)

    @override
    async def complete(
        self, parts: Sequence[Part], *, if_none_match: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        size = sum(part.size for part in parts)
        whole = self._sums.of_parts(parts) if self._sums and self._is_named else ""
        headers = conditions(if_none_match=if_none_match, if_match=if_match)
        request = self._complete_request(parts, headers, size=size, whole=whole)
        answer = await self._http.send(request)
        if answer.error is not None:
            return await self._settle(answer, answer.error, parts, if_match=if_match)
        result = xml.fields(answer.root)
        checksum = result.get(self._sums.element, "") if self._sums else ""
        if whole and checksum and checksum.partition("-")[0] != whole.partition("-")[0]:
            raise IntegrityError(
                f"upload of {self._key!r}: the store's checksum is {shown(checksum)}, expected"
                f" {whole}",
                "do not use this object; write it again",
            )
        etag = xml.quoted_etag(result.get("ETag", ""))
        info = ObjectInfo(key=self._key, size=size, etag=etag, last_modified=0.0)
        await get_object.check_encryption(self._http, self._headers, info, answer.headers)
        return info

    @override
    async def abort(self) -> None:
        request = Request(
            kind="ABORT", method="DELETE", key=self._key, query={"uploadId": self._id}
        )
        try:
            await self._http.done(request)
        except NotFoundError:
            return
        except VolumeError as exc:
            log.warning(
                "upload %s of %r could not be aborted: its parts stay, and are billed, until a"
                " lifecycle rule (AbortIncompleteMultipartUpload) removes them: %s",
                self._id,
                self._key,
                exc,
                extra={"code": exc.code},
            )

    def _complete_request(
        self, parts: Sequence[Part], headers: dict[str, str], *, size: int, whole: str
    ) -> Request:
        headers = {**headers, "Content-Type": "application/xml"}
        if self._http.dialect.checks_object_size:
            headers["x-amz-mp-object-size"] = str(size)
        if self._sums and self._sums.full_object and whole:
            headers[self._sums.header] = whole
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        element = self._sums.element if self._sums and self._is_named else ""
        body = "".join(_part_xml(part, element) for part in parts)
        return Request(
            kind="COMPLETE",
            method="POST",
            key=self._key,
            query={"uploadId": self._id},
            headers=headers,
            body=f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{body}'
            "</CompleteMultipartUpload>".encode(),
            quiet_s=COMPLETE_QUIET_S,
            heavy_bytes=size,
            answered_with="ETag",
        )

    @override
    async def made(self, parts: Sequence[Part]) -> ObjectInfo | None:
        """As `Upload.made`, by the ETag that S3 computes from the parts', or by the checksum."""
        return await get_object.find_made(
            self._http,
            self._key,
            etag=_etag_of(parts),
            size=sum(part.size for part in parts),
            checksums={self._sums.header: self._sums.of_parts(parts)} if self._sums else {},
        )

    async def _settle(
        self, answer: Response, error: VolumeError, parts: Sequence[Part], *, if_match: str | None
    ) -> ObjectInfo:
        """Raise the error, unless an earlier attempt whose answer was lost had completed it."""
        if answer.maybe_done and isinstance(error, NotFoundError | PreconditionFailedError):
            info = await self.made(parts)
            if info is not None:
                return info
        if answer.code == "ConditionalRequestConflict":  # S3 wants another upload then
            raise NotFoundError(error.what)
        if if_match and _is_without_object(answer):
            raise PreconditionFailedError(error.what, "the object is gone")
        raise error


def _is_without_object(answer: Response) -> bool:
    """Whether it is the object that does not exist, not the upload."""
    return isinstance(answer.error, NotFoundError) and answer.code != "NoSuchUpload"


def _etag_of(parts: Sequence[Part]) -> str:
    """The ETag of an object uploaded in these parts; "" where the parts' ETags are not MD5s."""
    try:
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    except ValueError:
        return ""
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'


def _part_xml(part: Part, element: str) -> str:
    checksum = f"<{element}>{part.checksum}</{element}>" if element and part.checksum else ""
    etag = xml.escape(part.etag)
    return f"<Part><PartNumber>{part.number}</PartNumber><ETag>{etag}</ETag>{checksum}</Part>"
