"""Where credentials are looked for, in which order.

A Secret's files, the environment, web identity, the shared files, the container's agent, the
instance profile. This is the SDKs' order with the files before it; of aiobotocore's own chain only
the providers of the shared files are used (static keys, assumed roles, SSO, processes): what their
refresh costs, 14 MB for an STS client, is paid by those who have such a profile.
"""

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
# KeyError, TypeError, ValueError, RuntimeError: what the library makes of answers it did not expect
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

# Each source with what gives it: in the chart, or to a program.
_FILES = "Secret's files (value awsAccessSecret)"
_ENVIRONMENT = "environment (value mounter.env)"
_WEB = "web identity (value controller.serviceAccount.annotations, eks.amazonaws.com/role-arn)"
_SHARED = "shared AWS files (option profile)"
_CONTAINER = "EKS Pod Identity (an association with the driver's service account)"
_INSTANCE = "instance metadata"


class CredentialChain:
    """The sources of one bucket. Concurrency: its user asks for one thing at a time."""

    def __init__(
        self, sources: Mapping[str, CredentialSource], *, files: KeyFiles | None, bucket: str
    ) -> None:
        self._sources, self._files, self._bucket = sources, files, bucket

    async def find(self) -> Credentials:
        """Ask one after the other.

        Raises:
            CredentialsError: none has any, and what each said; or one that is configured fails.

        """
        looked: list[str] = []
        for name, source in self._sources.items():
            found = await source.find()
            if isinstance(found, Credentials):
                return found
            looked.append(f"{name}: {found}")
        raise CredentialsError(
            f"no AWS credentials found for bucket {self._bucket!r}",
            f"looked at: {'; '.join(looked)}. For a public bucket use `no-sign-request`",
        )

    def newer(self, *, at_once: bool) -> Credentials | None:
        """As `CredentialFinder.newer`: the Secret's files, which win over whatever is in use."""
        return None if self._files is None else self._files.newer(at_once=at_once)


def chain_for(
    config: BucketConfig,
    session: AioSession,
    *,
    credentials_dir: Path | None,
    clock: CredentialClock,
) -> CredentialChain:
    """The sources for this bucket; nothing is asked yet. A profile that is named wins over keys."""
    files = None if credentials_dir is None else KeyFiles(credentials_dir, clock)
    sources: dict[str, CredentialSource] = {}
    if config.profile:
        files = None
    else:
        if files is not None:
            sources[_FILES] = files
        sources[_ENVIRONMENT] = EnvironmentKeys()
        sources[_WEB] = WebIdentity(
            lambda: sts_url(config, session),
            session=f"csi-s3-{config.bucket}",
            ca_bundle=ca_bundle(config, session),
        )
    sources[_SHARED] = SharedFiles(lambda: session_for(config), sts_region(config, session))
    sources[_CONTAINER] = ContainerCredentials()
    sources[_INSTANCE] = InstanceCredentials(_metadata_url(session), clock)
    return CredentialChain(sources, files=files, bucket=config.bucket)


def warm() -> None:
    """Load what every worker's search needs: once, in the zygote."""
    if environment.aws("WEB_IDENTITY_TOKEN_FILE"):
        load_rules("sts")


def ca_bundle(config: BucketConfig, session: AioSession) -> str | None:
    """The PEM file whose authorities are trusted besides the system's."""
    return config.ca_bundle or session.get_config_variable("ca_bundle")


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


class SharedFiles(CredentialSource):
    """~/.aws/config and credentials, whatever they hold, as aiobotocore reads them."""

    def __init__(self, new_session: Callable[[], AioSession], region: str) -> None:
        self._new_session, self._region = new_session, region

    @override
    async def find(self) -> Credentials | str:
        session = self._new_session()
        session.set_config_variable("region", self._region)  # where a role's STS is asked
        chain: Any = session.get_component("credential_provider")
        chain.providers = [p for p in chain.providers if p.METHOD in _FILE_PROVIDERS]
        try:
            held = await chain.load_credentials()
            keys = await held.get_frozen_credentials() if held is not None else None
        except _FAILED as exc:
            raise CredentialsError(
                f"AWS credentials by the shared files: {type(exc).__name__}: {exc}",
                "check the profile, the role's trust policy, and that STS can be reached",
            ) from exc
        if keys is None:
            profile = session.get_config_variable("profile") or "default"
            return f"no keys for profile {profile!r}"
        return Credentials(
            keys=AccessKeys(keys.access_key, Secret(keys.secret_key), _token(keys.token)),
            origin=str(held.method),
            source=self,
            expires=getattr(held, "_expiry_time", None),
        )


def _token(token: str | None) -> Secret | None:
    return Secret(token) if token else None


def _metadata_url(session: AioSession) -> str:
    own = session.get_config_variable("ec2_metadata_service_endpoint")
    try:
        ipv6 = resolve_imds_endpoint_mode(session) == "ipv6"
    except BotoCoreError as exc:
        raise BadOptionError(f"AWS configuration: {exc}", "expected IPv4 or IPv6") from exc
    return str(own or (METADATA_BASE_URL_IPv6 if ipv6 else METADATA_BASE_URL))
