"""Which pod has which target, and what pods are told by Events.

An answer to NodePublishVolume reaches the pod it is for; the rest has no request to answer: a mount
that broke under running containers, an operation that was refused for want of an option, an option
without effect, bytes that could not be uploaded. kubelet names the pod with each publish
(podInfoOnMount) and repeats it, so nothing is stored: after a restart of ours the pods are learned
again, and are told then what they should have heard meanwhile.
"""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from csi_s3.kubernetes.pods import PodRef
from csi_s3.node.targets import Target

MAX_GONE = 1000
MAX_WAITING = 1000

VOLUME_BROKEN = "VolumeBroken"
DUPLICATE_HANDLE = "DuplicateVolumeHandle"
IGNORED_OPTION = "IgnoredOption"
FILES_ON_NODE = "FilesOnNode"


class EventSink(Protocol):
    """Where Events go."""

    async def event(self, pod: PodRef, *, reason: str, message: str) -> None:
        """Post a Warning on the pod. Never raises: a failure is logged there."""
        ...


class PodEvents:
    """Lifetime: `run` posts, one Event after the other; everything else is plain code.

    events: None where nobody is told; then targets and pods are forgotten at once.
    """

    def __init__(self, events: EventSink | None) -> None:
        self._events = events
        self._pods: dict[Target, PodRef] = {}
        self._gone: dict[Target, PodRef] = {}  # the latest ones, in order
        self._owed: dict[Target, list[tuple[str, str]]] = {}
        self._waiting: asyncio.Queue[tuple[PodRef, str, str]] = asyncio.Queue(MAX_WAITING)

    async def run(self) -> None:
        while self._events is not None:
            pod, reason, message = await self._waiting.get()
            await self._events.event(pod, reason=reason, message=message)

    def met(self, target: Target, pod: PodRef | None) -> None:
        """Learn who has a target; it is told what it is owed."""
        if pod is None or self._events is None:
            return
        self._pods[target] = pod
        for reason, message in self._owed.pop(target, ()):
            self._post(pod, reason, message)

    def left(self, target: Target) -> None:
        """The target is unpublished; its pod may still be told how that ended."""
        self._owed.pop(target, None)
        pod = self._pods.pop(target, None)
        if pod is not None:
            self._gone[target] = pod
            if len(self._gone) > MAX_GONE:
                del self._gone[next(iter(self._gone))]

    def tell(self, targets: Iterable[Target], reason: str, message: str) -> None:
        """Post an Event on each pod of the targets, once; on one not known yet, when it is met."""
        if self._events is None:
            return
        told: set[PodRef] = set()
        for target in targets:
            pod = self._pods.get(target) or self._gone.get(target)
            if pod is None:
                self._owed.setdefault(target, []).append((reason, message))
            elif pod not in told:
                told.add(pod)
                self._post(pod, reason, message)

    def tell_last(self, target: Target, reason: str, message: str) -> None:
        """Post an Event on the pod of a target that goes, if it is known: it is not met again."""
        if pod := self._pods.get(target) or self._gone.get(target):
            self._post(pod, reason, message)

    def _post(self, pod: PodRef, reason: str, message: str) -> None:
        if not self._waiting.full():  # else the cluster's API is away; the log has it all
            self._waiting.put_nowait((pod, reason, message))
