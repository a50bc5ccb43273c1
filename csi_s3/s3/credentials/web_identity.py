"""A role assumed with the token that the cluster gives its pods (EKS: IRSA).

One unsigned form sent to STS, as
https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html has it.
aiobotocore's provider was rejected: it builds an STS client, 14 MB of private memory and 85 ms of
CPU in each worker (this: 1.2 MB, 3 ms), and sends to the region of AWS_DEFAULT_REGION where EKS
sets AWS_REGION.
"""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typing_extensions import override

from csi_s3.config import environment
from csi_s3.errors import CredentialsError
from csi_s3.s3 import faults, xml
from csi_s3.s3.credentials import fetch
from csi_s3.s3.credentials.refresh import AccessKeys, Credentials, CredentialSource, Secret
from csi_s3.s3.credentials.static_keys import printable
from csi_s3.s3.tls import tls_context

ATTEMPTS = 3
WITHIN_S = 10.0  # one attempt
BACKOFF_S = 0.3
_TRY_AGAIN = frozenset(
    {"IDPCommunicationError", "InternalError", "InternalFailure", "RequestThrottled", "Throttling"}
)
_CLAIMS = ("sub", "aud", "iss")
_ANNOTATE = (
    "annotate the driver's service account with the role"
    " (value controller.serviceAccount.annotations.eks\\.amazonaws\\.com/role-arn)"
    " and start its pods again"
)


class WebIdentity(CredentialSource):
    """AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE; the file is read anew each time.

    url: STS, asked for only if there is a token. session: how the role's session is named in the
    account's audit log, if AWS_ROLE_SESSION_NAME does not say.
    """

    def __init__(
        self,
        url: Callable[[], str],
        *,
        session: str,
        ca_bundle: str | None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._url, self._ca_bundle, self._pause = url, ca_bundle, pause
        self._session = re.sub(r"[^\w+=,.@-]", "-", session, flags=re.ASCII)[:64]

    @override
    async def find(self) -> Credentials | str:
        token_file, role = environment.aws("WEB_IDENTITY_TOKEN_FILE"), environment.aws("ROLE_ARN")
        if not token_file:
            return "AWS_WEB_IDENTITY_TOKEN_FILE is not set"
        if not role:
            raise CredentialsError(
                "AWS_WEB_IDENTITY_TOKEN_FILE is set, AWS_ROLE_ARN is not", _ANNOTATE
            )
        token = _read_token(Path(token_file))
        return await self._assume(role, token)

    async def _assume(self, role: str, token: str) -> Credentials:
        url = self._url()
        form = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": role,
            "RoleSessionName": environment.aws("ROLE_SESSION_NAME") or self._session,
            "WebIdentityToken": token,
        }
        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1:
                await self._pause(BACKOFF_S * 2**attempt)
            try:
                reply = await fetch.fetch(
                    "POST",
                    url,
                    within_s=WITHIN_S,
                    form=form,
                    proxy=environment.proxy_for(url),
                    tls=tls_context(self._ca_bundle, url),
                )
            except fetch.LOST as exc:
                error = _unreachable(url, role, exc)
                if faults.is_untrusted(exc):
                    break
                continue
            found = _credentials(reply.body) if reply.status == 200 else None  # noqa: PLR2004
            if found is not None:
                keys, expires = found
                return Credentials(
                    keys=keys, origin=f"web identity, role {role}", source=self, expires=expires
                )
            code, error = _refused(reply, url, role, token)
            if not faults.is_passing(reply.status) and code not in _TRY_AGAIN:
                break
        raise error


def _read_token(path: Path) -> str:
    try:
        token = printable(path.read_text(errors="replace"), str(path))
    except OSError as exc:
        raise CredentialsError(
            f"the web identity token {path} cannot be read: {exc.strerror}",
            "the cluster projects it into the driver's pods; its user must be able to read it",
        ) from exc
    if not token:
        raise CredentialsError(f"the web identity token {path} is empty", "start the pod again")
    return token


def _credentials(body: bytes) -> tuple[AccessKeys, datetime] | None:
    """What STS gave, or None where this is no such answer."""
    found = _below(body, "Credentials")
    try:
        expires = datetime.fromisoformat(found["Expiration"])
        token = Secret(found["SessionToken"])
        keys = AccessKeys(found["AccessKeyId"], Secret(found["SecretAccessKey"]), token)
    except (KeyError, ValueError):
        return None
    return keys, expires if expires.tzinfo else expires.replace(tzinfo=UTC)


def _below(body: bytes, name: str) -> dict[str, str]:
    """The children of the first element of that name."""
    root = xml.parse(body)
    for element in () if root is None else root.iter("{*}*"):
        if xml.name(element) == name:
            return xml.fields(element)
    return {}


def _unreachable(url: str, role: str, exc: Exception) -> CredentialsError:
    return CredentialsError(
        f"STS at {url} cannot be reached for role {role}: {fetch.why(exc)}",
        "check that the mounter reaches it (network policy, proxy, CA bundle), AWS_REGION, and"
        " AWS_ENDPOINT_URL_STS (values s3.region, sts.endpointUrl)",
    )


def _refused(reply: fetch.Reply, url: str, role: str, token: str) -> tuple[str, CredentialsError]:
    said = _below(reply.body, "Error")
    code = said.get("Code", "")
    text = ": ".join(filter(None, [code, said.get("Message", "")])) or "no answer of STS's"
    request = reply.headers.get("x-amzn-RequestId")
    where = f"HTTP {reply.status}, {url}"
    what = f"STS does not give role {role}: {text.replace(token, '***')}"
    return code, CredentialsError(
        f"{what} ({where}, request id {request})" if request else f"{what} ({where})",
        _hint(code, claims(token)),
        public=f"{what} ({where})",
    )


def _hint(code: str, claimed: dict[str, str]) -> str:
    who = ", ".join(f"{name} = {value}" for name, value in claimed.items()) or "nothing readable"
    if code in {"ExpiredToken", "ExpiredTokenException"}:
        return (
            f"the token ({who}) has ended: the cluster renews its file; if it did not, start the"
            " driver's pod again, and check the clock of this node"
        )
    return (
        "check that the role exists, that its trust policy allows sts:AssumeRoleWithWebIdentity to"
        " the cluster's OIDC provider, that IAM has this provider, and that the policy's condition"
        f" sub = system:serviceaccount:NAMESPACE:ACCOUNT is the driver's; the token says {who}"
    )


def claims(token: str) -> dict[str, str]:
    """Whom the token is for: subject, audience, issuer. Not secret, and not verified."""
    payload = token.partition(".")[2].partition(".")[0]
    try:
        said: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        return {}
    if not isinstance(said, dict):
        return {}
    found = {name: said[name] for name in _CLAIMS if name in said}
    texts = {k: " ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in found.items()}
    return {k: v[:200] for k, v in texts.items() if v.isprintable()}
