"""DeleteObjects: many keys in one request, in an XML body that cannot hold every key.

Each key goes with the ETag that its object must have. AWS compares since September 2025; MinIO,
versitygw and moto take it and do not look; a store that takes no such element is asked without.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from itertools import islice

from csi_s3.errors import NotImplementedByStoreError, StoreRefusedError, VolumeError
from csi_s3.s3 import faults, xml
from csi_s3.s3.http import Http
from csi_s3.s3.request_headers import RequestHeaders
from csi_s3.s3.signing import Request
from csi_s3.s3.store import ObjectStore

BATCH = 1000
# A DELETE of its own settles whether it is another version, or only its ETag spelled otherwise.
_UNCERTAIN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NotImplemented"})


class Deletion:
    """compares: until a batch with ETags was refused; then batches go without."""

    def __init__(self, store: ObjectStore, http: Http, headers: RequestHeaders) -> None:
        self._store, self._http, self._headers = store, http, headers
        self._compares = True

    async def delete_many(self, objects: Iterable[tuple[str, str]]) -> Mapping[str, VolumeError]:
        """As `store.ObjectStore.delete_many`; keys that XML cannot hold go one by one."""
        remain: dict[str, VolumeError] = {}
        rest = iter(objects)
        while batch := dict(islice(rest, BATCH)):
            together = {k: etag for k, etag in batch.items() if xml.is_xml_text(k)}
            alone = [key for key in batch if key not in together]
            refused = await self._batch(together) if together else {}
            if not refused.keys() <= together.keys():
                # Which key is meant? A line end in it, e.g., is another one after parsing.
                refused, alone = {}, list(batch)
            for key, fault in refused.items():
                if fault.is_retryable or fault.code in _UNCERTAIN:
                    alone.append(key)
                else:
                    remain[key] = self._http.error(_request(key), fault)
            for key in alone:
                try:
                    await self._store.delete(key, if_match=batch[key] or None)
                except VolumeError as exc:
                    remain[key] = exc
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
        """What the store says of the keys that it has not deleted."""
        items = "".join(
            f"<Object>{_element('Key', key)}{_element('ETag', etag)}</Object>"
            for key, etag in objects.items()
        )
        body = f"<Delete><Quiet>true</Quiet>{items}</Delete>".encode()
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        headers = {
            **self._headers.every,
            "Content-Type": "application/xml",
            "Content-MD5": base64.b64encode(md5).decode(),
        }
        root = (await self._http.done(_request("", headers, body))).root
        failed = {}
        for child in root if root is not None else ():
            if xml.name(child) == "Error":
                said = xml.fields(child)
                if said.get("Code") != "NoSuchKey":
                    failed[said.get("Key", "")] = _fault(said)
        return failed


def _request(key: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Request:
    """key: that a message is about; a batch is a request to the bucket."""
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


def _fault(said: Mapping[str, str]) -> faults.Fault:
    return faults.Fault(
        status=200,
        code=said.get("Code", ""),
        message=said.get("Message", ""),
        request_id="",
        region="",
        condition="",
    )
