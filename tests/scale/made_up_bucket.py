"""An S3 server whose buckets have up to tens of millions of computed keys.

    python -m tests.scale.made_up_bucket PORT '{"big": {"n": 10000000}, ...}'

Every bucket name is the same bucket, and signatures are not checked. The layout, by kind:
big: N files in big/, file i with i % 5000 bytes. tree: {"directories", "files"}: so many files in
each of so many directories of tree/. dirs: N directories in dirs/, one empty file in each. old: N
small files in old/, to be renamed or removed. large: {"bytes"}: one object large/f0000000.

Beside S3 it answers below /_made-up/: GET counts (requests by kind), GET memory (its own, in KiB),
POST rules (a list of `Rule`, in place of the present ones).
"""

import asyncio
import hashlib
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

import uvloop
from aiohttp import web
from lxml import etree

from tests.scale.made_up_bodies import Parts, Slice, body_of
from tests.scale.made_up_keys import Family, Keys, Stored

OWN = "/_made-up/"
NOW = 1_780_000_000
SIZES = 5000
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


@dataclass
class Rule:
    """What happens to requests of a kind for keys that match, after the first `skip` of them.

    hang: no answer until the rules change. Otherwise status and code are the answer. A LIST's key
    is its prefix, a DELETE-MANY's is ""; each key of a DELETE-MANY is also a DELETE.
    """

    kind: str = ""
    key: str = ""
    skip: int = 0
    hang: bool = False
    status: int = 403
    code: str = "AccessDenied"

    def fits(self, kind: str, key: str) -> bool:
        if self.kind not in ("", kind) or not re.search(self.key, key):
            return False
        self.skip -= 1
        return self.skip < 0


def families(layout: dict[str, dict[str, int]]) -> list[Family]:
    made = []
    for name, of in layout.items():
        match name:
            case "big":
                made.append(Family("big/", files=of["n"], size_of=lambda i: i % SIZES))
            case "tree":
                made.append(Family("tree/", **of, size_of=lambda i: i % SIZES))
            case "dirs":
                made.append(Family("dirs/", directories=of["n"], files=1, size_of=lambda _: 0))
            case "old":
                made.append(Family("old/", files=of["n"], size_of=lambda i: i % 10))
            case "large":
                made.append(Family("large/", files=1, size_of=lambda _, s=of["bytes"]: s))
            case _:
                raise ValueError(f"no layout {name!r}")
    return made


class MadeUpBucket:
    """Lifetime: the process. Concurrency: plain code but for requests that a rule lets hang."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._counts: Counter[str] = Counter()
        self._uploads: dict[str, dict[int, tuple[str, object]]] = {}
        self._rules: list[Rule] = []
        self._rules_changed = asyncio.Event()
        self._next_upload = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.startswith(OWN):
            return await self._own(request)
        key = unquote(request.rel_url.raw_path.partition("/")[2].partition("/")[2])
        kind = _kind(request, key)
        self._counts[kind] += 1
        asked = request.query.get("prefix", "") if kind == "LIST" else key
        body = await request.read()
        rule = self._rule_of(kind, asked)
        if rule is not None and not rule.hang:
            return _error(rule.status, rule.code)
        if rule is not None:
            await self._rules_changed.wait()
        return getattr(self, f"_{kind.lower().replace('-', '_')}")(request, key, body)

    def _rule_of(self, kind: str, key: str) -> Rule | None:
        return next((rule for rule in self._rules if rule.fits(kind, key)), None)

    async def _own(self, request: web.Request) -> web.Response:
        match request.path.removeprefix(OWN):
            case "counts":
                return web.json_response(self._counts)
            case "memory":
                status = Path("/proc/self/status").read_text()
                return web.json_response(int(re.search(r"VmHWM:\s+(\d+)", status)[1]))
            case "rules":
                self._rules = [Rule(**rule) for rule in await request.json()]
                self._rules_changed.set()
                self._rules_changed = asyncio.Event()
                return web.json_response(None)
        return web.Response(status=404)

    # --- reading ----------------------------------------------------------------------------------

    def _list(self, request: web.Request, _key: str, _body: bytes) -> web.Response:
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = unquote(query.get("continuation-token", "")) or query.get("start-after", "")
        max_keys = min(1000, int(query.get("max-keys", "1000")))
        objects, prefixes, last = self._keys.page(
            prefix, delimiter=delimiter, after=after, max_keys=max_keys
        )
        contents = "".join(
            f"<Contents><Key>{quote(key)}</Key><LastModified>2026-01-01T00:00:00.000Z"
            f"</LastModified><ETag>&quot;{stored.etag[1:-1]}&quot;</ETag><Size>{stored.size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key, stored in objects
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{quote(p)}</Prefix></CommonPrefixes>" for p in prefixes
        )
        token = f"<NextContinuationToken>{escape(quote(last))}</NextContinuationToken>"
        return _xml(
            f"<ListBucketResult {NAMESPACE}><EncodingType>url</EncodingType>"
            f"<KeyCount>{len(objects) + len(prefixes)}</KeyCount>"
            f"<IsTruncated>{'true' if last else 'false'}</IsTruncated>"
            f"{token if last else ''}{contents}{common}</ListBucketResult>"
        )

    def _head(self, request: web.Request, key: str, _body: bytes) -> web.Response:
        stored = self._keys.find(key)
        if stored is None or _is_other(request, stored):
            return web.Response(status=404 if stored is None else 412)
        return web.Response(headers={**_headers(stored), "Content-Length": str(stored.size)})

    def _get(self, request: web.Request, key: str, _body: bytes) -> web.Response:
        stored = self._keys.find(key)
        if stored is None:
            return _error(404, "NoSuchKey")
        if _is_other(request, stored):
            return _error(412, "PreconditionFailed")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if wanted is None:
            return web.Response(body=stored.body.read(0, stored.size), headers=_headers(stored))
        start, last = int(wanted[1]), int(wanted[2] or stored.size)
        end = min(last + 1, stored.size)
        if start >= end:
            return _error(416, "InvalidRange")
        where = {"Content-Range": f"bytes {start}-{end - 1}/{stored.size}"}
        data = stored.body.read(start, end)
        return web.Response(status=206, body=data, headers={**_headers(stored), **where})

    # --- writing ----------------------------------------------------------------------------------

    def _put(self, request: web.Request, key: str, body: bytes) -> web.Response:
        if (refused := self._refusal(request, key)) is not None:
            return refused
        stored = Stored(body_of(body), _etag(body), NOW)
        self._keys.put(key, stored)
        return web.Response(headers={"ETag": stored.etag})

    def _copy(self, request: web.Request, key: str, _body: bytes) -> web.Response:
        source = self._source(request)
        if isinstance(source, web.Response):
            return source
        if (refused := self._refusal(request, key)) is not None:
            return refused
        self._keys.put(key, Stored(source.body, source.etag, NOW))
        return _copied("CopyObjectResult", source.etag)

    def _delete(self, request: web.Request, key: str, _body: bytes) -> web.Response:
        stored = self._keys.find(key)
        if stored is not None and _is_other(request, stored):
            return _error(412, "PreconditionFailed")
        self._keys.remove(key)
        return web.Response(status=204)

    def _delete_many(self, _request: web.Request, _key: str, body: bytes) -> web.Response:
        errors = []
        for element in etree.fromstring(body).iter("{*}Key"):
            key = element.text or ""
            if (rule := self._rule_of("DELETE", key)) is None:
                self._keys.remove(key)
            else:
                errors.append(
                    f"<Error><Key>{escape(key)}</Key><Code>{rule.code}</Code>"
                    "<Message>made up</Message></Error>"
                )
        return _xml(f"<DeleteResult {NAMESPACE}>{''.join(errors)}</DeleteResult>")

    def _create_upload(self, _request: web.Request, key: str, _body: bytes) -> web.Response:
        self._next_upload += 1
        self._uploads[f"u{self._next_upload}"] = {}
        return _xml(
            f"<InitiateMultipartUploadResult {NAMESPACE}><Key>{escape(quote(key))}</Key>"
            f"<UploadId>u{self._next_upload}</UploadId></InitiateMultipartUploadResult>"
        )

    def _part(self, request: web.Request, _key: str, body: bytes) -> web.Response:
        etag = _etag(body)
        return self._take_part(request, etag, body_of(body)) or web.Response(headers={"ETag": etag})

    def _part_copy(self, request: web.Request, _key: str, _body: bytes) -> web.Response:
        source = self._source(request)
        if isinstance(source, web.Response):
            return source
        wanted = re.fullmatch(
            r"bytes=(\d+)-(\d+)", request.headers.get("x-amz-copy-source-range", "")
        )
        start, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, source.size - 1)
        taken = Slice(source.body, start, last - start + 1)
        etag = _etag(f"{source.etag}{start}-{last}".encode())
        return self._take_part(request, etag, taken) or _copied("CopyPartResult", etag)

    def _take_part(self, request: web.Request, etag: str, body: object) -> web.Response | None:
        upload = self._uploads.get(request.query["uploadId"])
        if upload is None:
            return _error(404, "NoSuchUpload")
        upload[int(request.query["partNumber"])] = (etag, body)
        return None

    def _complete(self, request: web.Request, key: str, body: bytes) -> web.Response:
        upload = self._uploads.get(request.query["uploadId"])
        if upload is None:
            return _error(404, "NoSuchUpload")
        if (refused := self._refusal(request, key)) is not None:
            return refused
        numbers = [int(e.text or "") for e in etree.fromstring(body).iter("{*}PartNumber")]
        if not set(numbers) <= upload.keys():
            return _error(400, "InvalidPart")
        parts = [upload[number] for number in numbers]
        digests = b"".join(bytes.fromhex(etag[1:-1]) for etag, _ in parts)
        etag = f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'
        self._keys.put(key, Stored(Parts([part for _, part in parts]), etag, NOW))
        del self._uploads[request.query["uploadId"]]
        return _copied("CompleteMultipartUploadResult", etag)

    def _abort(self, request: web.Request, _key: str, _body: bytes) -> web.Response:
        known = self._uploads.pop(request.query["uploadId"], None) is not None
        return web.Response(status=204) if known else _error(404, "NoSuchUpload")

    def _source(self, request: web.Request) -> Stored | web.Response:
        """The object that a copy is made of, or what is answered."""
        path = unquote(request.headers["x-amz-copy-source"]).lstrip("/")
        source = self._keys.find(path.partition("/")[2])
        if source is None:
            return _error(404, "NoSuchKey")
        wanted = request.headers.get("x-amz-copy-source-if-match", source.etag)
        return source if wanted == source.etag else _error(412, "PreconditionFailed")

    def _refusal(self, request: web.Request, key: str) -> web.Response | None:
        """The answer to a write whose condition does not hold."""
        present = self._keys.find(key)
        if "If-None-Match" in request.headers and present is not None:
            return _error(412, "PreconditionFailed")
        if "If-Match" in request.headers:
            if present is None:
                return _error(404, "NoSuchKey")
            if _is_other(request, present):
                return _error(412, "PreconditionFailed")
        return None


def _kind(request: web.Request, key: str) -> str:
    """As the product names its requests."""
    query = request.query
    if request.method == "PUT":
        kind = "PART" if "partNumber" in query else "PUT"
        if "x-amz-copy-source" in request.headers:
            return {"PART": "PART-COPY", "PUT": "COPY"}[kind]
        return kind
    if request.method == "POST":
        new = "CREATE-UPLOAD" if "uploads" in query else "COMPLETE"
        return "DELETE-MANY" if "delete" in query else new
    if request.method == "DELETE":
        return "ABORT" if "uploadId" in query else "DELETE"
    return "LIST" if not key else request.method


def _is_other(request: web.Request, stored: Stored) -> bool:
    return request.headers.get("If-Match", stored.etag) not in (stored.etag, "*")


def _headers(stored: Stored) -> dict[str, str]:
    return {
        "ETag": stored.etag,
        "Last-Modified": formatdate(stored.modified, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": "binary/octet-stream",
    }


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _xml(text: str) -> web.Response:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return web.Response(text=head + text, content_type="application/xml")


def _copied(element: str, etag: str) -> web.Response:
    return _xml(
        f"<{element} {NAMESPACE}><LastModified>2026-06-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{etag[1:-1]}&quot;</ETag></{element}>"
    )


def _error(status: int, code: str) -> web.Response:
    text = f"<Error><Code>{code}</Code><Message>made up</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


async def serve(port: int, layout: dict[str, dict[str, int]]) -> None:
    bucket = MadeUpBucket(Keys(families(layout)))
    app = web.Application(client_max_size=1 << 32)
    app.router.add_route("*", "/{path:.*}", bucket.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=512).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), json.loads(sys.argv[2])))
