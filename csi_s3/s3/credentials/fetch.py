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

ANSWER_BYTES = 1 << 20

LOST = (aiohttp.ClientError, TimeoutError, OSError, ValueError)  # ValueError: no URL


def why(exc: Exception) -> str:
    """What one of LOST means, for a message."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, aiohttp.ClientHttpProxyError):  # its own text has the proxy's password
        return f"the proxy refuses: {exc.status} {exc.message}"
    return f"{type(exc).__name__}: {faults.words(exc)}"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_passing(self) -> bool:
        """Whether another attempt may be answered otherwise, by the status alone."""
        return faults.is_passing(self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How often a request is sent. within_s: for one attempt. first_pause_s: doubles after each."""

    count: int
    within_s: float
    first_pause_s: float
    pause: Callable[[float], Awaitable[object]]


async def fetch(
    method: str,
    url: str,
    *,
    attempts: Attempts,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    proxy: str | None = None,
    tls: ssl.SSLContext | None = None,
    is_passing: Callable[[Reply], bool] = lambda reply: reply.is_passing,
) -> Reply:
    """Send until there is an answer that is final, or no attempt is left; redirects are answers.

    is_passing: whether an answer may be another one next time.

    Raises:
        One of LOST: the last attempt had no answer, or one that is too long.

    """
    for failures in range(attempts.count):
        if failures:
            await back_off(failures, attempts.pause, first_s=attempts.first_pause_s)
        try:
            reply = await _send(
                method,
                url,
                within_s=attempts.within_s,
                headers=headers,
                form=form,
                proxy=proxy,
                tls=tls,
            )
        except LOST as exc:
            if failures + 1 == attempts.count or faults.is_untrusted(exc):
                raise
            continue
        if not is_passing(reply):
            break
    return reply


async def _send(
    method: str,
    url: str,
    *,
    within_s: float,
    headers: Mapping[str, str] | None,
    form: Mapping[str, str] | None,
    proxy: str | None,
    tls: ssl.SSLContext | None,
) -> Reply:
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
