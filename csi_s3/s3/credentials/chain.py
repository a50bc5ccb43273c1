"""Where credentials are looked for, in which order.

`chain_for` reads the environment, through `config.environment`, and gives each source what it
needs. Only the session for shared files reads AWS_PROFILE and AWS_CONFIG_FILE by itself.

A Secret's files, the environment, web identity, the shared files, the container's agent, the
instance profile. This is the SDKs' order with the files before it. Of aiobotocore's own chain only
the providers of the shared files are used (static keys, assumed roles, SSO, processes): only
volumes with such a profile pay for their refresh, 14 MB for an STS client.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound
from botocore.utils import METADATA_BASE_URL, METADATA_BASE_URL_IPv6, resolve_imds_endpoint_mode
from typing_extensions import override

from csi_s3.config import environment
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import BadOptionError, CredentialsError
from csi_s3.s3.credentials.fetch import Pause
from csi_s3.s3.credentials.instance_credentials import ContainerCredentials, InstanceCredentials
from csi_s3.s3.credentials.refresh import (
    AccessKeys,
    CredentialClock,
    Credentials,
    CredentialSource,
    Secret,
)
from csi_s3.s3.credentials.static_keys import EnvironmentKeys, KeyFiles
from csi_s3.s3.credentials.web_identity import WebIdentity
from csi_s3.s3.endpoint import load_rules, sts_region, sts_url

_FILE_PROVIDERS = frozenset(
    {
        "assume-role",
        "assume-role-with-web-identity",
        "sso",
        "shared-credentials-file",
        "login",
        "custom-process",
        "config-file",
    }
)
# KeyError, TypeError, ValueError, RuntimeError: the library's reactions to unexpected answers
_FAILED = (
    BotoCoreError,
    ClientError,
    aiohttp.ClientError,
    OSError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
)

# Each source with the setting that it comes from: in the chart, or of a program.
_FILES = "Secret's files (value awsAccessSecret)"
_ENVIRONMENT = "environment (value mounter.env)"
_WEB = "web identity (value controller.serviceAccount.annotations, eks.amazonaws.com/role-arn)"
_SHARED = "shared AWS files (option profile)"
_CONTAINER = "EKS Pod Identity (an association with the driver's service account)"
_INSTANCE = "instance metadata"

_ECS = "http://169.254.170.2"


class CredentialChain:
    """The sources of one bucket, by name; a text says why a source is not configured.

    Concurrency: its user makes one call at a time.
    """

    def __init__(
        self, sources: Mapping[str, CredentialSource | str], *, files: KeyFiles | None, bucket: str
    ) -> None:
        self._sources, self._files, self._bucket = sources, files, bucket

    async def find(self) -> Credentials:
        """Ask one after the other.

        Raises:
            CredentialsError: none has any, and why; or one that is configured fails.

        """
        looked: list[str] = []
        for name, source in self._sources.items():
            result = source if isinstance(source, str) else await source.find()
            if isinstance(result, Credentials):
                return result
            looked.append(f"{name}: {result}")
        raise CredentialsError(
            f"no AWS credentials found for bucket {self._bucket!r}",
            f"looked at: {'; '.join(looked)}. For a public bucket use `no-sign-request`",
        )

    def newer(self, *, at_once: bool) -> Credentials | None:
        """As `CredentialFinder.newer`: the Secret's files, which win over all other sources."""
        return None if self._files is None else self._files.newer(at_once=at_once)


def chain_for(
    config: BucketConfig,
    session: AioSession,
    *,
    credentials_dir: Path | None,
    clock: CredentialClock,
    pause: Pause = asyncio.sleep,
) -> CredentialChain:
    """The sources for this bucket; nothing is asked yet. A profile that is named wins over keys."""
    files = None
    sources: dict[str, CredentialSource | str] = {}
    if not config.profile:
        if credentials_dir is not None:
            secret = environment.credentials_secret()
            sources[_FILES] = files = KeyFiles(credentials_dir, clock, secret=secret)
        sources[_ENVIRONMENT] = EnvironmentKeys(
            environment.aws("ACCESS_KEY_ID"),
            environment.aws("SECRET_ACCESS_KEY"),
            environment.aws("SESSION_TOKEN"),
        )
        sources[_WEB] = _web_identity(config, session, pause)
    sources[_SHARED] = SharedFiles(lambda: session_for(config), sts_region(config, session))
    sources[_CONTAINER] = _container(pause)
    sources[_INSTANCE] = (
        "switched off by AWS_EC2_METADATA_DISABLED"
        if (environment.aws("EC2_METADATA_DISABLED") or "").lower() == "true"
        else InstanceCredentials(_metadata_url(session), clock, pause=pause)
    )
    return CredentialChain(sources, files=files, bucket=config.bucket)


def _web_identity(
    config: BucketConfig, session: AioSession, pause: Pause
) -> CredentialSource | str:
    token_file = environment.aws("WEB_IDENTITY_TOKEN_FILE")
    if token_file is None:
        return "AWS_WEB_IDENTITY_TOKEN_FILE is not set"
    return WebIdentity(
        Path(token_file),
        environment.aws("ROLE_ARN"),
        url=lambda: sts_url(config, session),
        session=environment.aws("ROLE_SESSION_NAME") or f"csi-s3-{config.bucket}",
        ca_bundle=ca_bundle(config, session),
        proxy_for=environment.proxy_for,
        pause=pause,
    )


def _container(pause: Pause) -> CredentialSource | str:
    relative = environment.aws("CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = _ECS + relative if relative else environment.aws("CONTAINER_CREDENTIALS_FULL_URI")
    if url is None:
        return "AWS_CONTAINER_CREDENTIALS_FULL_URI is not set"
    token_file = environment.aws("CONTAINER_AUTHORIZATION_TOKEN_FILE")
    return ContainerCredentials(
        url,
        token_file=None if token_file is None else Path(token_file),
        token=environment.aws("CONTAINER_AUTHORIZATION_TOKEN"),
        pause=pause,
    )


def warm() -> None:
    """Load the rules that every worker's search needs: once, in the zygote."""
    if environment.aws("WEB_IDENTITY_TOKEN_FILE"):
        load_rules("sts")


def ca_bundle(config: BucketConfig, session: AioSession) -> str | None:
    """The PEM file whose certificate authorities are trusted besides the system's."""
    return config.ca_bundle or session.get_config_variable("ca_bundle")


def session_for(config: BucketConfig) -> AioSession:
    """A new session: it reads environment and shared files again, and caches them.

    Raises:
        BadOptionError: no such profile, or the shared files cannot be parsed.

    """
    session = AioSession(profile=config.profile)
    try:
        session.get_scoped_config()
    except ProfileNotFound as exc:
        raise BadOptionError(
            f"profile: {exc}", "check the option `profile`, AWS_PROFILE and ~/.aws/config"
        ) from exc
    except BotoCoreError as exc:
        raise BadOptionError(
            f"AWS configuration: {exc}", "correct the file that the message names"
        ) from exc
    return session


class SharedFiles(CredentialSource):
    """~/.aws/config and ~/.aws/credentials, with all that aiobotocore supports in them."""

    def __init__(self, new_session: Callable[[], AioSession], region: str) -> None:
        self._new_session, self._region = new_session, region

    @override
    async def find(self) -> Credentials | str:
        session = self._new_session()
        session.set_config_variable("region", self._region)  # of the STS for roles
        chain: Any = session.get_component("credential_provider")
        chain.providers = [p for p in chain.providers if p.METHOD in _FILE_PROVIDERS]
        try:
            loaded = await chain.load_credentials()
            keys = await loaded.get_frozen_credentials() if loaded is not None else None
        except _FAILED as exc:
            raise CredentialsError(
                f"AWS credentials from the shared files: {type(exc).__name__}: {exc}",
                "check the profile, the role's trust policy, and that STS can be reached",
            ) from exc
        if keys is None:
            profile = session.get_config_variable("profile") or "default"
            return f"no keys for profile {profile!r}"
        token = Secret(keys.token) if keys.token else None
        return Credentials(
            keys=AccessKeys(keys.access_key, Secret(keys.secret_key), token),
            origin=str(loaded.method),
            source=self,
            expires=getattr(loaded, "_expiry_time", None),
        )


def _metadata_url(session: AioSession) -> str:
    own = session.get_config_variable("ec2_metadata_service_endpoint")
    try:
        ipv6 = resolve_imds_endpoint_mode(session) == "ipv6"
    except BotoCoreError as exc:
        raise BadOptionError(f"AWS configuration: {exc}", "expected IPv4 or IPv6") from exc
    return str(own or (METADATA_BASE_URL_IPv6 if ipv6 else METADATA_BASE_URL))
