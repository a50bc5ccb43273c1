"""The table of all mounts of the node, and the choice of the mount for a request.

    identity   of a volume handle and a config: equal ones share a mount
    mount id   a hash of the identity and a number. The number is needed because a mount that a
               container still has after its last target is gone cannot get new targets, and the
               volume may be published again before that container ends

Decisions are plain code between awaits, so the table needs no lock.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from csi_s3.bounded import Recent
from csi_s3.config.volume import VolumeConfig
from csi_s3.errors import (
    BadRequestError,
    BusyError,
    ExistsError,
    MountError,
    RemountError,
    Status,
    VolumeError,
    VolumeNotFoundError,
)
from csi_s3.kubernetes.cluster_api import PodRef
from csi_s3.link.report import Notice, Report, Usage
from csi_s3.link.spec import MountSpec
from csi_s3.node import event_texts
from csi_s3.node.job_queue import JobQueue
from csi_s3.node.leftovers import Leftovers
from csi_s3.node.mount_ids import MAX_NUMBERS, mount_id, mount_identity
from csi_s3.node.mounter_link import HeldMount, MounterLink
from csi_s3.node.node_deadlines import NodeDeadlines
from csi_s3.node.pod_events import PodEvents
from csi_s3.node.reconcile import DirectorySweep, end_dead, survey
from csi_s3.node.source_mounts import SourceMounts, off_loop
from csi_s3.node.targets import Target, Targets
from csi_s3.node.volume_mount import NodeContext, VolumeMount

# Answers that kubelet does not take as final (IsOperationFinishedError).
_NOT_FINAL = {
    Status.ABORTED,
    Status.DEADLINE_EXCEEDED,
    Status.RESOURCE_EXHAUSTED,
    Status.UNAVAILABLE,
}

DAY_S = 24 * 3600.0
SWEEP_EVERY_S = 3600.0
MAX_OPERATIONS = 1000  # at a time; some go on after their callers have given up
MAX_TARGETS = 10_000  # of which something is remembered; kubelet runs some 110 pods on a node

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCounts:
    """What the table holds, for metrics. targets: with a bind of a mount that is up.

    pods: that are known by their target. lost: targets whose mount died. events: that wait.
    """

    mounts: int
    targets: int
    pods: int
    lost: int
    operations: int
    events: int


class Volumes:
    """Lifetime: `run` holds the task of every mount; requests come after it has begun.

    Concurrency: one operation per target at a time, the next is refused (kubelet repeats it).
    Targets that belong to no mount have one queue of jobs, in which held mounts are adopted as
    well: the two cannot interleave.
    """

    def __init__(
        self,
        sources: SourceMounts,
        targets: Targets,
        mounter_link: MounterLink,
        *,
        pod_events: PodEvents,
        deadlines: NodeDeadlines,
        leftovers_kept_s: float = 30 * DAY_S,
    ) -> None:
        self._targets = targets
        self._context = NodeContext(
            sources=sources,
            mounter_link=mounter_link,
            pod_events=pod_events,
            leftovers=Leftovers(sources.leftovers, pod_events),
            deadlines=deadlines,
        )
        self._mounts: dict[str, VolumeMount] = {}
        self._busy: set[Target] = set()
        # of running pods, whose mount died and is in no table
        self._lost: Recent[Target, None] = Recent(MAX_TARGETS)
        # the identity that is wanted and not served
        self._outdated: Recent[Target, str] = Recent(MAX_TARGETS)
        self._unowned_jobs = JobQueue()
        self._sweep = DirectorySweep(sources, self._mounts.__contains__)
        self._leftovers_kept_s = leftovers_kept_s
        self._is_surveyed = False  # so that the table has every mount that is served
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        async with self._group:
            self._group.create_task(self._context.pod_events.run())
            self._group.create_task(self._sweep_again())
            await self._unowned_jobs.run(lambda: False)

    # --- requests ---------------------------------------------------------------------------------

    async def publish(
        self,
        handle: str,
        path: str,
        config: VolumeConfig,
        pod: PodRef | None = None,
        *,
        warnings: Sequence[str] = (),
    ) -> bool:
        """Have the volume mounted at path, read-only as config says. False: it was already.

        pod: the owner of the path, where kubelet names it. warnings: for one Event each when it
        starts.

        Raises:
            BadRequestError: path may not be used.
            BusyError: another operation on it is in progress, or very many on others.
            ExistsError: it holds another volume, or this one with the other read_only.
            VolumeError: from mounter, worker or kernel; nothing of this attempt is left.
                Of a volume that is mounted there: why it cannot be used now; it stays.
            RemountError: it was mounted there, is not any more, and mounting it again failed.

        """
        target = self._targets.find(path)
        self._refuse_busy(target)
        await self._context.mounter_link.wait(self._context.deadlines.mounter_s)
        self._refuse_busy(target)
        is_repeated = target in self._lost or self._mount_on(target) is not None
        if is_repeated:
            self._context.pod_events.learn(target, pod)
        mount = self._mount_for(handle, target, config)
        job = mount.publish(target, read_only=config.read_only)
        with self._operation(target, job):
            try:
                is_new = await asyncio.shield(job)
            except VolumeError as exc:
                if is_repeated and exc.status not in _NOT_FINAL:
                    await self._refuse_retryably(target, exc)
                raise
            self._lost.pop(target, None)
            self._context.pod_events.learn(target, pod)
            if is_new and not is_repeated:
                self._warn_of_duplicate_handle(mount, target)
                for warning in warnings:
                    text = f"volume {handle}: {warning}"
                    self._warn(handle, target, event_texts.IGNORED_OPTION, text)
            return is_new

    async def unpublish(self, path: str) -> None:
        """Have nothing mounted at path, and the directory removed; no error where it is so.

        Raises:
            BadRequestError: path may not be used.
            BusyError: another operation on it is in progress, or very many on others.
            TargetNotEmptyError: it holds files, which cannot be moved; they are left.

        """
        target = self._targets.find(path)
        self._refuse_busy(target)
        mount = self._mount_on(target)
        self._context.pod_events.unpublished(target)
        self._lost.pop(target, None)
        self._outdated.pop(target, None)
        if mount is None:
            job = self._unowned_jobs.enqueue(partial(self._unpublish_unowned, target))
        else:
            job = mount.unpublish(target)
        with self._operation(target, job):
            await asyncio.shield(job)

    async def usage(self, handle: str, path: str) -> tuple[Usage, VolumeError | None]:
        """Get the worker's usage, and what is wrong with the volume, if anything.

        A published volume that cannot be used (unmounted by hand, broken, silent) is an abnormal
        condition and not an error: kubelet shows a condition on the pod, an error only in its log.

        Raises:
            VolumeNotFoundError: the volume is not published at path.

        """
        target, mount = self._published(handle, path)
        try:
            if mount.is_up and await off_loop(target.mounted, "reading mountinfo") is None:
                hint = "kubelet publishes the volume again within two minutes"
                return Usage(), MountError(f"nothing is mounted at {path}", hint)
            return await mount.usage(), mount.bucket_error
        except VolumeError as exc:
            return Usage(), exc

    def _published(self, handle: str, path: str) -> tuple[Target, VolumeMount]:
        with suppress(BadRequestError):  # a path outside kubelet's directory
            target = self._targets.find(path)
            mount = self._mount_on(target)
            if mount is not None and mount.spec.volume_handle == handle:
                return target, mount
        raise VolumeNotFoundError(f"volume {handle!r} is not published at {path!r}")

    def counts(self) -> RecordCounts:
        return RecordCounts(
            mounts=len(self._mounts),
            targets=sum(len(mount.targets) for mount in self._mounts.values() if mount.is_up),
            pods=self._context.pod_events.pods,
            lost=len(self._lost),
            operations=len(self._busy),
            events=self._context.pod_events.waiting,
        )

    # --- MounterListener --------------------------------------------------------------------------

    async def adopt(self, held: Sequence[HeldMount]) -> None:
        await self._unowned_jobs.ask(partial(self._adopt, held))

    def reported(self, report: Report) -> None:
        mount = self._mounts.get(report.mount_id)
        if mount is not None:  # else a late report of a mount that was given up
            mount.reported(report)

    def noticed(self, notice: Notice) -> None:
        mount = self._mounts.get(notice.mount_id)
        if mount is not None:
            mount.noticed(notice)

    def lost(self) -> None:
        for mount in self._mounts.values():
            mount.lost()

    # --- inside -----------------------------------------------------------------------------------

    @contextmanager
    def _operation(self, target: Target, job: asyncio.Future[Any]) -> Iterator[None]:
        """Keep a target busy until the job is done, even if the caller is cancelled."""
        self._busy.add(target)
        try:
            yield
        finally:
            if job.done():
                self._busy.discard(target)
            else:
                job.add_done_callback(lambda _: self._busy.discard(target))

    def _refuse_busy(self, target: Target) -> None:
        if target in self._busy:
            raise BusyError(
                f"another operation on {target.path} is in progress", "kubelet repeats the request"
            )
        if len(self._busy) >= MAX_OPERATIONS:
            raise BusyError(
                f"{len(self._busy)} operations are in progress on this node",
                "kubelet repeats the request; if their number does not fall, see this log",
            )

    def _mount_on(self, target: Target) -> VolumeMount | None:
        return next((m for m in self._mounts.values() if target in m.targets), None)

    def _mount_for(self, handle: str, target: Target, config: VolumeConfig) -> VolumeMount:
        """The mount to serve target: the one that does, else one that can, else a new one."""
        identity = mount_identity(handle, config)
        present = self._mount_on(target)
        if present is not None and present.identity != identity:
            if present.spec.volume_handle != handle:
                raise ExistsError(
                    f"{target.path} holds volume {present.spec.volume_handle!r}, not {handle!r}",
                    "unpublish that volume first",
                )
            if present.is_up:
                if self._outdated.get(target) != identity:  # kubelet repeats it every minute
                    self._outdated[target] = identity
                    log.info(
                        "the volume's options have changed; running pods keep the old ones",
                        extra={"volume": handle, "target": target.path},
                    )
                return present
            present.disown(target)
            self._lost[target] = None
        for mount in self._mounts.values():
            if mount.identity == identity and not mount.leaving:
                return mount
        return self._new_mount(handle, config, identity)

    async def _refuse_retryably(self, target: Target, error: VolumeError) -> None:
        """If nothing is mounted any more, raise an error that kubelet does not take as final."""
        if await off_loop(target.mounted, "reading mountinfo") is None:
            failed = f"{target.path} was mounted, and mounting it again failed:"
            raise RemountError(
                f"{failed} {error.what} [{error.code}]",
                error.hint,
                public=f"{failed} {error.as_public().what} [{error.code}]",
            ) from error

    def _warn_of_duplicate_handle(self, mount: VolumeMount, target: Target) -> None:
        """Warn that two volumes share a handle, or that options were edited."""
        handle = mount.spec.volume_handle
        for other in self._mounts.values():
            if other is mount or other.spec.volume_handle != handle or not other.is_up:
                continue
            if differences := event_texts.differences(mount.spec.volume, other.spec.volume):
                text = event_texts.duplicate_handle(handle, differences)
                self._warn(handle, target, event_texts.DUPLICATE_HANDLE, text)
                return

    def _warn(self, handle: str, target: Target, reason: str, text: str) -> None:
        log.warning("%s", text, extra={"volume": handle, "target": target.path})
        self._context.pod_events.post([target], reason, text)

    def _new_mount(self, handle: str, config: VolumeConfig, identity: str) -> VolumeMount:
        ids = (mount_id(identity, number) for number in range(MAX_NUMBERS))
        free = next((i for i in ids if i not in self._mounts and i not in self._sweep.ids), None)
        if free is None:
            raise BusyError(
                f"containers still use {MAX_NUMBERS} earlier mounts of volume {handle!r}",
                "kubelet repeats the request",
            )
        spec = MountSpec(
            mount_id=free,
            volume_handle=handle,
            volume=replace(config, read_only=False),
            state_dir=str(self._context.sources.state(free)),
        )
        return self._run(VolumeMount(spec, self._context))

    def _run(self, mount: VolumeMount) -> VolumeMount:
        async def run() -> None:
            await mount.run()
            del self._mounts[mount.spec.mount_id]

        self._mounts[mount.spec.mount_id] = mount
        self._group.create_task(run())
        return mount

    async def _adopt(self, held: Sequence[HeldMount]) -> None:
        known = frozenset(self._mounts)
        sources = self._context.sources
        result = await survey(held, known, sources, self._targets)
        for target, source in result.lost.items():
            self._lost[target] = None
            text = event_texts.mount_lost(source)
            self._context.pod_events.post([target], event_texts.VOLUME_BROKEN, text)
        for live in result.live:
            mount = VolumeMount(live.spec, self._context)
            mount.adopt(live)
            self._run(mount)
            log.info("volume is still mounted", extra=live.spec.log_fields)
        await end_dead(result.dead, sources)
        self._group.create_task(self._sweep.run(now_s=_now_s()))
        self._is_surveyed = True

    async def _sweep_again(self) -> None:
        """Look at what unmounted volumes have left, and remove what is old.

        Not at once: a worker may still upload the files of a mount that is over and in no table.
        """
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            if self._is_surveyed:
                now_s = _now_s()
                await self._sweep.run(now_s=now_s, before_s=now_s - self._leftovers_kept_s)

    async def _unpublish_unowned(self, target: Target) -> None:
        mount = self._mount_on(target)
        if mount is not None:  # adopted while this job waited
            await mount.unpublish(target)
            return
        await off_loop(target.detach, f"unmounting {target.path}")
        await self._context.leftovers.remove(target)


def _now_s() -> float:
    return time.time()  # noqa: TID251 - compared with the times of files
