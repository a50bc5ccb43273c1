"""A small S3 on loopback that answers by script: for what no server can be made to do on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from csi_s3.config.volume import BucketConfig


@dataclass
class Reply:
    """One answer. cut: send that many bytes of the body, then break the connection.

    hang: send nothing until the test is over. lost: act, then break the connection.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    hang: bool = False
    lost: bool = False


@dataclass
class Seen:
    method: str
    path: str  # raw, with the query
    headers: Mapping[str, str]
    body: bytes


Script = Callable[[Seen], Reply | None]


@dataclass
class ScriptedS3:
    """replies: used up in order; then `rule`; then 404 NoSuchKey. seen: every request."""

    endpoint: str = ""
    replies: list[Reply] = field(default_factory=list)
    rule: Script | None = None
    seen: list[Seen] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def config(self, **changes: object) -> BucketConfig:
        return BucketConfig(
            **{"bucket": "bkt", "endpoint_url": self.endpoint, "max_attempts": 3, **changes}
        )

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(request.method, request.raw_path, request.headers, await request.content.read())
        self.seen.append(seen)
        reply = self.replies.pop(0) if self.replies else self.rule and self.rule(seen)
        reply = reply or error(404, "NoSuchKey", "The specified key does not exist.")
        if reply.hang:
            await self.over.wait()
        if reply.lost:
            request.transport.abort()
            return web.Response()
        if reply.cut is not None:
            response = web.StreamResponse(status=reply.status, headers=reply.headers)
            response.content_length = len(reply.body)
            await response.prepare(request)
            await response.write(reply.body[: reply.cut])
            request.transport.abort()
            return response
        if request.method == "HEAD":
            return web.Response(status=reply.status, headers=reply.headers)
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)


def error(status: int, code: str, message: str = "", **fields: str) -> Reply:
    more = "".join(f"<{k}>{v}</{k}>" for k, v in fields.items())
    body = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Reply(status, body.encode(), {"x-amz-request-id": "REQ1"})


def listing(*keys: str) -> Reply:
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag>"
        "<LastModified>2026-01-02T03:04:05.678Z</LastModified></Contents>"
        for key in keys
    )
    body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    return Reply(200, body.encode())


@asynccontextmanager
async def scripted_s3(ssl_context=None) -> AsyncIterator[ScriptedS3]:
    s3 = ScriptedS3()
    runner = web.ServerRunner(web.Server(s3.answer), shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        scheme = "http" if ssl_context is None else "https"
        s3.endpoint = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        yield s3
    finally:
        s3.over.set()
        await runner.cleanup()
