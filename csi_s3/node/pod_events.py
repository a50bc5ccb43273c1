"""Which pod has which target, and Events on these pods.

An answer to NodePublishVolume reaches the pod it is for. Other failures have no request to answer:
a mount that broke under running containers, an operation that was refused for lack of an option, an
option without effect, data that could not be uploaded. kubelet names the pod with each publish
(podInfoOnMount) and repeats it, so nothing is stored: after a restart the pods are learned again,
and Events that were due since then are posted.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from csi_s3.aio import Pace
from csi_s3.bounded import Recent
from csi_s3.errors import shortened
from csi_s3.kubernetes.cluster_api import MESSAGE_BYTES, PodRef
from csi_s3.node.targets import Target

EVENTS_PER_S = 10  # what one mounter reports must not flood the cluster's API

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLimits:
    """former: pods of unpublished targets. queued: Events for the API server; more are dropped.

    unknown: targets whose pod is not known yet. each: Events that wait for one such pod.
    """

    former: int = 1000
    queued: int = 1000
    unknown: int = 1000
    each: int = 8


class EventSink(Protocol):
    async def event(self, pod: PodRef, *, reason: str, message: str) -> None:
        """Post a Warning on the pod. The sink logs a failure."""
        ...


class PodEvents:
    """Lifetime: `run` posts, one Event after the other; everything else is plain code.

    sink: None where Events are off; then nothing is recorded.
    """

    def __init__(
        self,
        sink: EventSink | None,
        limits: EventLimits = EventLimits(),
    ) -> None:
        self._sink, self._each = sink, limits.each
        self._pods: dict[Target, PodRef] = {}
        self._former: Recent[Target, PodRef] = Recent(limits.former)
        # of targets whose pod is not known yet: the Events in their order
        self._pending: Recent[Target, dict[tuple[str, str], None]] = Recent(limits.unknown)
        self._queue: asyncio.Queue[tuple[PodRef, str, str]] = asyncio.Queue(limits.queued)

    @property
    def waiting(self) -> int:
        """How many Events wait: for the API server, or until their pod is known."""
        return self._queue.qsize() + sum(map(len, self._pending.values()))

    @property
    def pods(self) -> int:
        """How many targets are known with their pod."""
        return len(self._pods)

    async def run(self) -> None:
        pace = Pace(EVENTS_PER_S)
        while self._sink is not None:
            await pace.turn()
            pod, reason, message = await self._queue.get()
            try:
                await self._sink.event(pod, reason=reason, message=message)
            except Exception:  # one Event must not end the others, nor the node plugin
                log.exception("an Event was not posted", extra={"code": "internal"})

    def learn(self, target: Target, pod: PodRef | None) -> None:
        """Record the pod of a target, and post the Events that waited for it."""
        if pod is None or self._sink is None:
            return
        self._pods[target] = pod
        for reason, message in self._pending.pop(target, ()):
            self._post(pod, reason, message)

    def unpublished(self, target: Target) -> None:
        """The target is gone; its pod may still get Events about how that ended."""
        self._pending.pop(target, None)
        pod = self._pods.pop(target, None)
        if pod is not None:
            self._former[target] = pod

    def post(self, targets: Iterable[Target], reason: str, message: str) -> None:
        """Post an Event on each pod of the targets, once; on an unknown one when it is learned."""
        if self._sink is None:
            return
        message = shortened(message, MESSAGE_BYTES)
        done: set[PodRef] = set()
        for target in targets:
            pod = self._pods.get(target) or self._former.get(target)
            if pod is None:
                self._wait_for_pod(target, reason, message)
            elif pod not in done:
                done.add(pod)
                self._post(pod, reason, message)

    def post_last(self, target: Target, reason: str, message: str) -> None:
        """Post an Event on the pod of a target that is being removed, if the pod is known."""
        if pod := self._pods.get(target) or self._former.get(target):
            self._post(pod, reason, shortened(message, MESSAGE_BYTES))

    def _wait_for_pod(self, target: Target, reason: str, message: str) -> None:
        """One Event of each text, the first few: kubelet may take long to name the pod."""
        events = self._pending.setdefault(target, {})
        if len(events) < self._each:
            events[reason, message] = None

    def _post(self, pod: PodRef, reason: str, message: str) -> None:
        if not self._queue.full():  # else the API server is away; the log has all of it
            self._queue.put_nowait((pod, reason, message))
