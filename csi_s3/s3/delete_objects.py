"""DeleteObject, and DeleteObjects: many keys in an XML body, which cannot hold every key.

Each key goes with the ETag that its object must have. AWS compares since September 2025; MinIO,
versitygw and moto accept the ETag and ignore it; a store that refuses it is sent none.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice

from lxml import etree

from csi_s3.errors import (
    NotFoundError,
    NotImplementedByStoreError,
    PreconditionFailedError,
    StoreRefusedError,
    VolumeError,
)
from csi_s3.s3 import faults, get_object, xml
from csi_s3.s3.answer_body import PAGE_BYTES, AnswerTooLongError
from csi_s3.s3.http import Http
from csi_s3.s3.response_headers import conditions
from csi_s3.s3.signing import Request
from csi_s3.s3.store import Undeleted

BATCH = 1000
# A separate DELETE decides: the version is another one, or its ETag is only written differently.
_UNCERTAIN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NotImplemented"})


class Deletion:
    """compares: until a batch with ETags was refused; then batches go without."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._compares = True

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """As `store.ObjectStore.delete`."""
        request = Request(
            kind="DELETE", method="DELETE", key=key, headers=conditions(if_match=if_match)
        )
        try:
            await self._http.done(request)
        except NotFoundError:
            return
        except PreconditionFailedError as exc:
            raise get_object.changed(key, if_match) from exc
        except NotImplementedByStoreError:
            if if_match is None:
                raise
            await self.delete(key)  # this store cannot compare

    async def delete_many(self, objects: Iterable[tuple[str, str]]) -> Undeleted:
        """As `store.ObjectStore.delete_many`; keys that XML cannot hold go one by one."""
        remain = Undeleted()
        rest = iter(objects)
        while batch := dict(islice(rest, BATCH)):
            together = {k: etag for k, etag in batch.items() if xml.is_xml_text(k)}
            alone = [key for key in batch if key not in together]
            refused = await self._batch(together) if together else {}
            if not refused.keys() <= together.keys():
                # Which key is meant? XML parsers change the line ends in a key, for example.
                refused, alone = {}, list(batch)
            for key, fault in refused.items():
                if fault.is_retryable or fault.code in _UNCERTAIN:
                    alone.append(key)
                else:
                    remain.add(key, self._http.error(_request(key), fault))
            for key in alone:
                try:
                    await self.delete(key, if_match=batch[key] or None)
                except VolumeError as exc:
                    remain.add(key, exc)
        return remain

    async def _batch(self, objects: Mapping[str, str]) -> dict[str, faults.Fault]:
        if not self._compares:
            return await self._send(dict.fromkeys(objects, ""))
        try:
            return await self._send(objects)
        except (NotImplementedByStoreError, StoreRefusedError):
            if not any(objects.values()):
                raise
            failed = await self._send(dict.fromkeys(objects, ""))
            self._compares = False
            return failed

    async def _send(self, objects: Mapping[str, str]) -> dict[str, faults.Fault]:
        """The faults of the keys that the store has not deleted."""
        items = "".join(
            f"<Object>{_element('Key', key)}{_element('ETag', etag)}</Object>"
            for key, etag in objects.items()
        )
        body = f"<Delete><Quiet>true</Quiet>{items}</Delete>".encode()
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        headers = {"Content-Type": "application/xml", "Content-MD5": base64.b64encode(md5).decode()}
        request = _request("", headers, body)
        try:
            return _refused((await self._http.done(request)).root)
        except AnswerTooLongError:  # many long keys were refused
            async with self._http.long_answers:
                return _refused(
                    (await self._http.done(replace(request, most_bytes=PAGE_BYTES))).root
                )


def _refused(root: etree._Element | None) -> dict[str, faults.Fault]:
    refused = {}
    for child in root if root is not None else ():
        if xml.name(child) == "Error":
            error = xml.fields(child)
            if error.get("Code") != "NoSuchKey":
                refused[error.get("Key", "")] = faults.from_fields(200, {}, error)
    return refused


def _request(key: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Request:
    """key: for messages about one key; a batch is a request to the bucket."""
    return Request(
        kind="DELETE-MANY",
        method="POST",
        key=key,
        query={"delete": ""},
        headers=headers or {},
        body=body,
        answered_with="DeleteResult",
    )


def _element(name: str, text: str) -> str:
    return f"<{name}>{xml.escape(text)}</{name}>" if text else ""
