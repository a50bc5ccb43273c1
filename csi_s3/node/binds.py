"""Binds of a mount: on a pod's target, and on kubelet's path for the subPath of a container.

A dead mount stays where it is bound, and its successor is bound on top of it. Until then a
container that starts gets an error at every access. If the dead mount were removed first, the
container would get the directory below, on the node's disk, for its whole life: its files would be
in no bucket, and no error would say so (decision 0016).

To keep the stack from growing, all dead layers but the lowest are removed before the next bind:
the lowest still hides the directory. Everything here blocks: call it in a thread.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from csi_s3.errors import ExistsError, MountError, VolumeError
from csi_s3.kernel import mount, syscalls
from csi_s3.kernel.mountinfo import MountEntry, read_mountinfo
from csi_s3.kernel.syscalls import open_fd
from csi_s3.node.source_mounts import SourceMount, SourceMounts
from csi_s3.node.targets import Target

_DELETED = "//deleted"  # mountinfo appends it to a root that has lost its name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """is_new: it was not there before. hides_files: it is the first layer and hides files."""

    is_new: bool
    hides_files: bool = False


def attach(
    sources: SourceMounts, source: SourceMount, target: Target, *, read_only: bool
) -> Attachment:
    """Bind the mount to target unless it is there, and verify it in mountinfo.

    Raises:
        ExistsError: it is there with the other read_only.
        MountError: the target holds another mount, or the kernel refused. What this call has
            attached is removed, of whatever type it is.

    """
    layers = target.layers()
    if layers and layers[-1].device == source.device:
        _refuse_other(target, layers[-1], read_only=read_only)
        return Attachment(is_new=False)
    for layer in layers:
        if layer.fs_type != mount.FS_TYPE:
            raise MountError(
                f"{target.path} holds another mount: {layer.source} of type {layer.fs_type}",
                f"delete the pod that uses it, or find out what mounted it: umount {target.path}",
            )
    made = not layers and target.create()
    target.detach(down_to=1)
    hides_files = not layers and target.has_files()
    try:
        with sources.root(source) as root, target.opened() as directory:
            mount.bind(root, directory, read_only=read_only)
        entry = target.mounted()
        if entry is None or entry.device != source.device or entry.read_only != read_only:
            raise MountError(f"{target.path} was mounted, but mountinfo shows another mount")
    except (VolumeError, OSError):
        target.detach(down_to=min(len(layers), 1), of_any_type=True)
        if made:
            target.remove()
        raise
    return Attachment(is_new=True, hides_files=hides_files)


def _refuse_other(target: Target, entry: MountEntry, *, read_only: bool) -> None:
    if entry.read_only != read_only:
        is_, wanted = (
            ("read-only", "read-write") if entry.read_only else ("read-write", "read-only")
        )
        raise ExistsError(
            f"{target.path} is already published {is_}, not {wanted} as requested",
            "unpublish it first",
        )


def renew_subpaths(
    sources: SourceMounts, source: SourceMount, target: Target, *, read_only: bool
) -> list[str]:
    """Bind the mount's parts on top of kubelet's binds of its dead predecessors.

    kubelet checks its bind before each start of the container: it fails if that is dead, and
    accepts one of the right part. Looks up names in the mount, so its daemon must answer. A part
    that is not in the bucket is skipped: kubelet makes it when the container starts.
    Returns a line for each bind that stays dead for another reason.
    """
    stay_dead = []
    for subpath, entry in target.subpaths(read_mountinfo()).items():
        if entry.fs_type != mount.FS_TYPE or entry.device == source.device:
            continue
        part = entry.root.removesuffix(_DELETED).lstrip("/") or "."
        try:
            subpath.detach(down_to=1)
            # Follows no symlink: bound, it would lead to the node's files.
            with (
                sources.root(source) as root,
                open_fd(syscalls.open_beneath(root, part, os.O_PATH)) as wanted,
                subpath.opened(os.O_PATH) as at,
            ):
                if _mount_id(at) in {layer.mount_id for layer in subpath.layers()}:
                    mount.bind(wanted, at, read_only=read_only)
        except FileNotFoundError:
            log.debug("%s: not there yet", subpath.path)
        except (VolumeError, OSError) as exc:
            stay_dead.append(f"{subpath.path} stays dead: {exc}")
    return stay_dead


def _mount_id(fd: int) -> int:
    """Of the mount that an open descriptor is in (proc_pid_fdinfo(5))."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return int(value)
    raise MountError("fdinfo of a descriptor has no mnt_id")
