"""Credentials from a service beside the pod: EKS Pod Identity's agent, EC2's instance metadata.

Both answer JSON over plain HTTP on link-local addresses, and never through a proxy. aiobotocore's
fetchers were rejected: they send instance metadata through HTTP_PROXY, keep to themselves why there
is no answer, and fall back to the unprotected version 1 of the protocol.
"""

import ipaddress
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from typing_extensions import override

from csi_s3.config import environment
from csi_s3.errors import CredentialsError
from csi_s3.s3 import faults
from csi_s3.s3.credentials import fetch
from csi_s3.s3.credentials.refresh import (
    AccessKeys,
    CredentialClock,
    Credentials,
    CredentialSource,
    Secret,
)
from csi_s3.s3.credentials.static_keys import printable

WITHIN_S = 2.0
ATTEMPTS = 2
_POD_IDENTITY = (
    "check the Pod Identity association of the driver's namespace and service account, that its"
    " role trusts pods.eks.amazonaws.com with sts:AssumeRole and sts:TagSession, and that"
    " eks-pod-identity-agent runs on this node"
)
_ECS = "http://169.254.170.2"
_EKS = frozenset({"169.254.170.23", "fd00:ec2::23"})
_AGENTS = frozenset({"169.254.170.2", "localhost"}) | _EKS
_TOKEN, _ROLES = "/latest/api/token", "/latest/meta-data/iam/security-credentials/"
HOP_LIMIT = (
    "the instance's metadata hop limit of 1 keeps it from pods: raise it to 2, or set"
    " mounter.hostNetwork=true in the chart"
)


class ContainerCredentials(CredentialSource):
    """AWS_CONTAINER_CREDENTIALS_FULL_URI with a token from a file, which is read anew each time."""

    @override
    async def find(self) -> Credentials | str:
        url = environment.aws("CONTAINER_CREDENTIALS_FULL_URI")
        relative = environment.aws("CONTAINER_CREDENTIALS_RELATIVE_URI")
        if relative:
            url = _ECS + relative
        if not url:
            return "AWS_CONTAINER_CREDENTIALS_FULL_URI is not set"
        if not _is_agent(url):
            raise CredentialsError(
                f"AWS_CONTAINER_CREDENTIALS_FULL_URI {url!r} is neither https nor an agent's",
                "expected https, a loopback address, or http://169.254.170.23/v1/credentials",
            )
        token = _authorization()
        if not token and urlsplit(url).hostname in _EKS:
            return f"the agent at {url} wants a token, and EKS gave this pod none"
        headers = {"Accept": "application/json", **({"Authorization": token} if token else {})}
        try:
            reply = await _ask("GET", url, headers)
        except fetch.LOST as exc:
            raise CredentialsError(
                f"no answer of the credentials agent at {url}: {fetch.why(exc)}", _POD_IDENTITY
            ) from exc
        found = _credentials(reply)
        if found is None:
            said = _text(reply.body)
            said = said.replace(token, "***") if token else said
            raise CredentialsError(
                f"the credentials agent at {url} gives none: HTTP {reply.status}: {said}",
                _POD_IDENTITY,
            )
        keys, expires = found
        return Credentials(keys=keys, origin=f"container agent {url}", source=self, expires=expires)


class InstanceCredentials(CredentialSource):
    """EC2's instance profile, by version 2 of the metadata protocol (a session token first)."""

    def __init__(self, base: str, clock: CredentialClock) -> None:
        self._base, self._clock = base.rstrip("/"), clock

    @override
    async def find(self) -> Credentials | str:
        if (environment.aws("EC2_METADATA_DISABLED") or "").lower() == "true":
            return "switched off by AWS_EC2_METADATA_DISABLED"
        try:
            return await self._find()
        except fetch.LOST as exc:
            return (
                f"{self._base} does not answer ({fetch.why(exc)}): no EC2 instance, or {HOP_LIMIT}"
            )

    async def _find(self) -> Credentials | str:
        reply = await _ask(
            "PUT", self._base + _TOKEN, {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
        )
        if reply.status != 200:  # noqa: PLR2004
            return f"{self._base} refuses a session: HTTP {reply.status}"
        session = {"X-aws-ec2-metadata-token": printable(_text(reply.body), "the metadata token")}
        reply = await _ask("GET", self._base + _ROLES, session)
        lines = _text(reply.body).split()
        if reply.status != 200 or not lines:  # noqa: PLR2004
            return f"this instance has no instance profile (HTTP {reply.status})"
        reply = await _ask("GET", self._base + _ROLES + quote(lines[0]), session)
        found = _credentials(reply)
        if found is None:
            raise CredentialsError(
                f"instance profile, role {lines[0]}: HTTP {reply.status}: {_text(reply.body)}",
                "check that the role exists and that it trusts ec2.amazonaws.com",
            )
        keys, expires = found
        if expires is not None:
            # With trouble of its own it gives keys that have ended, and means them to be used:
            # https://docs.aws.amazon.com/sdkref/latest/guide/feature-static-credentials.html
            expires = max(expires, self._clock.now() + timedelta(minutes=10))
        return Credentials(
            keys=keys, origin=f"instance profile, role {lines[0]}", source=self, expires=expires
        )


async def _ask(method: str, url: str, headers: dict[str, str]) -> fetch.Reply:
    """Ask, and once more where no answer came, or one that may pass."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            reply = await fetch.fetch(method, url, within_s=WITHIN_S, headers=headers)
        except fetch.LOST:
            if attempt == ATTEMPTS:
                raise
            continue
        if not faults.is_passing(reply.status):
            break
    return reply


def _is_agent(url: str) -> bool:
    """Whom the token may be sent to: the SDKs' rule."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host in _AGENTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _authorization() -> str:
    path = environment.aws("CONTAINER_AUTHORIZATION_TOKEN_FILE")
    if not path:
        value = environment.aws("CONTAINER_AUTHORIZATION_TOKEN") or ""  # "Basic ..." has a blank
        return value if value.isprintable() else printable(value, "the container's token")
    try:
        return printable(Path(path).read_text(errors="replace"), path)
    except OSError as exc:
        raise CredentialsError(
            f"the Pod Identity token {path} cannot be read: {exc.strerror}", _POD_IDENTITY
        ) from exc


def _credentials(reply: fetch.Reply) -> tuple[AccessKeys, datetime | None] | None:
    try:
        said: Any = json.loads(reply.body)
        keys = AccessKeys(
            str(said["AccessKeyId"]), Secret(said["SecretAccessKey"]), Secret(said["Token"])
        )
        ends = said.get("Expiration")
        expires = datetime.fromisoformat(ends) if ends else None
    except (KeyError, TypeError, ValueError):
        return None
    if reply.status != 200:  # noqa: PLR2004
        return None
    return keys, expires if expires is None or expires.tzinfo else expires.replace(tzinfo=UTC)


def _text(body: bytes) -> str:
    """What a service says, for a message."""
    text = body[:300].decode("utf-8", "replace").strip()
    if "SecretAccessKey" in text:
        return "an answer that is no credentials, but has a secret key"
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
