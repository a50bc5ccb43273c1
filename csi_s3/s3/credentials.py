"""Who we are to S3: the SDK's default chain, kept fresh.

aiobotocore finds and refreshes credentials (environment, shared files and profile, web identity,
container, instance metadata); its clients are not used, one costs 29 MB private memory.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound
from typing_extensions import override

from csi_s3.config.volume import BucketConfig
from csi_s3.errors import BadOptionError, CredentialsError

SOURCE_WITHIN_S = 60.0  # the whole chain, STS and metadata services included

for _name in ("botocore", "aiobotocore"):  # at DEBUG they log session tokens and STS's answers
    logging.getLogger(_name).setLevel(logging.WARNING)


class Secret(str):
    """A string that shows itself to nobody who asks for its repr."""

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class Keys:
    """What a request is signed with, by the names that botocore's signer reads."""

    access_key: str
    secret_key: Secret
    token: Secret | None


def session_for(config: BucketConfig) -> AioSession:
    """A fresh session: it reads environment and shared files anew, and caches them.

    Raises:
        BadOptionError: no such profile, or the shared files cannot be parsed.

    """
    session = AioSession(profile=config.profile)
    try:
        session.get_scoped_config()
    except ProfileNotFound as exc:
        raise BadOptionError(
            f"profile: {exc}", "check the option `profile` or AWS_PROFILE, and ~/.aws/config"
        ) from exc
    except BotoCoreError as exc:
        raise BadOptionError(f"AWS configuration: {exc}", "correct the file that it names") from exc
    return session


class Identity:
    """The credentials of one bucket. `open` must have been awaited before `keys`.

    Concurrency: one task renews at a time, the others wait for it and use its result.
    """

    def __init__(self, new_session: Callable[[], AioSession], *, bucket: str) -> None:
        self._new_session, self._bucket = new_session, bucket
        self._credentials: Any = None  # aiobotocore is untyped
        self._renewing = asyncio.Lock()

    @property
    def source(self) -> str:
        """Where the credentials came from, in botocore's words (env, iam-role, ...)."""
        return str(getattr(self._credentials, "method", "") or "none")

    async def open(self) -> None:
        """Find credentials.

        Raises:
            CredentialsError: the chain has none, or one of its sources failed.

        """
        try:
            async with asyncio.timeout(SOURCE_WITHIN_S):
                found = await self._new_session().get_credentials()
        except _SOURCE_FAILED as exc:
            raise self._failed(exc) from exc
        if found is None:
            raise CredentialsError(
                f"no AWS credentials found for bucket {self._bucket!r}",
                "give them by environment, ~/.aws/credentials (option `profile`), web identity,"
                " container or instance role; for a public bucket use `no-sign-request`",
            )
        self._credentials = found

    async def keys(self) -> Keys:
        """The present keys, refreshed when they are about to expire.

        Raises:
            CredentialsError: the refresh failed.

        """
        try:
            async with asyncio.timeout(SOURCE_WITHIN_S):
                found = await self._credentials.get_frozen_credentials()
        except _SOURCE_FAILED as exc:
            raise self._failed(exc) from exc
        token = Secret(found.token) if found.token else None
        return Keys(found.access_key, Secret(found.secret_key), token)

    async def renew(self, refused: Keys) -> None:
        """Search the chain again, because S3 called these keys expired; once for all who ask."""
        async with self._renewing:
            if await self.keys() == refused:
                await self.open()

    def _failed(self, exc: Exception) -> CredentialsError:
        return CredentialsError(
            f"AWS credentials for bucket {self._bucket!r}: {type(exc).__name__}: {exc}",
            "check the role's trust policy, the token file, and that STS or the metadata"
            " service can be reached",
        )


_SOURCE_FAILED = (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError)
