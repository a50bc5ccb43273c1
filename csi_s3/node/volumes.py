"""The table of all mounts of the node, and which of them a request concerns.

    identity   of a volume handle and a config: equal ones share a mount
    mount id   its name: a hash of the identity and a number, because a mount that a container
               still holds after its last target is gone cannot get new targets, and the volume
               may be wanted again meanwhile

Decisions are plain code between awaits, so the table needs no lock.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from typing import Any, TypeVar

from csi_s3.config.volume import TreeConfig, VolumeConfig
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
from csi_s3.kubernetes.pods import PodRef
from csi_s3.link.report import Notice, Report, Usage
from csi_s3.link.spec import MountSpec
from csi_s3.node.job_queue import JobQueue
from csi_s3.node.leftovers import Leftovers
from csi_s3.node.mounter_link import HeldMount, MounterLink
from csi_s3.node.pod_events import (
    DUPLICATE_HANDLE,
    IGNORED_OPTION,
    VOLUME_BROKEN,
    EventSink,
    PodEvents,
)
from csi_s3.node.reconcile import survey
from csi_s3.node.source_mounts import SourceMounts, off_loop
from csi_s3.node.targets import Target, Targets
from csi_s3.node.volume_mount import AFTERWARDS, VolumeMount, mount_identity

MOUNTER_WAIT_S = 10.0  # for a mounter that restarts
_REPUBLISHED = "kubelet publishes the volume again within two minutes"

# Answers after which kubelet takes nothing as settled (IsOperationFinishedError).
_NOT_FINAL = {
    Status.ABORTED,
    Status.DEADLINE_EXCEEDED,
    Status.RESOURCE_EXHAUSTED,
    Status.UNAVAILABLE,
}

T = TypeVar("T")
log = logging.getLogger(__name__)


class Volumes:
    """Lifetime: `run` holds the task of every mount; requests come after it has begun.

    Concurrency: one operation per target at a time, the next is refused (kubelet asks again).
    Targets that belong to no mount have one owner, which also adopts: the two cannot interleave.
    """

    def __init__(
        self,
        sources: SourceMounts,
        targets: Targets,
        mounter_link: MounterLink,
        *,
        events: EventSink | None = None,
    ) -> None:
        self._sources, self._targets, self._mounter_link = sources, targets, mounter_link
        self._pod_events = PodEvents(events)
        self._leftovers = Leftovers(sources.leftovers, self._pod_events)
        self._mounts: dict[str, VolumeMount] = {}
        self._held: set[Target] = set()
        self._lost: set[Target] = set()  # running pods', whose mount died and has no owner here
        self._outdated: dict[Target, str] = {}  # by the identity that is asked for and not served
        self._strays = JobQueue()
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        async with self._group:
            self._group.create_task(self._pod_events.run())
            await self._strays.run(lambda: False)

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

        pod: whose path it is, where kubelet tells. warnings: for one Event each when it starts.

        Raises:
            BadRequestError: path may not be used.
            BusyError: another operation holds it.
            ExistsError: it holds another volume, or this one with the other read_only.
            VolumeError: what mounter, worker or kernel said; nothing of this attempt is left.
                Of a volume that is mounted there: why it cannot be used now; it stays.
            RemountError: it was mounted there, is not any more, and cannot be again, yet.

        """
        target = self._targets.find(path)
        self._refuse_held(target)
        await self._mounter_link.wait(MOUNTER_WAIT_S)
        with self._holding(target) as hold:
            is_again = target in self._lost or self._mount_on(target) is not None
            if is_again:
                self._pod_events.met(target, pod)
            mount = self._mount_for(handle, target, config)
            try:
                fresh = await hold(mount.publish(target, read_only=config.read_only))
            except VolumeError as exc:
                if is_again and exc.status not in _NOT_FINAL:
                    await self._refuse_kindly(target, exc)
                raise
            self._lost.discard(target)
            self._pod_events.met(target, pod)
            if fresh and not is_again:
                self._warn_of_twins(mount, target)
                self._warn_of_options(handle, target, warnings)
            return fresh

    async def unpublish(self, path: str) -> None:
        """Have nothing mounted at path, and the directory removed; no error where it is so.

        Raises:
            BadRequestError: path may not be used.
            BusyError: another operation holds it.
            TargetNotEmptyError: there are files in it, which cannot be moved; they are left.

        """
        target = self._targets.find(path)
        with self._holding(target) as hold:
            mount = self._mount_on(target)
            self._pod_events.left(target)
            self._lost.discard(target)
            self._outdated.pop(target, None)
            if mount is None:
                await hold(self._strays.enqueue(partial(self._unpublish_stray, target)))
            else:
                await hold(mount.unpublish(target))

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
                return Usage(), MountError(f"nothing is mounted at {path}", _REPUBLISHED)
            return await mount.usage(), mount.wrong
        except VolumeError as exc:
            return Usage(), exc

    def _published(self, handle: str, path: str) -> tuple[Target, VolumeMount]:
        with suppress(BadRequestError):  # a path outside kubelet's directory
            target = self._targets.find(path)
            mount = self._mount_on(target)
            if mount is not None and mount.spec.volume_handle == handle:
                return target, mount
        raise VolumeNotFoundError(f"volume {handle!r} is not published at {path!r}")

    def counts(self) -> tuple[int, int]:
        """How many mounts there are, and targets that have a bind of one that lives."""
        up = (len(mount.targets) for mount in self._mounts.values() if mount.is_up)
        return len(self._mounts), sum(up)

    # --- MounterListener --------------------------------------------------------------------------

    async def adopt(self, haves: Sequence[HeldMount]) -> None:
        await self._strays.ask(partial(self._adopt, haves))

    def reported(self, report: Report) -> None:
        mount = self._mounts.get(report.mount_id)
        if mount is not None:  # else the last words of one that was given up
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
    def _holding(self, target: Target) -> Iterator["_Hold"]:
        """Hold a target until the work handed over is done, even if the caller goes away."""
        self._refuse_held(target)
        self._held.add(target)
        hold = _Hold()
        try:
            yield hold
        finally:
            if hold.work is None or hold.work.done():
                self._held.discard(target)
            else:
                hold.work.add_done_callback(lambda _: self._held.discard(target))

    def _refuse_held(self, target: Target) -> None:
        if target in self._held:
            raise BusyError(
                f"another operation on {target.path} is still under way", "kubelet asks again"
            )

    def _mount_on(self, target: Target) -> VolumeMount | None:
        return next((m for m in self._mounts.values() if target in m.targets), None)

    def _mount_for(self, handle: str, target: Target, config: VolumeConfig) -> VolumeMount:
        """The mount to serve target: the one that does, else one that can, else a new one."""
        identity = mount_identity(handle, config)
        there = self._mount_on(target)
        if there is not None and there.identity != identity:
            if there.spec.volume_handle != handle:
                raise ExistsError(
                    f"{target.path} holds volume {there.spec.volume_handle!r}, not {handle!r}",
                    "unpublish that first",
                )
            if there.is_up:
                if self._outdated.get(target) != identity:  # kubelet asks again every minute
                    self._outdated[target] = identity
                    log.info(
                        "the volume's options have changed; running pods keep the old ones",
                        extra={"volume": handle, "target": target.path},
                    )
                return there
            there.disown(target)
            self._lost.add(target)
        for mount in self._mounts.values():
            if mount.identity == identity and not mount.leaving:
                return mount
        return self._new_mount(handle, config, identity)

    async def _refuse_kindly(self, target: Target, error: VolumeError) -> None:
        """Raise in place of a final answer one that kubelet does not tear a dead mount down for."""
        if await off_loop(target.mounted, "reading mountinfo") is None:
            failed = f"{target.path} was mounted, and mounting it again failed:"
            raise RemountError(
                f"{failed} {error.what} [{error.code}]",
                error.hint,
                public=f"{failed} {error.as_told().what} [{error.code}]",
            ) from error

    def _warn_of_twins(self, mount: VolumeMount, target: Target) -> None:
        """Tell that a volume's handle is another volume's, too, or its options' older state."""
        mine, handle = mount.spec.volume, mount.spec.volume_handle
        for other in self._mounts.values():
            theirs = other.spec.volume
            if (
                other is mount
                or other.spec.volume_handle != handle
                or not other.is_up
                or _but_for_group(mine) == _but_for_group(theirs)
            ):
                continue
            text = (
                f"volumeHandle {handle!r} is in use on this node with other settings, too:"
                f" {_differences(mine, theirs)}. Both are served. Two PersistentVolumes: give each"
                " a volumeHandle of its own, because in one pod only one of them is mounted. One"
                " PersistentVolume whose options, or the driver's defaults, were edited: pods that"
                " ran before keep the old ones until they are created anew"
            )
            log.warning("%s", text, extra={"volume": handle, "target": target.path})
            self._pod_events.tell([target], DUPLICATE_HANDLE, text)
            return

    def _warn_of_options(self, handle: str, target: Target, warnings: Sequence[str]) -> None:
        for warning in warnings:
            log.warning("%s", warning, extra={"volume": handle, "target": target.path})
            self._pod_events.tell([target], IGNORED_OPTION, f"volume {handle}: {warning}")

    def _new_mount(self, handle: str, config: VolumeConfig, identity: str) -> VolumeMount:
        ids = (_mount_id(identity, number) for number in count())
        mount_id = next(i for i in ids if i not in self._mounts)
        spec = MountSpec(
            mount_id=mount_id,
            volume_handle=handle,
            volume=replace(config, read_only=False),
            state_dir=str(self._sources.state(mount_id)),
        )
        return self._own(self._mount(spec))

    def _mount(self, spec: MountSpec) -> VolumeMount:
        return VolumeMount(
            spec, self._sources, self._mounter_link, self._pod_events, self._leftovers
        )

    def _own(self, mount: VolumeMount) -> VolumeMount:
        async def owned() -> None:
            await mount.run()
            del self._mounts[mount.spec.mount_id]

        self._mounts[mount.spec.mount_id] = mount
        self._group.create_task(owned())
        return mount

    async def _adopt(self, haves: Sequence[HeldMount]) -> None:
        look = partial(survey, haves, frozenset(self._mounts), self._sources, self._targets)
        seen = await off_loop(look, "looking for mounts")
        self._lost |= seen.lost.keys()
        for target, source in seen.lost.items():
            text = f"the mount of {source} was lost while the node plugin was away. {AFTERWARDS}"
            self._pod_events.tell([target], VOLUME_BROKEN, text)
        for found in seen.found:
            mount = self._mount(found.spec)
            mount.adopt(found.source, found.targets, leaving=found.leaving, wrong=found.wrong)
            self._own(mount)
            log.info(
                "volume is still mounted",
                extra={"volume": found.spec.volume_handle, "mount": found.spec.mount_id},
            )

    async def _unpublish_stray(self, target: Target) -> None:
        mount = self._mount_on(target)
        if mount is not None:  # adopted while this waited
            await mount.unpublish(target)
            return
        await off_loop(target.detach, f"unmounting {target.path}")
        await self._leftovers.remove(target)


class _Hold:
    """Work that goes on when its caller is cancelled."""

    work: asyncio.Future[object] | None = None

    async def __call__(self, work: "asyncio.Future[T]") -> T:
        self.work = work  # type: ignore[assignment]
        return await asyncio.shield(work)


def _but_for_group(config: VolumeConfig) -> VolumeConfig:
    """What stays the same when pods of one volume differ in fsGroup, which is their right."""
    plain = TreeConfig()
    tree = replace(config.tree, gid=plain.gid, dir_mode=plain.dir_mode, file_mode=plain.file_mode)
    return replace(config, tree=tree, read_only=False)


def _differences(mine: VolumeConfig, theirs: VolumeConfig) -> str:
    """As `bucket.prefix 'a/' here, 'b/' there; …`. These are settings, never secrets."""
    here, there = (_flat(asdict(_but_for_group(config))) for config in (mine, theirs))
    return "; ".join(
        f"{name} {here[name]!r} here, {there[name]!r} there"
        for name in here
        if here[name] != there[name]
    )


def _flat(data: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[above + name] = value
    return flat


def _mount_id(identity: str, number: int) -> str:
    return hashlib.sha256(f"{number} {identity}".encode()).hexdigest()[:32]
