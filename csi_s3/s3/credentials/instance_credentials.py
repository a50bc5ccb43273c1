"""Credentials from a service beside the pod: EKS Pod Identity's agent, EC2's instance metadata.

Both answer JSON over plain HTTP on link-local addresses, and never through a proxy. aiobotocore's
fetchers were rejected: they ask for instance metadata through HTTP_PROXY, do not say why there is
no answer, and fall back to the unprotected version 1 of the protocol.
"""

import asyncio
import contextlib
import ipaddress
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from typing_extensions import override

from csi_s3.errors import CredentialsError
from csi_s3.s3.answer_texts import CODE_CHARS, short_text
from csi_s3.s3.credentials import fetch
from csi_s3.s3.credentials.refresh import (
    AccessKeys,
    CredentialClock,
    Credentials,
    CredentialSource,
    Secret,
)
from csi_s3.s3.credentials.static_keys import printable

ATTEMPTS = 2
WITHIN_S = 2.0  # one attempt
_POD_IDENTITY = (
    "check the Pod Identity association of the driver's namespace and service account, that its"
    " role trusts pods.eks.amazonaws.com with sts:AssumeRole and sts:TagSession, and that"
    " eks-pod-identity-agent runs on this node"
)
_EKS = frozenset({"169.254.170.23", "fd00:ec2::23"})
_AGENTS = frozenset({"169.254.170.2", "localhost"}) | _EKS
_TOKEN, _ROLES = "/latest/api/token", "/latest/meta-data/iam/security-credentials/"
_ROLE_NAME = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
HOP_LIMIT = (
    "the instance's metadata hop limit of 1 blocks pods: raise it to 2, or set"
    " mounter.hostNetwork=true in the chart"
)


class ContainerCredentials(CredentialSource):
    """An agent's URL, and the token for it: what token_file holds at the time, else token."""

    def __init__(
        self,
        url: str,
        *,
        token_file: Path | None = None,
        token: str | None = None,
        within_s: float = WITHIN_S,
        pause: fetch.Pause = asyncio.sleep,
    ) -> None:
        self._url, self._token_file, self._token = url, token_file, Secret(token or "")
        self._fetch = partial(fetch.fetch, attempts=ATTEMPTS, within_s=within_s, pause=pause)

    @override
    async def find(self) -> Credentials | str:
        url = self._url
        if not _is_agent(url):
            raise CredentialsError(
                f"AWS_CONTAINER_CREDENTIALS_FULL_URI {url!r} is neither https nor an agent's",
                "expected https, a loopback address, or http://169.254.170.23/v1/credentials",
            )
        token = self._authorization()
        if not token and urlsplit(url).hostname in _EKS:
            return f"the agent at {url} requires a token, and EKS gave this pod none"
        headers = {"Accept": "application/json", **({"Authorization": token} if token else {})}
        try:
            reply = await self._fetch("GET", url, headers=headers)
        except fetch.LOST as exc:
            raise CredentialsError(
                f"no answer from the credentials agent at {url}: {fetch.why(exc)}", _POD_IDENTITY
            ) from exc
        credentials = _credentials(reply, origin=f"container agent {url}", source=self)
        if credentials is None:
            text = _reason(reply)
            text = text.replace(token, "***") if token else text
            raise CredentialsError(
                f"the credentials agent at {url} returned none: HTTP {reply.status}: {text}",
                _POD_IDENTITY,
            )
        return credentials

    def _authorization(self) -> str:
        if self._token_file is None:  # "Basic ..." has a blank
            token = self._token
            return token if token.isprintable() else printable(token, "the container's token")
        try:
            return printable(self._token_file.read_text(errors="replace"), str(self._token_file))
        except OSError as exc:
            raise CredentialsError(
                f"the Pod Identity token {self._token_file} cannot be read: {exc.strerror}",
                _POD_IDENTITY,
            ) from exc


class InstanceCredentials(CredentialSource):
    """EC2's instance profile, by version 2 of the metadata protocol (a session token first)."""

    def __init__(
        self,
        base: str,
        clock: CredentialClock,
        *,
        within_s: float = WITHIN_S,
        pause: fetch.Pause = asyncio.sleep,
    ) -> None:
        self._base, self._clock = base.rstrip("/"), clock
        self._fetch = partial(fetch.fetch, attempts=ATTEMPTS, within_s=within_s, pause=pause)

    @override
    async def find(self) -> Credentials | str:
        try:
            return await self._find()
        except fetch.LOST as exc:
            reason = f"{self._base} does not answer ({fetch.why(exc)})"
            return f"{reason}: not an EC2 instance, or {HOP_LIMIT}"

    async def _find(self) -> Credentials | str:
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
        reply = await self._fetch("PUT", self._base + _TOKEN, headers=ttl)
        if reply.status != 200:  # noqa: PLR2004
            return f"{self._base} refuses a session: HTTP {reply.status}"
        session = {"X-aws-ec2-metadata-token": printable(_text(reply.body), "the metadata token")}
        reply = await self._fetch("GET", self._base + _ROLES, headers=session)
        lines = _text(reply.body).split()
        if reply.status != 200 or not lines or not _ROLE_NAME.fullmatch(lines[0]):  # noqa: PLR2004
            return f"this instance has no instance profile (HTTP {reply.status})"
        url = self._base + _ROLES + quote(lines[0])
        reply = await self._fetch("GET", url, headers=session)
        origin = f"instance profile, role {lines[0]}"
        credentials = _credentials(reply, origin=origin, source=self)
        if credentials is None:
            raise CredentialsError(
                f"{origin}: HTTP {reply.status}: {_reason(reply)}",
                "check that the role exists and that it trusts ec2.amazonaws.com",
            )
        if credentials.expires is None:
            return credentials
        # When the service itself has problems, it returns expired keys that are to be used:
        # https://docs.aws.amazon.com/sdkref/latest/guide/feature-static-credentials.html
        least = self._clock.now() + timedelta(minutes=10)
        return replace(credentials, expires=max(credentials.expires, least))


def _is_agent(url: str) -> bool:
    """Whether the token may be sent there: the SDKs' rule."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host in _AGENTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _credentials(
    reply: fetch.Reply, *, origin: str, source: CredentialSource
) -> Credentials | None:
    try:
        answer: Any = json.loads(reply.body)
        keys = AccessKeys.from_answer(
            answer["AccessKeyId"], answer["SecretAccessKey"], answer["Token"]
        )
        ends = answer.get("Expiration")
        expires = datetime.fromisoformat(ends) if ends else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if reply.status != 200:  # noqa: PLR2004
        return None
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=UTC)
    return Credentials(keys=keys, origin=origin, source=source, expires=expires)


def _reason(reply: fetch.Reply) -> str:
    """The text of a refusal; of anything else no text, which may be another service's secret.

    EC2 refuses with 200 and a `Code`.
    """
    if reply.status >= 400:  # noqa: PLR2004
        return _text(reply.body)
    with contextlib.suppress(KeyError, TypeError, ValueError, RecursionError):
        return short_text(str(json.loads(reply.body)["Code"]), CODE_CHARS)
    kind = short_text(reply.headers.get("Content-Type", "no content type"), CODE_CHARS)
    return f"{kind}, {len(reply.body)} bytes"


def _text(body: bytes | bytearray) -> str:
    """The body of an answer, for a message."""
    text = body[:300].decode("utf-8", "replace").strip()
    if "SecretAccessKey" in text:
        return "an answer that has a secret key, but not all of the credentials"
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
