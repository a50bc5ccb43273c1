"""After a start of node: the kernel's mounts against those that the mounter serves.

A restart of node leaves the mounts of pods alone, so the table is rebuilt from the mounter's `have`
messages and mountinfo. A mount that no worker serves is aborted, because any access to it would
hang, and its source is removed; on the targets it stays, dead (`node.binds`).
Everything here blocks: call it in a thread.
"""

import logging
import os
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial

from csi_s3.errors import VolumeError
from csi_s3.kernel import fusectl, mount
from csi_s3.kernel.mountinfo import MountEntry, read_mountinfo
from csi_s3.link.spec import MountSpec
from csi_s3.node.mounter_link import HeldMount
from csi_s3.node.source_mounts import SourceMount, SourceMounts
from csi_s3.node.targets import Target, Targets

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
    """lost: targets whose mount is dead, each with the mount's source."""

    live: list[LiveMount]
    lost: dict[Target, str]


def survey(
    held: Sequence[HeldMount], known: AbstractSet[str], sources: SourceMounts, targets: Targets
) -> Survey:
    """Match them, and clean up. known: ids of the mounts in the table, which are left alone.

    Takes over the held mounts' descriptors: each goes to a LiveMount or is closed.
    """
    entries = read_mountinfo()
    targets_on = partial(targets.all_on, entries=entries, except_below=sources.volumes)
    at = {entry.mount_point: entry for entry in entries if entry.fs_type == mount.FS_TYPE}
    live = []
    for one in held:
        mount_id = one.spec.mount_id
        if mount_id in known or mount.is_over(one.fd):
            os.close(one.fd)
            continue
        entry = at.get(str(sources.path(mount_id)))
        device = "" if entry is None else entry.device
        live.append(
            LiveMount(
                spec=one.spec,
                source=SourceMount(mount_id=mount_id, fd=one.fd, device=device, init=one.init),
                targets={} if entry is None else targets_on(device),
                leaving=entry is None,
                bucket_error=None if one.report is None else one.report.error,
            )
        )
    lost: dict[Target, str] = {}
    served = known | {one.spec.mount_id for one in live}
    for mount_id in sources.left_behind():
        if mount_id not in served:
            entry = at.get(str(sources.path(mount_id)))
            if entry is not None:
                lost |= dict.fromkeys(targets_on(entry.device), entry.source)
            _clean(mount_id, entry, sources)
    return Survey(live=live, lost=lost)


def _clean(mount_id: str, entry: MountEntry | None, sources: SourceMounts) -> None:
    if entry is not None:
        log.warning(
            "a mount of %s is left that no worker serves; it is aborted. Containers that use it "
            "must be restarted",
            entry.source,
            extra={"mount": mount_id},
        )
    steps: list[Callable[[], object]] = [
        *([] if entry is None else [partial(fusectl.abort, entry.minor)]),
        partial(sources.detach, mount_id),
        partial(sources.remove, mount_id),
    ]
    for step in steps:
        try:
            step()
        except VolumeError as exc:
            log.error("%s", exc, extra={"mount": mount_id, "code": exc.code})  # noqa: TRY400
