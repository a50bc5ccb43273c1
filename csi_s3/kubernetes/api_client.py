"""Requests to the cluster's API, as a service account.

The only importer of `kubernetes`, of which it uses the REST client. Measured with version 37 on a
node plugin of 39 MB: the REST client takes 24 MB and 0.4 s, the typed CoreV1Api 100 MB and 1.5 s
for the sake of three requests. Imported at the first call, in a thread: most installations have
neither Events nor a taint.
"""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from csi_s3.aio import blocking
from csi_s3.config.api_server import ApiServer
from csi_s3.tls import client_context

REQUEST_S = 10.0
PAUSE_S = 1.0  # before the one retry
_MERGE = "application/merge-patch+json"
_FORBIDDEN = 403


class ApiError(Exception):
    """The API server refused (status), or could not be asked (status 0)."""

    def __init__(self, verb: str, resource: str, status: int, said: str) -> None:
        text = f"the cluster's API refused to {verb} {resource} with {status}: {said}"
        if status == 0:
            text = f"the cluster's API could not be asked to {verb} {resource}: {said}"
        if status == _FORBIDDEN:
            text += f" (the service account's role needs the verb {verb} on {resource})"
        super().__init__(text)
        self.status = status
        self.kind = f"{verb} {resource} {status}"

    @property
    def may_pass(self) -> bool:
        return self.status in {0, 429} or self.status >= 500  # noqa: PLR2004 - HTTP's classes


class ApiClient:
    """Requests to one API server, several at once if need be.

    Cancellation: a request under way may still take effect.
    """

    _METHODS = {"get": "GET", "create": "POST", "patch": "PATCH"}  # noqa: RUF012 - never changed

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._client: Any = None

    async def ask(
        self, verb: str, resource: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Ask, and once more if that can help.

        Raises:
            ApiError: refused, or not reached.

        """
        request = partial(self._send, verb, resource, path, body)
        try:
            return await self._within_deadline(request, verb, resource)
        except ApiError as exc:
            if not exc.may_pass:
                raise
        await asyncio.sleep(PAUSE_S)
        return await self._within_deadline(request, verb, resource)

    async def _within_deadline(
        self, request: Callable[[], dict[str, Any]], verb: str, resource: str
    ) -> dict[str, Any]:
        try:
            return await blocking(request, within_s=REQUEST_S)
        except TimeoutError as exc:
            said = f"no answer within {REQUEST_S:.0f} s"
            raise ApiError(verb, resource, 0, said) from exc

    def _send(
        self, verb: str, resource: str, path: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Ask and read the answer. Blocks."""
        from kubernetes.client.exceptions import ApiException  # noqa: PLC0415 - see the module
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            # Read each time: kubelet replaces the token before it expires.
            token = self._server.token.read_text(encoding="ascii").strip()
            answer = self._connected().request(
                self._METHODS[verb],
                f"{self._server.url}{path}",
                headers={
                    "Authorization": f"Bearer {token}",
                    "Accept": "application/json",
                    "Content-Type": _MERGE if verb == "patch" else "application/json",
                    "User-Agent": "csi-s3",
                },
                body=body,
                _request_timeout=REQUEST_S,
            )
            status, data = answer.status, answer.read()
        except (OSError, UnicodeError, HTTPError, ApiException) as exc:
            said = getattr(exc, "reason", None) or exc
            raise ApiError(verb, resource, 0, " ".join(str(said).split())) from exc
        return _answered(verb, resource, status, data)

    def _connected(self) -> Any:  # noqa: ANN401 - kubernetes has no types
        if self._client is None:
            from kubernetes.client.configuration import Configuration  # noqa: PLC0415
            from kubernetes.client.rest import RESTClientObject  # noqa: PLC0415

            # No retries of its own, and no proxy: the API server is in the cluster.
            configuration = Configuration(host=self._server.url, retries=False, proxy="")
            configuration.ssl_ca_cert = None if self._server.ca is None else str(self._server.ca)
            self._client = RESTClientObject(configuration)
            context = client_context(configuration.ssl_ca_cert)
            self._client.pool_manager.connection_pool_kw["ssl_context"] = context
        return self._client


def _answered(verb: str, resource: str, status: int, data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        body = {}
    if not isinstance(body, dict):
        body = {}
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's classes
        raise ApiError(verb, resource, status, str(body.get("message") or "no reason given")[:500])
    return body
