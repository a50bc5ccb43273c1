"""Requests through a proxy: which one, and that its password stays between us and it."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from csi_s3.errors import StoreUnavailableError
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.dialects import COMPATIBLE
from csi_s3.s3.endpoint import Endpoint
from csi_s3.s3.http import Http
from csi_s3.s3.signing import Request
from tests.contract.conftest import at_once


@asynccontextmanager
async def proxy(answer: bytes):
    asked = []

    async def serve(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answer + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_a_proxy_that_refuses_is_named_without_its_password(aws_keys, s3):
    async with proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\n") as (place, asked):
        aws_keys.setenv("HTTPS_PROXY", f"http://me:hushhush@{place}")
        config = s3.config(endpoint_url="https://s3.example.com", max_attempts=2)
        async with open_bucket(config, pause=at_once) as bucket:
            with pytest.raises(StoreUnavailableError) as caught:
                await bucket.list_page("")
    assert asked[0].startswith("CONNECT s3.example.com:443")
    assert "Proxy-Authorization: Basic" in asked[0]
    assert "the proxy refuses to connect to https://s3.example.com/bkt: 407" in caught.value.what
    assert "HTTPS_PROXY" in caught.value.hint
    assert "hushhush" not in str(caught.value)


async def test_a_bucket_that_moved_has_the_proxy_of_its_new_endpoint(aws_keys, s3):
    """A private end point in NO_PROXY is reached directly, also when a redirect named it."""
    near = Endpoint(
        url="http://near.example.com", region="a", service="s3", custom=True, dialect=COMPATIBLE
    )
    moved = b"HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: b\r\n"
    async with proxy(moved) as (place, asked):
        aws_keys.setenv("HTTP_PROXY", f"http://{place}")
        aws_keys.setenv("NO_PROXY", "127.0.0.1")
        http = Http(
            bucket="bkt",
            endpoint=near,
            identity=None,
            headers={},
            move=lambda old, region: replace(old, url=s3.endpoint, region=region),
            tls=None,
            user_agent="",
            max_attempts=1,
            pause=at_once,
        )
        try:
            answer = await http.send(Request(kind="GET", method="GET", key="k"))
        finally:
            await http.close()
    assert asked[0].startswith("GET http://near.example.com/k")
    assert answer.status == 404
    assert [seen.path for seen in s3.seen] == ["/k"]
