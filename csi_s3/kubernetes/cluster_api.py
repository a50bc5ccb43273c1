"""What is asked of the cluster's API: Events on pods, and that the startup taint be removed."""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from csi_s3.config.api_server import ApiServer
from csi_s3.kubernetes.api_client import ApiClient, ApiError

SAME_FOR = timedelta(minutes=10)
MOST_KEPT = 512  # events that may be counted on
MOST_WAITING = 32  # events that wait for a slow API server; more are dropped
MESSAGE_BYTES = 1024
_MOST_CONFLICTS = 5
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
        self._client = ApiClient(server)
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
        except ApiError as exc:
            self._complain("event", exc, f"no Event was posted on pod {pod.namespace}/{pod.name}")
        finally:
            self._waiting -= 1

    async def remove_taint(self, node: str, key: str) -> bool:
        """Remove all taints of this key from the node. True: there is none any more."""
        path = f"/api/v1/nodes/{node}"
        try:
            for _ in range(_MOST_CONFLICTS):
                found = await self._client.ask("get", "nodes", path)
                taints = (found.get("spec") or {}).get("taints") or []
                kept = [taint for taint in taints if taint.get("key") != key]
                if kept == taints:
                    return True
                version = found["metadata"]["resourceVersion"]
                body = {"metadata": {"resourceVersion": version}, "spec": {"taints": kept}}
                try:
                    await self._client.ask("patch", "nodes", path, body)
                except ApiError as exc:
                    if exc.status != _CONFLICT:
                        raise
                else:
                    log.info("taint %s is removed from node %s", key, node)
                    return True
        except ApiError as exc:
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
                await self._client.ask("patch", "events", f"{events}/{sent.name}", body)
            except ApiError as exc:
                if exc.status != _NOT_FOUND:  # they live for an hour, or as long as somebody says
                    raise
            else:
                self._keep(key, sent)
                return
        sent = _PostedEvent(f"{pod.name[:200]}.{secrets.token_hex(8)}", 1, now)
        body = self._body(pod, sent, reason, message)
        try:
            await self._client.ask("create", "events", events, body)
        except ApiError as exc:
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

    def _complain(self, what: str, error: ApiError, consequence: str) -> None:
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


def _written(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _cut(message: str) -> str:
    raw = message.encode()
    if len(raw) <= MESSAGE_BYTES:
        return message
    end = "…"
    return raw[: MESSAGE_BYTES - len(end.encode())].decode(errors="ignore") + end
