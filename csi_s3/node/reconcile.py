"""After a start of ours: what the kernel has mounted, against what the mounter says it serves.

A restart of node leaves pods' mounts alone, so the table is rebuilt from the mounter's `have`
messages and mountinfo. What nobody serves is aborted, because whoever touched it would hang, and
its source is removed; on the targets it stays, dead (`node.binds`).
Everything here blocks: call it in a thread.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial

from csi_s3.errors import VolumeError
from csi_s3.kernel import mount
from csi_s3.kernel.mountinfo import MountEntry, read_mountinfo
from csi_s3.link.spec import MountSpec
from csi_s3.node.mounter_link import HeldMount
from csi_s3.node.source_mounts import SourceMount, SourceMounts
from csi_s3.node.targets import Target, Targets

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMount:
    """A mount that lives. leaving: its source is unmounted already; containers still have it."""

    spec: MountSpec
    source: SourceMount
    targets: dict[Target, bool]
    leaving: bool
    wrong: VolumeError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """found: what lives. lost: targets whose mount is dead, with its source."""

    found: list[LiveMount]
    lost: dict[Target, str]


def survey(
    held: Sequence[HeldMount], known: AbstractSet[str], sources: SourceMounts, targets: Targets
) -> Survey:
    """Match them, and clean up. known: ids of the mounts that have an owner, left alone.

    Takes the held mounts' descriptors: each is a LiveMount's, or closed.
    """
    entries = read_mountinfo()
    targets_on = partial(targets.all_on, entries=entries, besides=sources.volumes)
    at = {entry.mount_point: entry for entry in entries if entry.fs_type == mount.FS_TYPE}
    found = []
    for have in held:
        mount_id = have.spec.mount_id
        if mount_id in known or mount.is_over(have.fd):
            os.close(have.fd)
            continue
        entry = at.get(str(sources.path(mount_id)))
        device = "" if entry is None else entry.device
        found.append(
            LiveMount(
                spec=have.spec,
                source=SourceMount(mount_id=mount_id, fd=have.fd, device=device, init=have.init),
                targets={} if entry is None else targets_on(device),
                leaving=entry is None,
                wrong=None if have.report is None else have.report.error,
            )
        )
    lost: dict[Target, str] = {}
    kept = known | {f.spec.mount_id for f in found}
    for mount_id in sources.left_behind():
        if mount_id not in kept:
            entry = at.get(str(sources.path(mount_id)))
            if entry is not None:
                lost |= dict.fromkeys(targets_on(entry.device), entry.source)
            _clean(mount_id, entry, sources)
    return Survey(found=found, lost=lost)


def _clean(mount_id: str, entry: MountEntry | None, sources: SourceMounts) -> None:
    if entry is not None:
        log.warning(
            "a mount of %s was left that nobody serves; it is aborted. Containers that use it must "
            "be restarted",
            entry.source,
            extra={"mount": mount_id},
        )
    for step in _steps(mount_id, entry, sources):
        try:
            step()
        except VolumeError as exc:
            log.error("%s", exc, extra={"mount": mount_id, "code": exc.code})  # noqa: TRY400


def _steps(
    mount_id: str, entry: MountEntry | None, sources: SourceMounts
) -> Iterator[Callable[[], object]]:
    if entry is not None:
        yield partial(sources.end_orphan, entry)
    yield partial(sources.detach, mount_id)
    yield partial(sources.remove, mount_id)
