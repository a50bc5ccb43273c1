"""A role assumed with the token that the cluster gives its pods (EKS: IRSA).

One unsigned form is sent to STS:
https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html.
aiobotocore's provider was rejected: it builds an STS client, 14 MB of private memory and 85 ms of
CPU in each worker (this: 1.2 MB, 3 ms), and sends to the region of AWS_DEFAULT_REGION where EKS
sets AWS_REGION.
"""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typing_extensions import override

from csi_s3.errors import CredentialsError
from csi_s3.s3 import faults, xml
from csi_s3.s3.answer_texts import CODE_CHARS, MESSAGE_CHARS, short_text
from csi_s3.s3.credentials import fetch
from csi_s3.s3.credentials.refresh import AccessKeys, Credentials, CredentialSource
from csi_s3.s3.credentials.static_keys import printable
from csi_s3.tls import tls_context

ATTEMPTS = 3
WITHIN_S = 10.0  # one attempt
_PASSING = frozenset(
    {"IDPCommunicationError", "InternalError", "InternalFailure", "RequestThrottled", "Throttling"}
)
_CLAIMS = ("sub", "aud", "iss")
_ANNOTATE = (
    "annotate the driver's service account with the role"
    " (value controller.serviceAccount.annotations.eks\\.amazonaws\\.com/role-arn)"
    " and restart its pods"
)


class WebIdentity(CredentialSource):
    """AssumeRoleWithWebIdentity, with the token that token_file holds at the time.

    role: its ARN; None is an error. url: of STS, called only when a role is assumed. session: the
    name of the role's session in the account's audit log. proxy_for: the proxy for a URL.
    """

    def __init__(
        self,
        token_file: Path,
        role: str | None,
        *,
        url: Callable[[], str],
        session: str,
        ca_bundle: str | None = None,
        proxy_for: Callable[[str], str | None] = lambda _url: None,
        pause: fetch.Pause = asyncio.sleep,
    ) -> None:
        self._token_file, self._role, self._url = token_file, role, url
        self._session = re.sub(r"[^\w+=,.@-]", "-", session, flags=re.ASCII)[:64]
        self._ca_bundle, self._proxy_for, self._pause = ca_bundle, proxy_for, pause

    @override
    async def find(self) -> Credentials | str:
        if self._role is None:
            raise CredentialsError(
                "AWS_WEB_IDENTITY_TOKEN_FILE is set, AWS_ROLE_ARN is not", _ANNOTATE
            )
        return await self._assume(self._role, _read_token(self._token_file))

    async def _assume(self, role: str, token: str) -> Credentials:
        url = self._url()
        try:
            reply = await fetch.fetch(
                "POST",
                url,
                attempts=ATTEMPTS,
                within_s=WITHIN_S,
                pause=self._pause,
                form={
                    "Action": "AssumeRoleWithWebIdentity",
                    "Version": "2011-06-15",
                    "RoleArn": role,
                    "RoleSessionName": self._session,
                    "WebIdentityToken": token,
                },
                proxy=self._proxy_for(url),
                tls=tls_context(self._ca_bundle, url),
                is_passing=_is_passing,
            )
        except fetch.LOST as exc:
            raise CredentialsError(
                f"STS at {url} cannot be reached for role {role}: {fetch.why(exc)}",
                "check that the mounter can reach it (network policy, proxy, CA bundle),"
                " AWS_REGION, and AWS_ENDPOINT_URL_STS (values s3.region, sts.endpointUrl)",
            ) from exc
        credentials = _credentials(reply.body) if reply.status == 200 else None  # noqa: PLR2004
        if credentials is None:
            raise _refused(reply, url, role, token)
        keys, expires = credentials
        return Credentials(
            keys=keys, origin=f"web identity, role {role}", source=self, expires=expires
        )


def _read_token(path: Path) -> str:
    try:
        token = printable(path.read_text(errors="replace"), str(path))
    except OSError as exc:
        raise CredentialsError(
            f"the web identity token {path} cannot be read: {exc.strerror}",
            "the cluster projects it into the driver's pods; its user must be able to read it",
        ) from exc
    if not token:
        raise CredentialsError(f"the web identity token {path} is empty", "restart the pod")
    return token


def _credentials(body: bytes | bytearray) -> tuple[AccessKeys, datetime] | None:
    """The keys in STS's answer, or None if it has none."""
    fields = _below(body, "Credentials")
    try:
        expires = datetime.fromisoformat(fields["Expiration"])
        keys = AccessKeys.from_answer(
            fields["AccessKeyId"], fields["SecretAccessKey"], fields["SessionToken"]
        )
    except (KeyError, ValueError):
        return None
    return keys, expires if expires.tzinfo else expires.replace(tzinfo=UTC)


def _is_passing(reply: fetch.Reply) -> bool:
    return faults.is_passing(reply.status) or _error(reply).get("Code") in _PASSING


def _error(reply: fetch.Reply) -> dict[str, str]:
    return _below(reply.body, "Error")


def _below(body: bytes | bytearray, name: str) -> dict[str, str]:
    """The children of the first element of that name."""
    root = xml.parse(body)
    for element in () if root is None else root.iter("{*}*"):
        if xml.name(element) == name:
            return xml.fields(element)
    return {}


def _refused(reply: fetch.Reply, url: str, role: str, token: str) -> CredentialsError:
    error = _error(reply)
    code = short_text(error.get("Code", ""), CODE_CHARS)
    message = short_text(error.get("Message", "").replace(token, "***"), MESSAGE_CHARS)
    text = ": ".join(filter(None, [code, message])) or "the answer is not STS's"
    request = short_text(reply.headers.get("x-amzn-RequestId", ""), CODE_CHARS)
    where = f"HTTP {reply.status}, {url}"
    what = f"STS refuses role {role}: {text}"
    return CredentialsError(
        f"{what} ({where}, request id {request})" if request else f"{what} ({where})",
        _hint(code, claims(token)),
        public=f"{what} ({where})",
    )


def _hint(code: str, claims_: dict[str, str]) -> str:
    subject = ", ".join(f"{name} = {value}" for name, value in claims_.items()) or "unreadable"
    if code in {"ExpiredToken", "ExpiredTokenException"}:
        return (
            f"the token ({subject}) has expired: the cluster renews its file; if it did not,"
            " restart the driver's pod, and check the clock of this node"
        )
    return (
        "check that the role exists, that its trust policy allows sts:AssumeRoleWithWebIdentity to"
        " the cluster's OIDC provider, that IAM has this provider, and that the policy's condition"
        f" sub = system:serviceaccount:NAMESPACE:ACCOUNT is the driver's; the token has: {subject}"
    )


def claims(token: str) -> dict[str, str]:
    """The token's subject, audience and issuer. Not secret, and not verified."""
    payload = token.partition(".")[2].partition(".")[0]
    try:
        decoded: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        return {}
    if not isinstance(decoded, dict):
        return {}
    named = {name: decoded[name] for name in _CLAIMS if name in decoded}
    texts = {k: " ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in named.items()}
    return {k: v[:200] for k, v in texts.items() if v.isprintable()}
