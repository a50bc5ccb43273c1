"""The table of all mounts of the node, and which of them a request concerns.

    identity   of a volume handle and a config: equal ones share a mount
    mount id   its name: a hash of the identity and a number, because a mount that a container
               still holds after its last target is gone cannot get new targets, and the volume
               may be wanted again meanwhile

Decisions are plain code between awaits, so the table needs no lock.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TypeVar

from csi_s3.config.volume import VolumeConfig, canonical
from csi_s3.errors import BusyError, ExistsError, VolumeError, VolumeNotFoundError
from csi_s3.link.report import Report, Usage
from csi_s3.link.spec import MountSpec
from csi_s3.node.mount import Mount
from csi_s3.node.mounters import Have, Mounters
from csi_s3.node.owner import Owner
from csi_s3.node.reconcile import survey
from csi_s3.node.sources import Sources, off_loop
from csi_s3.node.targets import Target, Targets

MOUNTER_WAIT_S = 10.0  # for a mounter that restarts

T = TypeVar("T")
log = logging.getLogger(__name__)


class Volumes:
    """Lifetime: `run` holds the task of every mount; requests come after it has begun.

    Concurrency: one operation per target at a time, the next is refused (kubelet asks again).
    Targets that belong to no mount have one owner, which also adopts: the two cannot interleave.
    """

    def __init__(self, sources: Sources, targets: Targets, mounters: Mounters) -> None:
        self._sources, self._targets, self._mounters = sources, targets, mounters
        self._mounts: dict[str, Mount] = {}
        self._held: set[Target] = set()
        self._strays = Owner()
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        async with self._group:
            await self._strays.run(lambda: False)

    # --- requests ---------------------------------------------------------------------------------

    async def publish(self, handle: str, path: str, config: VolumeConfig) -> bool:
        """Have the volume mounted at path, read-only as config says. False: it was already.

        Raises:
            BadRequestError: path may not be used.
            BusyError: another operation holds it.
            ExistsError: it holds another volume, or this one with the other read_only.
            VolumeError: what mounter, worker or kernel said; nothing of this attempt is left.

        """
        target = self._targets.find(path)
        self._refuse_held(target)
        await self._mounters.wait(MOUNTER_WAIT_S)
        with self._holding(target) as hold:
            mount = self._mount_for(handle, target, config)
            return await hold(mount.publish(target, read_only=config.read_only))

    async def unpublish(self, path: str) -> None:
        """Have nothing mounted at path, and the directory removed; no error where it is so.

        Raises:
            BadRequestError: path may not be used.
            BusyError: another operation holds it.
            NotEmptyError: there are files in it; they are left.

        """
        target = self._targets.find(path)
        with self._holding(target) as hold:
            mount = self._mount_on(target)
            if mount is None:
                await hold(self._strays.enqueue(partial(self._unpublish_stray, target)))
            else:
                await hold(mount.unpublish(target))

    async def usage(self, handle: str, path: str) -> tuple[Usage, VolumeError | None]:
        """What the volume's worker counted, and what is wrong with it, if anything.

        Raises:
            VolumeNotFoundError: the volume is not published at path.

        """
        try:
            target = self._targets.find(path)
        except VolumeError:
            target = None
        mount = None if target is None else self._mount_on(target)
        if target is None or mount is None or mount.spec.volume_handle != handle:
            raise VolumeNotFoundError(f"volume {handle!r} is not published at {path!r}")
        try:
            if await off_loop(target.mounted, "reading mountinfo") is None and mount.is_up:
                raise VolumeNotFoundError(f"nothing is mounted at {path}", "restart the pod")
            return await mount.usage(), None
        except VolumeError as exc:
            return Usage(), exc

    # --- mounters.Listener ------------------------------------------------------------------------

    async def adopt(self, haves: Sequence[Have]) -> None:
        await self._strays.ask(partial(self._adopt, haves))

    def reported(self, report: Report) -> None:
        mount = self._mounts.get(report.mount_id)
        if mount is not None:  # else the last words of one that was given up
            mount.reported(report)

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

    def _mount_on(self, target: Target) -> Mount | None:
        return next((m for m in self._mounts.values() if target in m.targets), None)

    def _mount_for(self, handle: str, target: Target, config: VolumeConfig) -> Mount:
        """The mount to serve target: the one that does, else one that can, else a new one."""
        identity = _identity(handle, config)
        there = self._mount_on(target)
        if there is not None and _identity_of(there) != identity:
            if there.spec.volume_handle != handle:
                raise ExistsError(
                    f"{target.path} holds volume {there.spec.volume_handle!r}, not {handle!r}",
                    "unpublish that first",
                )
            if there.is_up:
                log.info(
                    "the volume's options have changed; running pods keep the old ones",
                    extra={"volume": handle, "target": target.path},
                )
                return there
            there.disown(target)
        for mount in self._mounts.values():
            if _identity_of(mount) == identity and not mount.leaving:
                return mount
        if any(m.spec.volume_handle == handle and not m.leaving for m in self._mounts.values()):
            log.warning(
                "volume handle %r is mounted with other options too: both are served",
                handle,
                extra={"volume": handle, "target": target.path},
            )
        return self._new_mount(handle, config)

    def _new_mount(self, handle: str, config: VolumeConfig) -> Mount:
        ids = (_mount_id(_identity(handle, config), n) for n in count())
        mount_id = next(i for i in ids if i not in self._mounts)
        spec = MountSpec(
            mount_id=mount_id,
            volume_handle=handle,
            volume=replace(config, read_only=False),
            state_dir=str(self._sources.state(mount_id)),
        )
        return self._own(Mount(spec, self._sources, self._mounters))

    def _own(self, mount: Mount) -> Mount:
        async def owned() -> None:
            await mount.run()
            del self._mounts[mount.spec.mount_id]

        self._mounts[mount.spec.mount_id] = mount
        self._group.create_task(owned())
        return mount

    async def _adopt(self, haves: Sequence[Have]) -> None:
        look = partial(survey, haves, frozenset(self._mounts), self._sources, self._targets)
        for found in await off_loop(look, "looking for mounts"):
            mount = Mount(found.spec, self._sources, self._mounters)
            mount.adopt(found.source, found.targets, leaving=found.leaving)
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
        await off_loop(target.remove, f"removing {target.path}")


class _Hold:
    """Work that goes on when its caller is cancelled."""

    work: asyncio.Future[object] | None = None

    async def __call__(self, work: "asyncio.Future[T]") -> T:
        self.work = work  # type: ignore[assignment]
        return await asyncio.shield(work)


def _identity(handle: str, config: VolumeConfig) -> str:
    return json.dumps([handle, canonical(config)])


def _identity_of(mount: Mount) -> str:
    return _identity(mount.spec.volume_handle, mount.spec.volume)


def _mount_id(identity: str, number: int) -> str:
    return hashlib.sha256(f"{number} {identity}".encode()).hexdigest()[:32]
