"""Small HTTP requests, each on a connection of its own, to STS and metadata services.

They are sent about once an hour, so no connection stays open between; no service is trusted to send
a short answer.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from csi_s3 import __version__
from csi_s3.aio import back_off
from csi_s3.s3 import faults
from csi_s3.s3.answer_body import read_at_most
from csi_s3.s3.answer_texts import CODE_CHARS, clean_headers, short_text

ANSWER_BYTES = 1 << 20
FIRST_PAUSE_S = 0.3

Pause = Callable[[float], Awaitable[object]]
LOST = (aiohttp.ClientError, TimeoutError, OSError, ValueError)  # ValueError: no URL


def why(exc: Exception) -> str:
    """What one of LOST means, for a message."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, aiohttp.ClientHttpProxyError):  # its own text has the proxy's password
        return f"the proxy refuses: {short_text(f'{exc.status} {exc.message}', CODE_CHARS)}"
    return f"{type(exc).__name__}: {faults.text_of(exc)}"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray


async def fetch(
    method: str,
    url: str,
    *,
    attempts: int,
    within_s: float,
    pause: Pause,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    proxy: str | None = None,
    tls: ssl.SSLContext | None = None,
    is_passing: Callable[[Reply], bool] = lambda reply: faults.is_passing(reply.status),
) -> Reply:
    """Send until there is a final answer, or no attempt is left. Redirects are answers.

    within_s: for one attempt. is_passing: whether the next attempt may be answered otherwise.

    Raises:
        One of LOST: the last attempt had no answer, or one that is too long.

    """
    for failures in range(attempts):
        if failures:
            await back_off(failures, pause, first_s=FIRST_PAUSE_S)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=1, ssl=tls or True, force_close=True),
                    auto_decompress=False,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=within_s),
                ) as session,
                session.request(
                    method,
                    URL(url),
                    headers={
                        "User-Agent": f"csi-s3/{__version__}",
                        "Accept-Encoding": "identity",
                        **(headers or {}),
                    },
                    data=form,
                    allow_redirects=False,
                    proxy=proxy,
                ) as response,
            ):
                body = await _read(response)
                reply = Reply(response.status, clean_headers(response.headers), body)
        except LOST as exc:
            if failures + 1 == attempts or faults.is_untrusted(exc):
                raise
            continue
        if not is_passing(reply):
            break
    return reply


async def _read(response: aiohttp.ClientResponse) -> bytes | bytearray:
    body = await read_at_most(response, ANSWER_BYTES)
    if len(body) > ANSWER_BYTES:
        raise aiohttp.ClientPayloadError(f"more than {ANSWER_BYTES} bytes")
    return body
