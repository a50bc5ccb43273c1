"""Signed requests over one aiohttp session: deadlines, retries, region, valid credentials.

Measured against aiobotocore's client: four times the requests per CPU second. aiohttp's own retry
of idempotent methods is off: it would repeat a conditional PUT unnoticed, and the second is 412.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeAlias

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from lxml import etree
from typing_extensions import override

from csi_s3.aio import back_off
from csi_s3.config import environment
from csi_s3.errors import CredentialsError, IntegrityError, OutOfMemoryError, VolumeError
from csi_s3.s3 import dialects, faults, xml
from csi_s3.s3.answer_body import XML_BYTES, AnswerTooLongError, read_body
from csi_s3.s3.answer_texts import clean_headers
from csi_s3.s3.credentials.refresh import AccessKeys, RefreshableCredentials
from csi_s3.s3.endpoint import Endpoint
from csi_s3.s3.endpoint_guard import AddressGuard
from csi_s3.s3.faults import Fault, RequestContext
from csi_s3.s3.signing import Request, exact, payload_hash, signed_headers, url_of
from csi_s3.s3.store import Buffer

log = logging.getLogger(__name__)

CONNECTIONS = 64
LONG_ANSWERS = 1
SLOWEST_BODY = 128 << 10  # bytes/s
SLOWEST_STORE = 8 << 20  # bytes/s, copies inside the store
SEND_BYTES = 256 << 10
READ_BUFFER_BYTES = 512 << 10
THREAD_FROM_BYTES = 1 << 20  # more than this is hashed, or parsed, in another thread
FIRST_PAUSE_S = 0.1

# Called with the prefix of a LIST, else None. Entered for each request, with all its attempts. An
# error that is raised inside, or passed to the yielded call, is the outcome; else it is a success.
Watch: TypeAlias = Callable[[str | None], AbstractContextManager[Callable[[VolumeError], object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDeadlines:
    """connect_s: with TLS. total_s: of one attempt, plus the time for bytes at the lowest rates."""

    connect_s: float = 10.0
    total_s: float = 60.0


_LOST = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One attempt, for metrics and tests. status: 0 if there was no answer."""

    kind: str
    status: int
    seconds: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The last answer. fault, error: what S3 refused; None for a success.

    root: of the body, if the request has `answered_with`.
    maybe_done: an earlier attempt, whose answer was lost, may have taken effect.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray
    fault: Fault | None = None
    error: VolumeError | None = None
    root: etree._Element | None = None
    maybe_done: bool = False

    @property
    def code(self) -> str:
        """S3's error code; "" for a success."""
        return self.fault.code if self.fault else ""


@dataclass(slots=True)
class _Attempts:
    """The attempts of one `send` so far."""

    failures: int = 0
    maybe_done: bool = False
    was_moved: bool = False
    was_renewed: bool = False


class Http:
    """The connections of one bucket.

    Lifetime: made inside a running loop; `close` when nothing is under way. Concurrency: any task
    may `send`; the endpoint changes only between awaits. Cancellation: a cancelled `send` closes
    its connection; whether the request took effect is unknown.
    headers: sent with every request. long_answers: is held for an answer of more than XML_BYTES,
        while there is something of it. guard: opens the sockets, unless a proxy is used.
    """

    def __init__(
        self,
        *,
        bucket: str,
        endpoint: Endpoint,
        identity: RefreshableCredentials | None,
        headers: Mapping[str, str],
        move: Callable[[Endpoint, str], Endpoint],
        tls: ssl.SSLContext | None,
        user_agent: str,
        max_attempts: int,
        observe: Callable[[RequestRecord], None] | None = None,
        watch: Watch | None = None,
        pause: Callable[[float], Awaitable[object]],
        deadlines: HttpDeadlines | None = None,
        guard: AddressGuard | None = None,
        allow_token_over_http: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self.dialect = endpoint.dialect  # of the host, then of the answers
        self.has_versions = False  # an answer had the version id of an object
        self._bucket, self._identity, self._move = bucket, identity, move
        self._headers = headers
        self._deadlines = deadlines or HttpDeadlines()
        self._max_attempts, self._observe, self._pause = max_attempts, observe, pause
        self._watch = watch or (lambda _: nullcontext(lambda _: None))
        self._proxy = environment.proxy_for(endpoint.url)
        self._guard = None if self._proxy else guard
        self._allow_token_over_http = allow_token_over_http
        self.long_answers = asyncio.Semaphore(LONG_ANSWERS)
        self.has_long_pages = False  # of listings: they are asked for in this way at once
        self._free = asyncio.Semaphore(CONNECTIONS)  # waiting for one is outside all deadlines
        self._own_headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=CONNECTIONS,
                ssl=tls or True,
                socket_factory=None if self._guard is None else self._guard.open,
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER_BYTES,
        )
        self._session._retry_connection = False  # noqa: SLF001 - see the module's docstring

    @override
    def __repr__(self) -> str:
        return f"<Http {self.endpoint.url} {self.endpoint.region}>"

    async def close(self) -> None:
        await self._session.close()

    async def done(self, request: Request) -> Response:
        answer = await self.send(request)
        try:
            if answer.error is not None:
                raise answer.error
            return answer
        finally:
            del answer  # the error's traceback holds this frame: a cycle, left to the collector

    def error(self, request: Request, fault: Fault) -> VolumeError:
        return faults.to_error(fault, self._context(request))

    async def send(self, request: Request) -> Response:
        """Send until there is an answer that another attempt would not change.

        Raises:
            StoreUnavailableError, StoreTimeoutError: no answer in max_attempts attempts.
            IntegrityError: the answer to the last of them was malformed.
            CredentialsError: credentials cannot be refreshed, or may not be sent there.
            BadOptionError: the endpoint leads to an address that volumes may not use.
            OutOfMemoryError: there is no memory for the answer.

        """
        too_long: AnswerTooLongError | None = None
        with self._watch(request.listed) as refused:
            try:
                answer = await self._send(request)
            except MemoryError as exc:
                raise OutOfMemoryError(
                    f"{self._context(request)}: this process has no memory for the answer",
                    "raise the mounter's memory limit, or serve fewer volumes",
                ) from exc
            except AnswerTooLongError as exc:
                if request.most_bytes > XML_BYTES:
                    raise
                too_long = exc.again()  # no failure of the bucket: it may be asked with more room
            else:
                if answer.error is not None:
                    refused(answer.error)
        if too_long is not None:
            raise too_long
        return answer

    async def _send(self, request: Request) -> Response:
        request = replace(request, headers={**self._headers, **request.headers})
        attempts = _Attempts()
        while True:
            endpoint = self.endpoint
            keys = await self._identity.keys() if self._identity else None
            self._check_token(request, endpoint, keys)
            try:
                answer = await self._attempt(request, endpoint, keys)
            except (*_LOST, IntegrityError) as exc:
                await self._lost(request, attempts, exc)
                continue
            if self._guard is not None:
                self._guard.take_refusal()  # of another address of the same name
            fault = answer.fault
            if fault is None:
                break
            if fault.is_retryable and attempts.failures + 1 < self._max_attempts:
                attempts.failures += 1
                attempts.maybe_done |= not fault.is_without_effect
                await back_off(attempts.failures, self._pause, first_s=FIRST_PAUSE_S)
            elif not await self._redirect_or_renew(fault, attempts, endpoint, keys):
                break
        error = None if fault is None else self.error(request, fault)
        return replace(answer, error=error, maybe_done=attempts.maybe_done)

    async def _lost(self, request: Request, attempts: _Attempts, exc: Exception) -> None:
        """Wait for the next attempt, after no answer or a malformed one.

        Raises:
            VolumeError: this was the last attempt, or the volume may not use the address.

        """
        if self._guard is not None and (refusal := self._guard.take_refusal()) is not None:
            raise refusal from exc
        attempts.failures += 1
        attempts.maybe_done |= not isinstance(exc, aiohttp.ClientConnectorError)
        is_final = isinstance(exc, AnswerTooLongError) or faults.is_untrusted(exc)
        if attempts.failures >= self._max_attempts or is_final:
            if isinstance(exc, IntegrityError):
                raise exc
            raise faults.from_connection(exc, self._context(request)) from exc
        is_stale = isinstance(exc, aiohttp.ServerDisconnectedError) and attempts.failures == 1
        if not is_stale:
            await back_off(attempts.failures, self._pause, first_s=FIRST_PAUSE_S)

    async def _redirect_or_renew(
        self, fault: Fault, attempts: _Attempts, endpoint: Endpoint, keys: AccessKeys | None
    ) -> bool:
        """Switch to another region or other keys, once each; whether to send again."""
        if fault.names_region and not attempts.was_moved and fault.region != endpoint.region:
            attempts.was_moved = True
            if self.endpoint is endpoint:
                self.endpoint = self._move(endpoint, fault.region)
                self._proxy = environment.proxy_for(self.endpoint.url)
                log.info("bucket %s is in %s, not %s", self._bucket, fault.region, endpoint.region)
            return True
        if fault.may_reject_keys and self._identity and keys and not attempts.was_renewed:
            attempts.was_renewed = True
            return await self._identity.renew(keys, unknown=fault.rejects_keys)
        return False

    async def _attempt(
        self, request: Request, endpoint: Endpoint, keys: AccessKeys | None
    ) -> Response:
        size = len(request.body)
        async with self._free:
            if keys is not None and size >= THREAD_FROM_BYTES:
                payload = await asyncio.to_thread(payload_hash, request, endpoint)
            else:
                payload = payload_hash(request, endpoint)
            url = url_of(request, endpoint)
            headers = signed_headers(request, endpoint, url, keys=keys, payload=payload)
            started, status, down = time.monotonic(), 0, 0
            try:
                async with (
                    asyncio.timeout(self._total_s(request)),
                    self._session.request(
                        request.method,
                        exact(url),
                        headers={**headers, **self._own_headers},
                        data=_Body(request.body, request.quiet_s) if size else None,
                        allow_redirects=False,
                        proxy=self._proxy,
                        timeout=aiohttp.ClientTimeout(
                            total=None,
                            sock_connect=self._deadlines.connect_s,
                            sock_read=request.quiet_s,
                        ),
                    ) as response,
                ):
                    status = response.status
                    body = await read_body(
                        response,
                        kind=request.kind,
                        object_bytes=request.answer_bytes,
                        most_bytes=request.most_bytes,
                    )
                    down = len(body)
            finally:
                if self._observe is not None:
                    seconds = time.monotonic() - started
                    self._observe(
                        RequestRecord(
                            kind=request.kind,
                            status=status,
                            seconds=seconds,
                            bytes_up=size,
                            bytes_down=down,
                        )
                    )
        answered = clean_headers(response.headers)
        self.dialect = dialects.of_answer(self.dialect, answered.get("Server", ""))
        self.has_versions |= "x-amz-version-id" in answered
        if request.kind != "GET" and len(body) >= THREAD_FROM_BYTES:
            fault, root = await asyncio.to_thread(_parsed, request, status, answered, body)
        else:
            fault, root = _parsed(request, status, answered, body)
        if fault is None and request.check is not None:
            request.check(status, answered, body)
        return Response(status=status, headers=answered, body=body, fault=fault, root=root)

    def _check_token(self, request: Request, endpoint: Endpoint, keys: AccessKeys | None) -> None:
        is_clear = keys is not None and keys.token and endpoint.url.startswith("http:")
        if is_clear and not self._allow_token_over_http:
            raise CredentialsError(
                f"{self._context(request)}: a session token is not sent to {endpoint.url} without"
                " TLS, where it could be read on the way",
                "use https:// (for a private certificate authority set the value s3.caBundle), or"
                " allow it by the value s3.allowTokenOverHttp",
            )

    def _total_s(self, request: Request) -> float:
        passing = len(request.body) + request.answer_bytes
        work_s = request.heavy_bytes / SLOWEST_STORE
        return self._deadlines.total_s + passing / SLOWEST_BODY + work_s

    def _context(self, request: Request) -> RequestContext:
        return RequestContext(
            kind=request.kind,
            bucket=self._bucket,
            key=request.key or request.listed or "",
            endpoint=self.endpoint.url,
            region=self.endpoint.region,
            signed_by=self._identity.source if self._identity else "none, anonymous",
        )


def _parsed(
    request: Request, status: int, headers: Mapping[str, str], body: bytes | bytearray
) -> tuple[Fault | None, etree._Element | None]:
    """The refusal in an answer, or the root of the expected body."""
    if status >= 300:  # noqa: PLR2004
        return faults.read(status, headers, body), None
    is_data = request.kind == "GET"  # an object's bytes
    root = None if is_data or not body else xml.parse(body)
    if root is not None and xml.name(root) == "Error":
        return faults.read_late(status, headers, body), None
    if request.answered_with:
        elements = () if root is None else (root, *root)
        if not any(xml.name(e) == request.answered_with for e in elements):
            return faults.read_late(status, headers, body), None
    return None, root


class _Body(aiohttp.Payload):
    """A request's body, sent in pieces, each of which must be written within quiet_s.

    aiohttp's own payload for bytes passes 8 MiB to the transport at once, and measures no progress
    while it waits.
    """

    _autoclose = True

    def __init__(self, data: Buffer, quiet_s: float) -> None:
        super().__init__(data)
        self._data, self._size, self._quiet_s = memoryview(data), len(data), quiet_s

    @override
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._data.tobytes().decode(encoding, errors)

    @override
    async def write(self, writer: AbstractStreamWriter) -> None:
        for start in range(0, len(self._data), SEND_BYTES):
            async with asyncio.timeout(self._quiet_s):
                await writer.write(self._data[start : start + SEND_BYTES])
