"""Requests to the cluster's API, as a service account.

The only module that imports `kubernetes`. `connection` is the library's client, also for its typed
APIs and watches. `JsonClient` sends the few requests of a program that must stay small, with JSON
in place of typed classes, which take 77 MB more. The library is imported at the first request, in a
thread. Measurements and alternatives: docs/decisions/0018-kubernetes-client.md.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from csi_s3.aio import blocking
from csi_s3.config.api_server import ApiServer
from csi_s3.tls import client_context

_METHODS = {"get": "GET", "create": "POST", "patch": "PATCH"}
_MERGE = "application/merge-patch+json"
_TOKEN = "BearerToken"  # noqa: S105 - the library's name of the method
_FORBIDDEN = 403


class ApiError(Exception):
    """The API server refused a request (status), or could not be reached (status 0)."""

    def __init__(self, verb: str, resource: str, status: int, reason: str) -> None:
        text = f"the API server refused to {verb} {resource} with {status}: {reason}"
        if status == 0:
            text = f"the API server could not be reached to {verb} {resource}: {reason}"
        if status == _FORBIDDEN:
            text += f" (the service account's role needs the verb {verb} on {resource})"
        super().__init__(text)
        self.status = status
        self.kind = f"{verb} {resource} {status}"

    @property
    def may_pass(self) -> bool:
        return self.status in {0, 429} or self.status >= 500  # noqa: PLR2004 - HTTP's classes


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """request_s: for each try. pause_s: before the one retry.

    events_remembered: that can be counted up. events_waiting: for the API server; more are dropped.
    """

    request_s: float = 10.0
    pause_s: float = 1.0
    events_remembered: int = 512
    events_waiting: int = 32


class JsonClient:
    """Requests to one API server, several at once if need be.

    Cancellation: a request in progress may still take effect.
    """

    def __init__(self, server: ApiServer, limits: ApiLimits) -> None:
        self._server, self._limits = server, limits
        self._connection: Any = None

    async def request(
        self, verb: str, resource: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request, and once more if that can help.

        Raises:
            ApiError: refused, or not reached.

        """
        send = partial(self._send, verb, resource, path, body)
        try:
            return await self._within_deadline(send, verb, resource)
        except ApiError as exc:
            if not exc.may_pass:
                raise
        await asyncio.sleep(self._limits.pause_s)
        return await self._within_deadline(send, verb, resource)

    async def _within_deadline(
        self, send: Callable[[], dict[str, Any]], verb: str, resource: str
    ) -> dict[str, Any]:
        try:
            return await blocking(send, within_s=self._limits.request_s)
        except TimeoutError as exc:
            reason = f"no answer within {self._limits.request_s:.0f} s"
            raise ApiError(verb, resource, 0, reason) from exc

    def _send(
        self, verb: str, resource: str, path: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Send a request and read the answer. Blocks."""
        from kubernetes.client.exceptions import ApiException  # noqa: PLC0415 - see the module
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        content_type = _MERGE if verb == "patch" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            if self._connection is None:
                self._connection = connection(self._server)
            request = self._connection.param_serialize(
                _METHODS[verb], path, header_params=headers, body=body, auth_settings=[_TOKEN]
            )
            # The caller's deadline comes first; this one ends the thread.
            answer = self._connection.call_api(
                *request, _request_timeout=2 * self._limits.request_s
            )
            status, data = answer.status, answer.read()
        except (OSError, UnicodeError, HTTPError, ApiException) as exc:
            reason = getattr(exc, "reason", None) or exc
            raise ApiError(verb, resource, 0, " ".join(str(reason).split())) from exc
        return _answer(verb, resource, status, data)


def connection(server: ApiServer) -> Any:  # noqa: ANN401 - kubernetes has no types
    """A `kubernetes.client.ApiClient`, also for CoreV1Api and the like. Blocks; not typed.

    Without retries of its own, and without a proxy: the API server is in the cluster.
    """
    from kubernetes.client.api_client import ApiClient  # noqa: PLC0415 - see the module
    from kubernetes.client.configuration import Configuration  # noqa: PLC0415

    configuration: Any = Configuration(host=server.url, retries=False, proxy="")
    configuration.ssl_ca_cert = None if server.ca is None else str(server.ca)
    configuration.api_key = {_TOKEN: ""}  # read by the hook
    configuration.api_key_prefix = {_TOKEN: "Bearer"}

    def read_token(configuration: Any) -> None:  # noqa: ANN401
        """Before each request: kubelet replaces the token before it expires."""
        token = server.token.read_text(encoding="ascii").strip()
        configuration.api_key[_TOKEN] = token

    configuration.refresh_api_key_hook = read_token
    client = ApiClient(configuration)
    client.user_agent = "csi-s3"
    context = client_context(configuration.ssl_ca_cert)
    client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = context
    return client


def _answer(verb: str, resource: str, status: int, data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    body = body if isinstance(body, dict) else {}
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's classes
        raise ApiError(verb, resource, status, str(body.get("message") or "no reason given")[:500])
    return body
