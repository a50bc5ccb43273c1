"""What node asks of the cluster's API: Events on pods, and that the startup taint be removed.

The only importer of `kubernetes`, of which it uses the REST client. Measured with version 37 on a
node plugin of 39 MB: the REST client takes 24 MB and 0.4 s, the typed CoreV1Api 100 MB and 1.5 s
for the sake of three requests. Imported at the first call, in a thread: most installations have
neither Events nor a taint.
"""

import asyncio
import json
import logging
import secrets
import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from csi_s3.aio import blocking
from csi_s3.config.api_server import ApiServer
from csi_s3.kubernetes.pods import PodRef

REQUEST_S = 10.0
PAUSE_S = 1.0  # before the one retry
SAME_FOR = timedelta(minutes=10)
MOST_KEPT = 512  # events that may be counted on
MOST_WAITING = 32  # events that wait for a slow API server; more are dropped
MESSAGE_BYTES = 1024
_MOST_CONFLICTS = 5
_MERGE = "application/merge-patch+json"
_CONFLICT, _NOT_FOUND, _FORBIDDEN = 409, 404, 403

log = logging.getLogger(__name__)


class ClusterApi:
    """The API of the cluster, as a service account.

    No failure leaves it: it is a WARNING the first time in its kind, then DEBUG.
    Concurrency: events are sent one after another, in the order of their calls.
    Cancellation: a request under way may still take effect.
    """

    def __init__(
        self,
        server: ApiServer,
        *,
        component: str,
        host: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """component: who says it: the driver's name. host: the node's."""
        self._requests = _Requests(server)
        self._component, self._host, self._now = component, host, now
        self._sent: OrderedDict[tuple[str, str, str], _PostedEvent] = OrderedDict()
        self._sending = asyncio.Lock()
        self._waiting = 0
        self._warned: set[tuple[str, str]] = set()

    async def event(self, pod: PodRef, *, reason: str, message: str) -> None:
        """Post a Warning on a pod; one that was posted lately is counted instead.

        reason: CamelCase, for programs. message: for people; cut at 1024 bytes.
        """
        if self._waiting >= MOST_WAITING:
            log.debug("an event is dropped: the API server is slow", extra={"pod": pod.name})
            return
        self._waiting += 1
        try:
            async with self._sending:
                await self._post(pod, reason, _cut(message))
        except _ApiError as exc:
            self._complain("event", exc, f"no Event was posted on pod {pod.namespace}/{pod.name}")
        finally:
            self._waiting -= 1

    async def remove_taint(self, node: str, key: str) -> bool:
        """Remove all taints of this key from the node. True: there is none any more."""
        path = f"/api/v1/nodes/{node}"
        try:
            for _ in range(_MOST_CONFLICTS):
                found = await self._ask("get", "nodes", path)
                taints = (found.get("spec") or {}).get("taints") or []
                kept = [taint for taint in taints if taint.get("key") != key]
                if kept == taints:
                    return True
                version = found["metadata"]["resourceVersion"]
                body = {"metadata": {"resourceVersion": version}, "spec": {"taints": kept}}
                try:
                    await self._ask("patch", "nodes", path, body)
                except _ApiError as exc:
                    if exc.status != _CONFLICT:
                        raise
                else:
                    log.info("taint %s is removed from node %s", key, node)
                    return True
        except _ApiError as exc:
            self._complain("taint", exc, f"taint {key} stays on node {node}")
        return False

    async def _post(self, pod: PodRef, reason: str, message: str) -> None:
        key, now = (pod.uid, reason, message), self._now()
        events = f"/api/v1/namespaces/{pod.namespace}/events"
        sent = self._sent.get(key)
        if sent is not None and now - sent.last < SAME_FOR:
            sent = replace(sent, count=sent.count + 1, last=now)
            body = {"count": sent.count, "lastTimestamp": _written(now)}
            try:
                await self._ask("patch", "events", f"{events}/{sent.name}", body)
            except _ApiError as exc:
                if exc.status != _NOT_FOUND:  # they live for an hour, or as long as somebody says
                    raise
            else:
                self._keep(key, sent)
                return
        sent = _PostedEvent(f"{pod.name[:200]}.{secrets.token_hex(8)}", 1, now)
        body = self._body(pod, sent, reason, message)
        try:
            await self._ask("create", "events", events, body)
        except _ApiError as exc:
            if exc.status != _CONFLICT:  # it is there: the first try had worked
                raise
        self._keep(key, sent)

    def _body(self, pod: PodRef, sent: "_PostedEvent", reason: str, message: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": sent.name, "namespace": pod.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
            },
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": self._component, "host": self._host},
            "reportingComponent": self._component,
            "reportingInstance": self._host,
            "count": sent.count,
            "firstTimestamp": _written(sent.last),
            "lastTimestamp": _written(sent.last),
        }

    def _keep(self, key: tuple[str, str, str], sent: "_PostedEvent") -> None:
        self._sent[key] = sent
        self._sent.move_to_end(key)
        while len(self._sent) > MOST_KEPT:
            self._sent.popitem(last=False)

    async def _ask(
        self, verb: str, resource: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Ask, and once more if that can help. Raises _ApiError."""
        request = partial(self._requests.send, verb, resource, path, body)
        try:
            return await self._within_deadline(request, verb, resource)
        except _ApiError as exc:
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
            raise _ApiError(verb, resource, 0, said) from exc

    def _complain(self, what: str, error: "_ApiError", consequence: str) -> None:
        kind = (what, error.kind)
        level = logging.DEBUG if kind in self._warned else logging.WARNING
        self._warned.add(kind)
        log.log(level, "%s: %s", consequence, error)


@dataclass(frozen=True, slots=True)
class _PostedEvent:
    """An event that the API server has. last: when it was counted last."""

    name: str
    count: int
    last: datetime


class _ApiError(Exception):
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


class _Requests:
    """Requests to one API server. `send` blocks: it is for threads, several at once if need be."""

    _METHODS = {"get": "GET", "create": "POST", "patch": "PATCH"}  # noqa: RUF012 - never changed

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._client: Any = None

    def send(
        self, verb: str, resource: str, path: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Ask and read the answer.

        Raises:
            _ApiError: refused, or not reached.

        """
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
            raise _ApiError(verb, resource, 0, " ".join(str(said).split())) from exc
        return _answered(verb, resource, status, data)

    def _connected(self) -> Any:  # noqa: ANN401 - kubernetes has no types
        if self._client is None:
            from kubernetes.client.configuration import Configuration  # noqa: PLC0415
            from kubernetes.client.rest import RESTClientObject  # noqa: PLC0415

            # No retries of its own, and no proxy: the API server is in the cluster.
            configuration = Configuration(host=self._server.url, retries=False, proxy="")
            configuration.ssl_ca_cert = None if self._server.ca is None else str(self._server.ca)
            self._client = RESTClientObject(configuration)
            context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
            # Python 3.13 refuses authorities without the newest extensions, as clusters' own are.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
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
        raise _ApiError(verb, resource, status, str(body.get("message") or "no reason given")[:500])
    return body


def _written(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _cut(message: str) -> str:
    raw = message.encode()
    if len(raw) <= MESSAGE_BYTES:
        return message
    end = "…"
    return raw[: MESSAGE_BYTES - len(end.encode())].decode(errors="ignore") + end
