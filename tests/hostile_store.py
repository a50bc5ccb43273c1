"""A store that answers one kind of request with whatever bytes an attack sends, and others rightly.

Raw TCP on loopback, because no HTTP library sends what the attacks do.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

DATA = b"data"
ETAG = b'"8d777f385d3dfec8815d20f7496026dc"'  # of DATA
KEYS = b'{"AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "secret", "Token": "token"}'
_STS = b"".join(
    b"<%b>%b</%b>" % (name, text, name)
    for name, text in (
        (b"AccessKeyId", b"AKIAEXAMPLE"),
        (b"SecretAccessKey", b"secret"),
        (b"SessionToken", b"token"),
        (b"Expiration", b"2099-01-01T00:00:00Z"),
    )
)
_ENTRY = b"<Contents><Key>k</Key><Size>4</Size><ETag>%b</ETag></Contents>" % ETAG
# kind, pattern of "METHOD TARGET", headers, body: the first that matches.
RIGHT = (
    ("STS", "POST /sts", b"", b"<R><Credentials>%b</Credentials></R>" % _STS),
    ("AGENT", "GET /agent", b"", KEYS),
    ("IMDS", "PUT /imds/latest/api/token", b"", b"session"),
    ("IMDS", "GET /imds/.*/$", b"", b"role\n"),
    ("IMDS", "GET /imds/", b"", KEYS),
    ("LIST", "GET .*list-type=2", b"", b"<ListBucketResult>%b</ListBucketResult>" % _ENTRY),
    ("GET-TAGS", "GET .*tagging", b"", b"<Tagging><TagSet/></Tagging>"),
    ("HEAD", "HEAD ", b"ETag: %b\r\nx-amz-tagging-count: 1\r\n" % ETAG, DATA),
    ("GET", "GET ", b"ETag: %b\r\nContent-Range: bytes 0-3/4\r\n" % ETAG, DATA),
    ("PART-COPY", "PUT .*partNumber.*\ncopy", b"", b"<R><ETag>%b</ETag></R>" % ETAG),
    ("PART", "PUT .*partNumber", b"ETag: %b\r\n" % ETAG, b""),
    ("COPY", "PUT .*\ncopy", b"", b"<R><ETag>%b</ETag></R>" % ETAG),
    ("PUT", "PUT ", b"ETag: %b\r\n" % ETAG, b""),
    ("CREATE-UPLOAD", "POST .*uploads", b"", b"<R><UploadId>U</UploadId></R>"),
    ("COMPLETE", "POST .*uploadId", b"", b"<R><ETag>%b</ETag></R>" % ETAG),
    ("DELETE-MANY", "POST .*delete", b"", b"<DeleteResult/>"),
    ("ABORT", "DELETE .*uploadId", b"", b""),
    ("DELETE", "DELETE ", b"", b""),
)
KINDS = tuple(dict.fromkeys(kind for kind, *_ in RIGHT))

Attack = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class HostileStore:
    """attack: answers requests of the kinds in `attacked`.

    asked, heads: the kind and the head of each request.
    """

    endpoint: str = ""
    attack: Attack | None = None
    attacked: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # asyncio's server logs a cancelled task, so it just ends

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if size := re.search(r"(?i)\r\ncontent-length: (\d+)", head):
            await reader.readexactly(int(size[1]))
        is_copy = "\ncopy" if "x-amz-copy-source:" in head.lower() else ""
        line = head.partition(" HTTP/")[0] + is_copy
        kind, headers, body = next(
            (kind, headers, body)
            for kind, pattern, headers, body in RIGHT
            if re.match(pattern, line, re.DOTALL)
        )
        self.asked.append(kind)
        self.heads.append(head)
        if self.attack is not None and kind in self.attacked:
            await self.attack(writer)
            return False
        status = b"206 Partial Content" if kind == "GET" else b"200 OK"
        length = b"Content-Length: %d\r\n" % len(body)
        shown = b"" if kind == "HEAD" else body
        writer.write(b"HTTP/1.1 %b\r\n%b%b\r\n%b" % (status, headers, length, shown))
        await writer.drain()
        return True


@asynccontextmanager
async def hostile_store(tls: ssl.SSLContext | None = None) -> AsyncIterator[HostileStore]:
    store = HostileStore()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        await store.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    store.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield store
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)  # the transports close in the loop's next turn
