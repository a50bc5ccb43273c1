"""The credentials of a bucket, valid for as long as its mount lives.

Credentials come from the first of several sources that has them (`chain`). Those that expire are
fetched again before that, from the same source; after a refusal by S3 all sources are asked again.
botocore's own refresh was rejected: it begins 15 minutes before the end, so that keys of 15 minutes
(the shortest that STS gives) are fetched at every request, and every request asks a source that is
down.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, Self

from typing_extensions import override

from csi_s3.errors import CredentialsError

log = logging.getLogger(__name__)

SOURCE_WITHIN_S = 60.0  # the whole chain, STS and metadata services included
RENEW_BEFORE = timedelta(minutes=15)  # but not before the last quarter of short-lived ones
TRY_AGAIN_S = 30.0  # after a renewal that failed while the old keys are valid
REFUSE_AGAIN_S = 5.0  # for how long all requests share a failure once they have expired
SEARCH_AGAIN_S = 10.0  # between searches that refusals by S3 cause

for _name in ("botocore", "aiobotocore"):  # at DEBUG they log session tokens and STS's answers
    logging.getLogger(_name).setLevel(logging.WARNING)


class Secret(str):
    """A string whose repr is redacted."""

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class AccessKeys:
    """The keys that sign a request, by the names that botocore's signer reads."""

    access_key: str
    secret_key: Secret
    token: Secret | None

    @classmethod
    def from_answer(cls, access_key: object, secret_key: object, token: object) -> Self:
        """Take the keys in a service's answer.

        Raises:
            ValueError: one is no text, or has characters that no key has; the message has none.

        """
        texts = [text for text in (access_key, secret_key, token) if isinstance(text, str) and text]
        if len(texts) != 3 or any(not "!" <= c <= "~" for text in texts for c in text):  # noqa: PLR2004
            raise ValueError("the answer's keys are not printable ASCII")
        return cls(texts[0], Secret(texts[1]), Secret(texts[2]))


@dataclass(frozen=True, slots=True)
class CredentialClock:
    """now: the time of day, by which credentials expire. monotonic_s: for pauses."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic_s: Callable[[], float] = time.monotonic


class CredentialSource(Protocol):
    """One place where credentials may be. What it is made of are its parameters."""

    async def find(self) -> "Credentials | str":
        """Credentials, fetched now; or, for a message, why there are none here.

        Raises:
            CredentialsError: this source is configured, and fails. No other is asked in its place:
                that would be a different identity.

        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Credentials and where they came from. origin: the source, for messages.

    expires: None for those that do not expire, or without a known end.
    """

    keys: AccessKeys
    origin: str
    source: CredentialSource
    expires: datetime | None = None


class CredentialFinder(Protocol):
    """Searches all sources (`chain.CredentialChain`)."""

    async def find(self) -> Credentials:
        """Search from the first.

        Raises:
            CredentialsError: none has any; or the first that is configured fails.

        """

    def newer(self, *, at_once: bool) -> Credentials | None:
        """Keys that have replaced the present ones, if any; cheap, called for each request.

        at_once: look now; else every few seconds.
        """


class RefreshableCredentials:
    """The credentials of one bucket. `open` must have been awaited before `keys`.

    Concurrency: one task renews at a time. The others use the present keys while these are valid,
    else they wait for it and share its result, which may be a failure.
    """

    def __init__(self, finder: CredentialFinder, *, bucket: str, clock: CredentialClock) -> None:
        self._finder, self._bucket, self._clock = finder, bucket, clock
        self._renewing = asyncio.Lock()
        self._current: Credentials | None = None
        self._begin_at: datetime | None = None
        self._not_before = self._no_search_before = 0.0  # of the monotonic clock
        self._failure: CredentialsError | None = None

    @property
    def source(self) -> str:
        """The origin of the credentials, for messages: env, a role, a file."""
        return self._current.origin if self._current else "none"

    async def open(self) -> None:
        """Find credentials.

        Raises:
            CredentialsError: the chain has none, or one of its sources failed.

        """
        try:
            async with asyncio.timeout(SOURCE_WITHIN_S):
                credentials = await self._finder.find()
        except TimeoutError as exc:
            raise self._too_slow() from exc
        self._take(credentials)

    async def keys(self) -> AccessKeys:
        """The present keys.

        Raises:
            CredentialsError: they have expired, and there are no new ones.

        """
        newer = self._finder.newer(at_once=False)
        if newer is not None:
            self._take(newer)
        if self._is_due() and (self._is_expired() or not self._renewing.locked()):
            async with self._renewing:
                if self._is_due():
                    await self._refresh()
        if self._failure is not None and self._is_expired():
            raise self._failure.again()
        return self._present().keys

    async def renew(self, refused: AccessKeys, *, unknown: bool) -> bool:
        """Look for other keys, because S3 refused these; whether there are any.

        unknown: S3 called them expired or unknown, so every source is asked again, once for all
        requests that were refused; else only files are looked at, which takes no request.

        Raises:
            CredentialsError: the source that should have newer ones failed.

        """
        async with self._renewing:
            if self._present().keys != refused:
                return True
            newer = self._finder.newer(at_once=True)
            if newer is not None:
                self._take(newer)
            elif unknown and self._clock.monotonic_s() >= self._no_search_before:
                self._no_search_before = self._clock.monotonic_s() + SEARCH_AGAIN_S
                await self.open()
            return self._present().keys != refused

    def _present(self) -> Credentials:
        if self._current is None:
            raise RuntimeError("RefreshableCredentials.open was not awaited")
        return self._current

    def _take(self, new: Credentials) -> None:
        news = "" if self._current is None else "new "
        until = f", until {new.expires:%Y-%m-%dT%H:%M:%SZ}" if new.expires else ""
        log.info("%scredentials for bucket %s: %s%s", news, self._bucket, new.origin, until)
        self._current, self._failure = new, None
        if new.expires is None:
            self._begin_at = None
            return
        now = self._clock.now()
        self._begin_at = new.expires - min(RENEW_BEFORE, (new.expires - now) / 4)
        # Keys that are already expired: this clock is wrong, or a metadata service has problems and
        # its keys are to be used all the same. S3 decides.
        self._not_before = self._clock.monotonic_s() + TRY_AGAIN_S if self._is_expired() else 0.0

    def _is_due(self) -> bool:
        return (
            self._begin_at is not None
            and self._clock.now() >= self._begin_at
            and self._clock.monotonic_s() >= self._not_before
        )

    def _is_expired(self) -> bool:
        expires = self._present().expires
        return expires is not None and self._clock.now() >= expires

    async def _refresh(self) -> None:
        """Ask the same source again; a failure is stored, for `keys` to raise after the end."""
        result: Credentials | str | CredentialsError
        try:
            async with asyncio.timeout(SOURCE_WITHIN_S):
                result = await self._present().source.find()
        except TimeoutError:
            result = self._too_slow()
        except CredentialsError as exc:
            result = exc.again()
        if isinstance(result, str):
            result = CredentialsError(
                f"credentials ({self.source}) are no longer available: {result}"
            )
        if isinstance(result, Credentials):
            self._take(result)
            return
        is_expired = self._is_expired()
        pause_s = REFUSE_AGAIN_S if is_expired else TRY_AGAIN_S
        self._failure, self._not_before = result, self._clock.monotonic_s() + pause_s
        if not is_expired:
            log.warning("credentials end soon and cannot be renewed yet: %s", result)

    def _too_slow(self) -> CredentialsError:
        return CredentialsError(
            f"AWS credentials for bucket {self._bucket!r}: no answer in {SOURCE_WITHIN_S:.0f} s",
            "check that this node can reach STS or the metadata service (network policy, proxy)",
        )
