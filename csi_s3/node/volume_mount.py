"""One mount: a worker's FUSE mount of one volume, and the targets that have a bind of it.

Everything that changes a mount is a job of its owner task. Reports of its worker come from the
mounter's connection as plain calls; they wake what waits for them, or become jobs.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from typing_extensions import override

from csi_s3.config.volume import VolumeConfig, canonical
from csi_s3.errors import (
    MounterUnavailableError,
    VolumeError,
    WorkerDiedError,
)
from csi_s3.kernel import tuning
from csi_s3.link.report import Notice, Reason, Report, State, Usage
from csi_s3.link.spec import MountSpec
from csi_s3.node import binds
from csi_s3.node.job_queue import JobQueue
from csi_s3.node.leftovers import Leftovers
from csi_s3.node.mounter_link import MounterLink
from csi_s3.node.pod_events import VOLUME_BROKEN, PodEvents
from csi_s3.node.source_mounts import SourceMount, SourceMounts, off_loop
from csi_s3.node.targets import Target

START_S = (
    100.0  # until it serves; the worker gives up after 90 and has the reason, kubelet after 120
)
USAGE_S = 5.0

# What a dead mount means for its pods, in Events.
AFTERWARDS = (
    "Containers see 'Transport endpoint is not connected' in the volume until they are restarted. A"
    " restart works once kubelet has published the volume again, which takes up to two minutes"
)

T = TypeVar("T")
log = logging.getLogger(__name__)


class VolumeMount:
    """From the first publish until its worker has ended and no target is left.

    broken: why it is down. wrong: what its worker said last of the bucket, while it is up.
    Lifetime: `run` is the owner task; it returns when nothing is left to own.
    States: no source (new, or broken: `broken` says why) -> serving -> leaving (no target is left
    and the source is unmounted, but a container may still have it; no new targets) -> no source.
    Concurrency: `_source`, `targets` and `leaving` change in jobs only.
    """

    def __init__(
        self,
        spec: MountSpec,
        sources: SourceMounts,
        mounter_link: MounterLink,
        pod_events: PodEvents,
        leftovers: Leftovers,
    ) -> None:
        self.spec = spec
        self.identity = mount_identity(spec.volume_handle, spec.volume)
        self.targets: dict[Target, bool] = {}  # as published; the value: read-only
        self.broken: VolumeError | None = None
        self.wrong: VolumeError | None = None
        self.leaving = False
        self._sources, self._mounter_link, self._pod_events = sources, mounter_link, pod_events
        self._leftovers = leftovers
        self._last_target: Target | None = None  # of those that were unpublished
        self._dead_subpaths: dict[Target, list[str]] = {}  # what was logged of them last
        self._source: SourceMount | None = None
        self._jobs = JobQueue()
        self._publishing = 0  # jobs that wait or run
        self._verdict: asyncio.Future[None] | None = None  # the worker's first words
        self._usage_waiters: list[asyncio.Future[Usage]] = []
        self._fields = {"volume": spec.volume_handle, "mount": spec.mount_id}

    @override
    def __repr__(self) -> str:
        state = "leaving" if self.leaving else "serving" if self._source else "down"
        return f"<VolumeMount {self.spec.mount_id} {state}, {len(self.targets)} targets>"

    @property
    def is_up(self) -> bool:
        """It can be given another target without a new worker."""
        return self._source is not None and not self.leaving

    async def run(self) -> None:
        await self._jobs.run(self._is_finished)

    def _is_finished(self) -> bool:
        return self._source is None and not self.targets and not self._publishing

    # --- what the table asks for ------------------------------------------------------------------

    def adopt(
        self,
        source: SourceMount,
        targets: dict[Target, bool],
        *,
        leaving: bool,
        wrong: VolumeError | None,
    ) -> None:
        """Own a mount that a mounter has served since before we started. Before `run`."""
        self._source, self.leaving, self.wrong = source, leaving, wrong
        self.targets.update(targets)
        self._jobs.later(self._settle)

    def publish(self, target: Target, *, read_only: bool) -> asyncio.Future[bool]:
        """Have it mounted on target; the future's result: False where it was already.

        Raises (the future):
            ExistsError: it is published there with the other read_only.
            VolumeError: what mounter, worker or kernel said; nothing of this attempt is left.

        """
        self._publishing += 1
        return self._jobs.enqueue(partial(self._publish, target, read_only=read_only))

    def unpublish(self, target: Target) -> asyncio.Future[None]:
        """Have target unmounted and its directory removed.

        Raises (the future):
            TargetNotEmptyError: there are files in it, which cannot be moved; they are left.

        """
        return self._jobs.enqueue(partial(self._unpublish, target))

    def disown(self, target: Target) -> None:
        """Another mount takes over the target; this one is down."""
        self._jobs.later(partial(self._disown, target))

    async def usage(self) -> Usage:
        """Ask the worker.

        Raises:
            VolumeError: the mount is down, or nobody answers; the words say which.

        """
        if self._source is None:
            raise self.broken or WorkerDiedError("the volume is not mounted")
        asked: asyncio.Future[Usage] = asyncio.get_running_loop().create_future()
        self._usage_waiters.append(asked)
        try:
            async with asyncio.timeout(USAGE_S):
                await self._mounter_link.send("usage", {"mount_id": self.spec.mount_id})
                return await asked
        except TimeoutError as exc:
            raise WorkerDiedError(
                f"the process that serves the volume does not answer for {USAGE_S:.0f} s",
                "the mounter's log says more",
            ) from exc
        finally:
            self._usage_waiters.remove(asked)

    # --- what the mounter's connection tells; plain code ------------------------------------------

    def reported(self, report: Report) -> None:
        if report.state is State.SERVING:
            self.wrong = report.error
            for waiter in self._usage_waiters:
                if not waiter.done():
                    waiter.set_result(report.usage)
            if self._verdict is not None and not self._verdict.done():
                self._verdict.set_result(None)
        else:
            self._fell(report.error or self._death("ended"), harmless=report.error is None)

    def noticed(self, notice: Notice) -> None:
        """Tell the pods."""
        error, told = notice.error.as_told(), self._users()
        text = f"volume {self.spec.volume_handle}: {error.what}"
        if notice.reason is Reason.NOT_WRITABLE:
            told = [target for target, read_only in self.targets.items() if not read_only]
            text += f": {error.hint}"
        elif notice.reason is Reason.MISSING_OPTION:
            text = (
                f"volume {self.spec.volume_handle}: a program's change was refused, because it"
                f" {error.hint}; add it to the PersistentVolume's mountOptions, and create the pods"
                " again"
            )
        else:
            text += f" ({error.hint})" if error.hint else ""
            text += f" [{error.code}]; the mounter's log has all such failures, with the files"
        self._pod_events.tell(told, notice.reason.value, text)

    def lost(self) -> None:
        """The mounter is gone, and with it the worker."""
        self._fell(self._death("is gone with its mounter"), harmless=True)

    def _fell(self, error: VolumeError, *, harmless: bool) -> None:
        """The worker is no more. harmless: unless somebody still had the mount."""
        for waiter in self._usage_waiters:
            if not waiter.done():
                waiter.set_exception(error)
        if self._verdict is not None:
            if not self._verdict.done():
                self._verdict.set_exception(error)
        elif self._source is not None:
            self._jobs.later(partial(self._ended, self._source, error, harmless=harmless))

    def _death(self, how: str) -> WorkerDiedError:
        return WorkerDiedError(
            f"the process that serves volume {self.spec.volume_handle} {how}",
            "the mounter's log, or the last state of its pod's container, says why",
        )

    # --- jobs -------------------------------------------------------------------------------------

    async def _publish(self, target: Target, *, read_only: bool) -> bool:
        try:
            if self._source is not None:
                await self._hear()
            source = self._source or await self._start()
            path = self._sources.path(source.mount_id)
            attach = partial(binds.attach, source, path, target, read_only=read_only)
            attached = await self._call(attach, "binding")
        except Exception:
            self._publishing -= 1
            await self._settle()
            raise
        self._publishing -= 1
        self.targets[target] = read_only
        if attached.hides_files:
            self._leftovers.found(target, self.spec.volume_handle)
        self._jobs.later(partial(self._renew_subpaths, source, target))
        return attached.fresh

    async def _renew_subpaths(self, source: SourceMount, target: Target) -> None:
        if self._source is not source or target not in self.targets:
            return  # it died or was unpublished meanwhile
        renew = partial(
            binds.renew_subpaths,
            source,
            self._sources.path(source.mount_id),
            target,
            read_only=self.targets[target],
        )
        try:
            dead = await self._call(renew, "binding subPaths")
        except VolumeError as exc:
            dead = [str(exc)]
        told = self._dead_subpaths.pop(target, [])
        if dead:
            self._dead_subpaths[target] = dead
        for line in dead:  # kubelet publishes every minute
            level = logging.DEBUG if line in told else logging.WARNING
            log.log(level, "%s", line, extra=self._fields)

    async def _hear(self) -> None:
        """Ask the worker how it is; raises what is wrong with the mount or its bucket."""
        await self.usage()
        if self.wrong is not None:
            but, told = f"volume {self.spec.volume_handle} is mounted, but", self.wrong.as_told()
            what, public = f"{but} {self.wrong.what}", f"{but} {told.what}"
            raise type(self.wrong)(what, self.wrong.hint, public=public)

    async def _start(self) -> SourceMount:
        """Mount, and have a worker serve it."""
        self._mounter_link.require()
        bucket = self.spec.volume.bucket
        name = f"s3://{bucket.bucket}/{bucket.prefix}"
        labels = self.spec.volume.labels
        make = partial(self._sources.make, self.spec.mount_id, name, labels)
        self._source = source = await self._call(make, "mounting")
        try:
            await self._be_served(source)
        except Exception as exc:
            self.broken = exc if isinstance(exc, VolumeError) else self._death("failed")
            await self._take_down()
            raise
        self.broken = None
        await self._call(partial(tuning.set_read_ahead, source.device), "tuning")
        log.info("volume is mounted", extra=self._fields)
        return source

    async def _be_served(self, source: SourceMount) -> None:
        body = {"spec": self.spec.to_json(), "init": source.init.hex()}
        self._verdict = verdict = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(START_S):
                await self._mounter_link.send("serve", body, [source.fd])
                await verdict
        except TimeoutError as exc:
            with contextlib.suppress(MounterUnavailableError):
                await self._mounter_link.send("stop", {"mount_id": self.spec.mount_id})
            raise MounterUnavailableError(
                f"volume {self.spec.volume_handle} was not served within {START_S:.0f} s",
                "the mounter's log says what it waits for",
            ) from exc
        finally:
            self._verdict = None
            verdict.cancel()

    async def _unpublish(self, target: Target) -> None:
        await self._call(target.detach, "unmounting")
        self.targets.pop(target, None)
        self._dead_subpaths.pop(target, None)
        self._last_target = target
        try:
            await self._leftovers.remove(target)
        finally:
            await self._settle()

    async def _disown(self, target: Target) -> None:
        self.targets.pop(target, None)
        self._dead_subpaths.pop(target, None)
        await self._settle()

    async def _settle(self) -> None:
        """Without a target the source goes; the worker ends when the last container has let go."""
        if self.targets or self._publishing or self.leaving or self._source is None:
            return
        self.leaving = True
        await self._call(partial(self._sources.detach, self.spec.mount_id), "unmounting")

    async def _ended(self, source: SourceMount, error: VolumeError, *, harmless: bool) -> None:
        if self._source is not source:
            return  # taken down meanwhile
        fields = {**self._fields, "code": error.code}
        if not (self.leaving and source.is_over):
            self.broken = error
            log.error("%s", error, extra=fields)
            self._pod_events.tell(self._users(), VOLUME_BROKEN, self._death_text(error.as_told()))
        elif harmless:
            log.info("volume is unmounted everywhere", extra=self._fields)
        else:
            log.log(error.level, "%s", error, extra=fields)
            died = isinstance(error, WorkerDiedError)
            reason = VOLUME_BROKEN if died else Reason.UPLOAD_FAILED.value
            told = f"{error.as_told()} [{error.code}]"
            text = f"volume {self.spec.volume_handle}, after its last pod: {told}"
            self._pod_events.tell(self._users(), reason, text)
        await self._take_down()

    def _users(self) -> list[Target]:
        """Whose pods are concerned; of a mount that nobody has any more, the last one's."""
        return list(self.targets) or list(filter(None, [self._last_target]))

    def _death_text(self, error: VolumeError) -> str:
        return (
            f"{error}. What was not closed or synced then may be lost. {AFTERWARDS} [{error.code}]"
        )

    async def _take_down(self) -> None:
        """Free who waits in the mount, and remove its source.

        The targets stay known, with the dead mount on them, which keeps containers off the node's
        disk: kubelet publishes them again, or unpublishes them.
        """
        source, self._source, self.leaving = self._source, None, False
        self.wrong = None
        if source is None:
            return
        steps: list[tuple[Callable[[], object], str]] = [
            (partial(self._sources.end, source), "ending the connection"),
            (partial(self._sources.detach, source.mount_id), "unmounting"),
            (partial(_close, source), "closing"),
            (partial(self._sources.remove, source.mount_id), "removing directories"),
        ]
        for step, doing in steps:
            try:
                await self._call(step, doing)
            except VolumeError as exc:
                log.error("%s", exc, extra={**self._fields, "code": exc.code})  # noqa: TRY400

    async def _call(self, step: Callable[[], T], doing: str) -> T:
        return await off_loop(step, f"{doing} (volume {self.spec.volume_handle})")


def mount_identity(handle: str, config: VolumeConfig) -> str:
    """Of a volume and its options: equal ones share a mount."""
    return json.dumps([handle, canonical(config)])


def _close(source: SourceMount) -> None:
    os.close(source.fd)
