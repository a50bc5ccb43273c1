"""One mount: a worker's FUSE mount of one volume, and the targets that have a bind of it.

Everything that changes a mount is a job of its owner task. Reports of its worker are plain calls
that become jobs.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from typing_extensions import override

from csi_s3.aio import LateCalls
from csi_s3.errors import VolumeError, WorkerDiedError
from csi_s3.kernel import mount, tuning
from csi_s3.link.report import Notice, Reason, Report, State, Usage
from csi_s3.link.spec import MountSpec
from csi_s3.node import binds, event_texts
from csi_s3.node.job_queue import JobQueue
from csi_s3.node.leftovers import Leftovers
from csi_s3.node.mount_ids import mount_identity
from csi_s3.node.mount_worker import MountWorker
from csi_s3.node.mounter_link import MounterLink
from csi_s3.node.node_deadlines import NodeDeadlines
from csi_s3.node.pod_events import PodEvents
from csi_s3.node.reconcile import LiveMount
from csi_s3.node.source_mounts import SourceMount, SourceMounts, off_loop
from csi_s3.node.targets import Target

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """What all mounts of a node share."""

    sources: SourceMounts
    mounter_link: MounterLink
    pod_events: PodEvents
    leftovers: Leftovers
    deadlines: NodeDeadlines


class VolumeMount:
    """From the first publish until its worker has ended and no target is left.

    failure: why it is down.
    Lifetime: `run` is the owner task; it returns when nothing is left to own.
    States: no source (new, or down: `failure` says why) -> serving -> leaving (no target is left
    and the source is unmounted, but a container may still have it; no new targets) -> no source.
    Concurrency: `_source`, `targets` and `leaving` change in jobs only.
    """

    def __init__(self, spec: MountSpec, context: NodeContext) -> None:
        self.spec = spec
        self.identity = mount_identity(spec.volume_handle, spec.volume)
        self.targets: dict[Target, bool] = {}  # as published; the value: read-only
        self.failure: VolumeError | None = None
        self.leaving = False
        self._sources, self._mounter_link = context.sources, context.mounter_link
        self._pod_events, self._leftovers = context.pod_events, context.leftovers
        self._worker = MountWorker(spec, context.mounter_link, context.deadlines)
        self._last_target: Target | None = None  # of those that were unpublished
        self._dead_subpaths: dict[Target, list[str]] = {}  # as logged last
        self._source: SourceMount | None = None
        self._ending: SourceMount | None = None  # whose end is a job that waits or runs
        self._late = LateCalls(8)
        self._jobs = JobQueue()
        self._publishing = 0  # jobs that wait or run

    @override
    def __repr__(self) -> str:
        state = "leaving" if self.leaving else "serving" if self._source else "down"
        return f"<VolumeMount {self.spec.mount_id} {state}, {len(self.targets)} targets>"

    @property
    def is_up(self) -> bool:
        """It can be given another target without a new worker."""
        return self._source is not None and not self.leaving

    @property
    def bucket_error(self) -> VolumeError | None:
        return self._worker.bucket_error

    async def run(self) -> None:
        await self._jobs.run(self._is_finished)

    def _is_finished(self) -> bool:
        return self._source is None and not self.targets and not self._publishing

    # --- requests ---------------------------------------------------------------------------------

    def adopt(self, live: LiveMount) -> None:
        """Own a mount that a mounter served before this process started. Before `run`."""
        self._source, self.leaving = live.source, live.leaving
        self._worker.bucket_error = live.bucket_error
        self.targets.update(live.targets)
        self._jobs.later(self._leave_if_unused)

    def publish(self, target: Target, *, read_only: bool) -> asyncio.Future[bool]:
        """Have it mounted on target; the future's result: False where it was already.

        Raises (the future):
            ExistsError: it is published there with the other read_only.
            VolumeError: from mounter, worker or kernel; nothing of this attempt is left.

        """
        self._publishing += 1
        return self._jobs.enqueue(partial(self._publish, target, read_only=read_only))

    def unpublish(self, target: Target) -> asyncio.Future[None]:
        """Have target unmounted and its directory removed.

        Raises (the future):
            TargetNotEmptyError: it holds files, which cannot be moved; they are left.

        """
        return self._jobs.enqueue(partial(self._unpublish, target))

    def disown(self, target: Target) -> None:
        """Another mount takes over the target; this one is down."""
        self._jobs.later(partial(self._disown, target))

    async def usage(self) -> Usage:
        """Ask the worker.

        Raises:
            VolumeError: the mount is down, or nothing answers; the text says which.

        """
        if self._source is None and self.failure is not None:
            raise self.failure.again()
        if self._source is None:
            raise WorkerDiedError("the volume is not mounted")
        return await self._worker.usage()

    # --- reports from the mounter's connection; plain code ----------------------------------------

    def reported(self, report: Report) -> None:
        if report.state is State.SERVING:
            self._worker.serving(report)
        else:
            error = report.error or self._worker.death("ended")
            self._worker_ended(error, is_expected=report.error is None)

    def noticed(self, notice: Notice) -> None:
        targets = self._users()
        if notice.reason is Reason.NOT_WRITABLE:
            targets = [target for target, read_only in self.targets.items() if not read_only]
        text = event_texts.noticed(self.spec.volume_handle, notice)
        self._pod_events.post(targets, notice.reason.value, text)

    def lost(self) -> None:
        """Take the end of the mounter, and with it of the worker."""
        self._worker_ended(self._worker.death("ended with its mounter"), is_expected=True)

    def _worker_ended(self, error: VolumeError, *, is_expected: bool) -> None:
        """is_expected: it is no failure, unless a pod or container still had the mount."""
        source = self._source
        if self._worker.ended(error) or source is None or source is self._ending:
            return
        self._ending = source
        self._jobs.later(partial(self._end, source, error, is_expected=is_expected))

    # --- jobs -------------------------------------------------------------------------------------

    async def _publish(self, target: Target, *, read_only: bool) -> bool:
        try:
            if self._source is not None:
                await self._check_bucket()
            source = self._source or await self._start()
            attach = partial(binds.attach, self._sources, source, target, read_only=read_only)
            attached = await self._call(attach, "binding")
        except Exception:
            self._publishing -= 1
            await self._leave_if_unused()
            raise
        self._publishing -= 1
        self.targets[target] = read_only
        if attached.hides_files:
            self._leftovers.report_hidden(target, self.spec.volume_handle)
        self._jobs.later(partial(self._renew_subpaths, source, target))
        return attached.is_new

    async def _renew_subpaths(self, source: SourceMount, target: Target) -> None:
        if self._source is not source or target not in self.targets:
            return  # it died or was unpublished since
        renew = partial(
            binds.renew_subpaths,
            self._sources,
            source,
            target,
            read_only=self.targets[target],
        )
        try:
            dead = await self._call(renew, "binding subPaths")
        except VolumeError as exc:
            dead = [str(exc)]
        logged = self._dead_subpaths.pop(target, [])
        if dead:
            self._dead_subpaths[target] = dead
        for line in dead:  # kubelet publishes every minute
            level = logging.DEBUG if line in logged else logging.WARNING
            log.log(level, "%s", line, extra=self.spec.log_fields)

    async def _check_bucket(self) -> None:
        """Ask the worker. Raises what is wrong with the mount or its bucket."""
        await self.usage()
        if (error := self.bucket_error) is not None:
            mounted = f"volume {self.spec.volume_handle} is mounted, but"
            public = f"{mounted} {error.as_public().what}"
            raise type(error)(f"{mounted} {error.what}", error.hint, public=public)

    async def _start(self) -> SourceMount:
        self._mounter_link.require()
        make = partial(self._sources.make, self.spec)
        self._source = source = await self._call(make, "mounting")
        try:
            await self._worker.start(source)
        except Exception as exc:
            error = exc if isinstance(exc, VolumeError) else self._worker.death("failed")
            self.failure = error.again()
            await self._take_down()
            raise
        self.failure = None
        await self._call(partial(tuning.set_read_ahead, source.device), "tuning")
        log.info("volume is mounted", extra=self.spec.log_fields)
        return source

    async def _unpublish(self, target: Target) -> None:
        await self._call(target.detach, "unmounting")
        self._last_target = target
        self._forget(target)
        try:
            await self._leftovers.remove(target)
        finally:
            await self._leave_if_unused()

    async def _disown(self, target: Target) -> None:
        self._forget(target)
        await self._leave_if_unused()

    def _forget(self, target: Target) -> None:
        self.targets.pop(target, None)
        self._dead_subpaths.pop(target, None)

    async def _leave_if_unused(self) -> None:
        """Without a target, unmount the source; the worker ends after the last container."""
        if self.targets or self._publishing or self.leaving or self._source is None:
            return
        self.leaving = True
        await self._call(partial(self._sources.detach, self.spec.mount_id), "unmounting")

    async def _end(self, source: SourceMount, error: VolumeError, *, is_expected: bool) -> None:
        if self._source is not source:
            return  # taken down since
        fields = {**self.spec.log_fields, "code": error.code}
        if not (self.leaving and await self._is_over(source)):
            self.failure = error.again()
            log.error("%s", error, extra=fields)
            self._pod_events.post(
                self._users(), event_texts.VOLUME_BROKEN, event_texts.mount_died(error)
            )
        elif is_expected:
            log.info("volume is unmounted everywhere", extra=self.spec.log_fields)
        else:
            log.log(error.level, "%s", error, extra=fields)
            died = isinstance(error, WorkerDiedError)
            reason = event_texts.VOLUME_BROKEN if died else Reason.UPLOAD_FAILED.value
            text = event_texts.failed_after_last_pod(self.spec.volume_handle, error)
            self._pod_events.post(self._users(), reason, text)
        await self._take_down()

    async def _is_over(self, source: SourceMount) -> bool:
        try:
            return await self._call(partial(mount.is_over, source.fd), "looking at the connection")
        except VolumeError as exc:
            log.error("%s", exc, extra={**self.spec.log_fields, "code": exc.code})  # noqa: TRY400
            return False

    def _users(self) -> list[Target]:
        """The targets; after the last one was unpublished, that one."""
        return list(self.targets) or list(filter(None, [self._last_target]))

    async def _take_down(self) -> None:
        """Free what waits in the mount, and remove its source.

        The targets stay known, with the dead mount on them, which keeps containers off the node's
        disk: kubelet publishes them again, or unpublishes them.
        """
        source, self._source, self.leaving = self._source, None, False
        self._worker.bucket_error = None
        if source is None:
            return
        steps: list[tuple[Callable[[], object], str]] = [
            (partial(self._sources.end, source), "ending the connection"),
            (partial(self._sources.detach, source.mount_id), "unmounting"),
            (partial(os.close, source.fd), "closing"),
            (partial(self._sources.remove, source.mount_id), "removing directories"),
        ]
        for step, action in steps:
            try:
                await self._call(step, action)
            except VolumeError as exc:
                log.error("%s", exc, extra={**self.spec.log_fields, "code": exc.code})  # noqa: TRY400

    async def _call(self, step: Callable[[], T], action: str) -> T:
        return await off_loop(step, f"{action} (volume {self.spec.volume_handle})", self._late)
