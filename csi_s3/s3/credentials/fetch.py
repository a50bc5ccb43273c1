"""One small HTTP exchange, on a connection of its own: STS and metadata services.

They are asked once an hour, so nothing is kept open between; none is trusted to answer briefly.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from csi_s3 import __version__
from csi_s3.s3 import faults

ANSWER_BYTES = 1 << 20

LOST = (aiohttp.ClientError, TimeoutError, OSError, ValueError)  # ValueError: no URL


def why(exc: Exception) -> str:
    """What one of LOST means, for a message."""
    if isinstance(exc, TimeoutError):
        return "nothing came in time"
    if isinstance(exc, aiohttp.ClientHttpProxyError):  # its own text has the proxy's password
        return f"the proxy refuses: {exc.status} {exc.message}"
    return f"{type(exc).__name__}: {faults.words(exc)}"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


async def fetch(
    method: str,
    url: str,
    *,
    within_s: float,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    proxy: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Reply:
    """Send once and read the answer; redirects are not followed.

    Raises:
        One of LOST: no answer within within_s, or one that is too long.

    """
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=tls or True, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=within_s),
        ) as session,
        session.request(
            method,
            URL(url),
            headers={"User-Agent": f"csi-s3/{__version__}", **(headers or {})},
            data=form,
            allow_redirects=False,
            proxy=proxy,
        ) as response,
    ):
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > ANSWER_BYTES:
                raise aiohttp.ClientPayloadError(f"more than {ANSWER_BYTES} bytes")
        return Reply(response.status, response.headers, bytes(body))
