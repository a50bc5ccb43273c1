"""Parse object metadata from response headers, and check answers to writes."""

import calendar
from collections.abc import Mapping
from email.utils import parsedate_tz

from csi_s3.errors import IntegrityError
from csi_s3.s3 import xml
from csi_s3.s3.answer_texts import short_text, shown, whole_number
from csi_s3.s3.list_objects import ARCHIVES, MAX_CLASS, sensible
from csi_s3.s3.signing import Check
from csi_s3.s3.store import Buffer, ObjectInfo


def describe(key: str, headers: Mapping[str, str], *, size: int | None = None) -> ObjectInfo:
    """From the answer to a HEAD, or to a GET (whose Content-Length is not the object's size).

    Raises:
        IntegrityError: the answer has no size, or one that no object has.

    """
    if size is None and "Content-Length" not in headers:
        raise IntegrityError(
            f"HEAD {key!r}: the answer has no Content-Length",
            "a proxy in front of the store removes it: set `endpoint-url` to the store itself",
        )
    storage_class = short_text(headers.get("x-amz-storage-class", ""), MAX_CLASS)
    shelved = storage_class in ARCHIVES or "x-amz-archive-status" in headers
    restored = 'ongoing-request="false"' in headers.get("x-amz-restore", "")
    return ObjectInfo(
        key=key,
        size=size_in(headers["Content-Length"]) if size is None else size,
        etag=xml.quoted_etag(headers.get("ETag", "")),
        last_modified=_http_date(headers.get("Last-Modified", "")),
        storage_class=storage_class,
        archived=shelved and not restored,
    )


def size_in(text: str) -> int:
    """An object's size, from a header.

    Raises:
        IntegrityError: it is not a size.

    """
    try:
        return whole_number(text)
    except ValueError as exc:
        raise IntegrityError(f"the answer's size: {exc}", "check `endpoint-url`") from exc


def conditions(*, if_none_match: bool = False, if_match: str | None = None) -> dict[str, str]:
    """The headers of a conditional write."""
    return {
        **({"If-None-Match": "*"} if if_none_match else {}),
        **({"If-Match": if_match} if if_match else {}),
    }


def version_of(what: str, answer: Mapping[str, str]) -> str:
    """The ETag in the answer to a write.

    Raises:
        IntegrityError: there is none, so the answer is not S3's.

    """
    etag = answer.get("ETag", "")
    if not etag:
        raise IntegrityError(
            f"{what}: the answer has no ETag: it is unknown whether the object was stored",
            "check that `endpoint-url` is an S3 endpoint, not a proxy's page",
        )
    return xml.quoted_etag(etag)


def stored(what: str, checksums: Mapping[str, str]) -> Check:
    """For the answer to a write: it has an ETag, and the checksums that were sent, if it has any.

    checksums: by header name.
    """

    def check(_status: int, answer: Mapping[str, str], _body: Buffer) -> None:
        version_of(what, answer)
        for name, sent in checksums.items():
            if answer.get(name) not in (None, "", sent):
                raise IntegrityError(
                    f"{what}: the store's checksum is {shown(answer[name])}, expected {sent}",
                    "the data was corrupted in transit; check memory and network of this node",
                )

    return check


def _http_date(text: str) -> float:
    parsed = parsedate_tz(text) if text else None
    try:
        return sensible(calendar.timegm(parsed[:9])) if parsed else 0.0  # HTTP dates are GMT
    except (ValueError, OverflowError):
        return 0.0
