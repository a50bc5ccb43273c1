"""DeleteObjects: many keys in one request, in an XML body that cannot hold every key."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from itertools import islice

from csi_s3.errors import VolumeError
from csi_s3.s3 import answers, faults
from csi_s3.s3.headers import Headers
from csi_s3.s3.http import Http
from csi_s3.s3.signing import Request
from csi_s3.s3.store import ObjectStore

BATCH = 1000


async def delete_many(
    store: ObjectStore, http: Http, headers: Headers, keys: Iterable[str]
) -> Mapping[str, str]:
    """The keys that remain, each with its reason; keys that XML cannot hold go one by one."""
    remain: dict[str, str] = {}
    rest = iter(keys)
    while batch := list(islice(rest, BATCH)):
        alone = [key for key in batch if not answers.is_xml_text(key)]
        together = [key for key in batch if answers.is_xml_text(key)]
        if together:
            refused = await _delete_batch(http, headers, together)
            if not refused.keys() <= set(together):
                # Which key is meant? A line end in it, e.g., is another one after parsing.
                refused, alone = {}, batch
            alone += [key for key, fault in refused.items() if fault.is_retryable]
            remain |= {
                k: f"{f.code}: {f.message}" for k, f in refused.items() if not f.is_retryable
            }
        for key in alone:
            try:
                await store.delete(key)
            except VolumeError as exc:
                remain[key] = str(exc)
    return remain


async def _delete_batch(http: Http, headers: Headers, keys: list[str]) -> dict[str, faults.Fault]:
    objects = "".join(f"<Object><Key>{answers.escape(key)}</Key></Object>" for key in keys)
    body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
    md5 = hashlib.md5(body, usedforsecurity=False).digest()
    request = Request(
        kind="DELETE-MANY",
        method="POST",
        query={"delete": ""},
        headers={
            **headers.every,
            "Content-Type": "application/xml",
            "Content-MD5": base64.b64encode(md5).decode(),
        },
        body=body,
        answered_with="DeleteResult",
    )
    root = answers.parse((await http.done(request)).xml)
    failed = {}
    for child in root if root is not None else ():
        if answers.name(child) == "Error":
            said = answers.fields(child)
            if said.get("Code") != "NoSuchKey":
                failed[said.get("Key", "")] = _fault(said)
    return failed


def _fault(said: Mapping[str, str]) -> faults.Fault:
    return faults.Fault(
        status=200,
        code=said.get("Code", ""),
        message=said.get("Message", ""),
        request_id="",
        region="",
        condition="",
    )
