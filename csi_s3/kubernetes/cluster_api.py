"""The driver's requests to the cluster's API: Events on pods, removal of the startup taint."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from csi_s3.bounded import Recent
from csi_s3.config.api_server import ApiServer
from csi_s3.errors import shortened
from csi_s3.kubernetes.api_client import ApiError, ApiLimits, JsonClient

SAME_FOR = timedelta(minutes=10)
MESSAGE_BYTES = 1024
_CONFLICTS = 5
_CONFLICT, _NOT_FOUND = 409, 404

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRef:
    """A pod as the cluster's API knows it, and as kubelet names it (podInfoOnMount)."""

    namespace: str
    name: str
    uid: str


class ClusterApi:
    """The API of the cluster, as a service account.

    Raises nothing: a failure is logged, as a WARNING the first time of its kind, then as DEBUG.
    Concurrency: events are sent one after another, in the order of their calls.
    Cancellation: a request in progress may still take effect.
    """

    def __init__(
        self,
        server: ApiServer,
        *,
        component: str,
        host: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        limits: ApiLimits = ApiLimits(),  # noqa: B008 - frozen
    ) -> None:
        """component: the source of Events: the driver's name. host: the node's."""
        self._client = JsonClient(server, limits)
        self._component, self._host, self._now = component, host, now
        self._limits = limits
        self._sent: Recent[tuple[str, str, str], _PostedEvent] = Recent(limits.events_remembered)
        self._sending = asyncio.Lock()
        self._waiting = 0
        self._warned: set[tuple[str, str]] = set()

    async def event(self, pod: PodRef, *, reason: str, message: str) -> None:
        """Post a Warning on a pod; the same one within 10 minutes is counted up instead.

        reason: CamelCase, for programs. message: for people; cut at 1024 bytes.
        """
        if self._waiting >= self._limits.events_waiting:
            log.debug("an event is dropped: the API server is slow", extra={"pod": pod.name})
            return
        self._waiting += 1
        try:
            async with self._sending:
                await self._post(pod, reason, shortened(message, MESSAGE_BYTES))
        except ApiError as exc:
            self._log_failure(
                "event", exc, f"no Event was posted on pod {pod.namespace}/{pod.name}"
            )
        finally:
            self._waiting -= 1

    async def remove_taint(self, node: str, key: str) -> bool:
        """Remove all taints of this key from the node. True: none is left."""
        path = f"/api/v1/nodes/{node}"
        try:
            for _ in range(_CONFLICTS):
                current = await self._client.request("get", "nodes", path)
                taints = (current.get("spec") or {}).get("taints") or []
                others = [taint for taint in taints if taint.get("key") != key]
                if others == taints:
                    return True
                version = current["metadata"]["resourceVersion"]
                body = {"metadata": {"resourceVersion": version}, "spec": {"taints": others}}
                try:
                    await self._client.request("patch", "nodes", path, body)
                except ApiError as exc:
                    if exc.status != _CONFLICT:
                        raise
                else:
                    log.info("taint %s is removed from node %s", key, node)
                    return True
        except ApiError as exc:
            self._log_failure("taint", exc, f"taint {key} stays on node {node}")
        return False

    async def _post(self, pod: PodRef, reason: str, message: str) -> None:
        key, now = (pod.uid, reason, message), self._now()
        events = f"/api/v1/namespaces/{pod.namespace}/events"
        sent = self._sent.get(key)
        if sent is not None and now - sent.last < SAME_FOR:
            sent = replace(sent, count=sent.count + 1, last=now)
            body = {"count": sent.count, "lastTimestamp": _timestamp(now)}
            try:
                await self._client.request("patch", "events", f"{events}/{sent.name}", body)
            except ApiError as exc:
                if exc.status != _NOT_FOUND:  # expired: after an hour by default
                    raise
            else:
                self._sent[key] = sent
                return
        sent = _PostedEvent(f"{pod.name[:200]}.{secrets.token_hex(8)}", 1, now)
        body = self._body(pod, sent, reason, message)
        try:
            await self._client.request("create", "events", events, body)
        except ApiError as exc:
            if exc.status != _CONFLICT:  # it exists: the first try took effect
                raise
        self._sent[key] = sent

    def _body(self, pod: PodRef, sent: "_PostedEvent", reason: str, message: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": sent.name, "namespace": pod.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", **asdict(pod)},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": self._component, "host": self._host},
            "reportingComponent": self._component,
            "reportingInstance": self._host,
            "count": sent.count,
            "firstTimestamp": _timestamp(sent.last),
            "lastTimestamp": _timestamp(sent.last),
        }

    def _log_failure(self, action: str, error: ApiError, consequence: str) -> None:
        kind = (action, error.kind)
        level = logging.DEBUG if kind in self._warned else logging.WARNING
        self._warned.add(kind)
        log.log(level, "%s: %s", consequence, error)


@dataclass(frozen=True, slots=True)
class _PostedEvent:
    """An event on the API server. last: when it was counted up last."""

    name: str
    count: int
    last: datetime


def _timestamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
