"""After a start of node: the kernel's mounts against those that the mounter serves.

A restart of node leaves the mounts of pods alone, so the table is rebuilt from node's records,
mountinfo, and the mounter's word on which mounts have a worker. A mount that no worker serves is
aborted, because any access to it would hang, and its source is removed; on the targets it stays,
dead (`node.binds`).

Directories of mounts that are gone stay as long as they have files that a worker could not upload,
and their number has no limit. So they are looked at afterwards, while node serves, a part at a
time.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from csi_s3.errors import VolumeError
from csi_s3.kernel import fusectl, mount
from csi_s3.kernel.mountinfo import MountEntry, read_mountinfo
from csi_s3.link.spec import MountSpec
from csi_s3.node.mount_ids import is_true_to_its_id
from csi_s3.node.mounter_link import HeldMount
from csi_s3.node.source_mounts import SourceMount, SourceMounts, off_loop
from csi_s3.node.targets import Target, Targets
from csi_s3.node.unmounted_spools import UnmountedSpools

_AGAIN_S = 1.0  # after mountinfo could not be read
_IDS = 256  # for one call

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMount:
    """A mount with a worker. leaving: its source is unmounted; containers still have it."""

    spec: MountSpec
    source: SourceMount
    targets: dict[Target, bool]
    leaving: bool
    bucket_error: VolumeError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """dead: source mounts without a worker, by mount id. lost: their targets, with the source."""

    live: list[LiveMount]
    dead: dict[str, MountEntry]
    lost: dict[Target, str]


async def survey(
    held: Sequence[HeldMount], known: AbstractSet[str], sources: SourceMounts, targets: Targets
) -> Survey:
    """Match them. known: ids of the mounts in the table, which are left alone.

    Takes over the held mounts' descriptors: each goes to a LiveMount or is closed. Of a held mount
    only id, descriptor and report are the mounter's word: see `_description`.
    """
    held = list(held)
    try:
        mounted, targets_on = await _look(sources, targets)
        live = []
        while held:
            one = held.pop()
            spec, entry = None, mounted.get(one.spec.mount_id)
            if one.spec.mount_id not in known:
                spec = await _description_or_none(one, entry, sources)
            if spec is None:
                os.close(one.fd)
                continue
            device = "" if entry is None else entry.device
            live.append(
                LiveMount(
                    spec=spec,
                    source=SourceMount(mount_id=spec.mount_id, fd=one.fd, device=device),
                    targets=targets_on.get(device, {}),
                    leaving=entry is None,
                    bucket_error=None if one.report is None else one.report.error,
                )
            )
    except BaseException:
        for one in held:
            os.close(one.fd)
        raise
    live.reverse()
    served = known | {one.spec.mount_id for one in live}
    dead = {mount_id: entry for mount_id, entry in mounted.items() if mount_id not in served}
    lost = {target: e.source for e in dead.values() for target in targets_on[e.device]}
    return Survey(live=live, dead=dead, lost=lost)


async def _description_or_none(
    held: HeldMount, entry: MountEntry | None, sources: SourceMounts
) -> MountSpec | None:
    mount_id = held.spec.mount_id
    look = partial(_description, held, entry, sources)
    try:
        return await off_loop(look, f"looking at the mount {mount_id}")
    except VolumeError as exc:
        log.error("%s", exc, extra={"mount": mount_id, "code": exc.code})  # noqa: TRY400
    return None


def _description(
    held: HeldMount, entry: MountEntry | None, sources: SourceMounts
) -> MountSpec | None:
    """The description of a held mount, on node's own word; None if it is over or not node's.

    Without a record, an earlier release made it, if the id is that of what the mounter describes
    and it has a directory. Then it gets a record.
    """
    if mount.is_over(held.fd):
        return None
    claimed, connection = held.spec, mount.connection_of(held.fd)
    if entry is not None and connection not in {None, entry.minor}:
        log.warning(
            "the mounter holds another connection than that of the mount; it is not taken over",
            extra={"mount": claimed.mount_id},
        )
        return None
    spec = sources.record(claimed.mount_id)
    if spec is not None:
        return spec
    if not (sources.has_directory(claimed.mount_id) and is_true_to_its_id(claimed)):
        log.warning(
            "the mounter holds a mount that this node has not made; it is not taken over",
            extra={"mount": claimed.mount_id},
        )
        return None
    spec = MountSpec(
        mount_id=claimed.mount_id,
        volume_handle=claimed.volume_handle,
        volume=replace(claimed.volume, read_only=False),
        state_dir=str(sources.state(claimed.mount_id)),
    )
    sources.write_record(spec)
    log.info("a mount of an earlier release has got its record", extra=spec.log_fields)
    return spec


async def _look(
    sources: SourceMounts, targets: Targets
) -> tuple[dict[str, MountEntry], dict[str, dict[Target, bool]]]:
    """The source mounts by id, and the targets by device; waits until the kernel answers."""

    def look() -> tuple[dict[str, MountEntry], dict[str, dict[Target, bool]]]:
        entries = read_mountinfo()
        mounted = sources.mounted(entries)
        devices = {entry.device for entry in mounted.values()}
        return mounted, targets.all_on(devices, entries)

    while True:
        try:
            return await off_loop(look, "looking for mounts")
        except VolumeError as exc:
            log.error("%s; trying again", exc, extra={"code": exc.code})  # noqa: TRY400
        await asyncio.sleep(_AGAIN_S)


async def end_dead(dead: dict[str, MountEntry], sources: SourceMounts) -> None:
    """Abort these mounts and remove their sources; a failure is logged."""
    for mount_id, entry in dead.items():
        log.warning(
            "a mount of %s is left that no worker serves; it is aborted. Containers that use it "
            "must be restarted",
            entry.source,
            extra={"mount": mount_id},
        )
        steps: list[Callable[[], object]] = [
            partial(fusectl.abort, entry.minor),
            partial(sources.detach, mount_id),
            partial(sources.remove, mount_id),
        ]
        for step in steps:
            try:
                await off_loop(step, f"ending the mount {mount_id}")
            except VolumeError as exc:
                log.error("%s", exc, extra={"mount": mount_id, "code": exc.code})  # noqa: TRY400


class DirectorySweep:
    """Removes the directories of mounts that are gone, and what is old in them, a part at a time.

    ids: whose directories are being removed; no mount may be made with one of them, nor a `run` do
    anything, until that is done, which may be after a `run` that gave up waiting.
    Lifetime: node's. Concurrency: one `run` at a time does something, the next returns at once.
    is_used: whether there is a mount with this id.
    """

    def __init__(
        self, sources: SourceMounts, is_used: Callable[[str], bool], *, part: int = _IDS
    ) -> None:
        self.ids: AbstractSet[str] = frozenset()
        self._sources, self._is_used, self._part = sources, is_used, part
        self._is_running = False
        self._kept = 0

    async def run(self, *, now_s: float, before_s: float = 0.0) -> None:
        """Go through all of them once; a failure is logged, and the next start tries again.

        now_s: since the epoch. before_s: as in `UnmountedSpools`.
        """
        if self._is_running or self.ids:
            return
        self._is_running = True
        spools = UnmountedSpools(before_s=before_s)
        try:
            kept = await self._remove(self._sources.all_ids(), spools)
        except VolumeError as exc:
            log.error("%s", exc, extra={"code": exc.code})  # noqa: TRY400
        else:
            spools.publish(now_s)
            kept, self._kept = kept if kept != self._kept else 0, kept
            if kept:
                log.warning(
                    "%d volumes that are not mounted have data that was not uploaded, in"
                    " directories of %s; a volume's next mount uploads them",
                    kept,
                    self._sources.spools,
                )
        finally:
            self._is_running = False

    async def _remove(self, ids: Iterator[str], spools: UnmountedSpools) -> int:
        """Returns how many stay, because there are files in them."""
        kept = 0
        while part := await off_loop(partial(_next, ids, self._part), "looking for directories"):
            self.ids = frozenset(mount_id for mount_id in part if not self._is_used(mount_id))
            remove = partial(self._remove_all, self.ids, spools)
            kept += await off_loop(remove, "removing directories")
        return kept

    def _remove_all(self, ids: AbstractSet[str], spools: UnmountedSpools) -> int:
        """In a thread, which may be late. Returns how many stay."""
        kept = 0
        try:
            for mount_id in ids:
                try:
                    spools.take(self._sources.state(mount_id))
                    kept += not self._sources.remove_empty(mount_id)
                except VolumeError as exc:
                    log.error("%s", exc, extra={"mount": mount_id, "code": exc.code})  # noqa: TRY400
        finally:
            self.ids = frozenset()
        return kept


def _next(ids: Iterator[str], most: int) -> list[str]:
    return list(islice(ids, most))
