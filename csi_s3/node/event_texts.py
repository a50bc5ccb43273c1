"""Reasons and texts of the Events that the node plugin posts on pods.

A reason is CamelCase, for programs. A text is for people: it names the volume or the path, says
what happened and what to do. It is the same for equal causes, so that Kubernetes counts them.
"""

from dataclasses import fields, is_dataclass
from typing import Any

from csi_s3.config.volume import VolumeConfig
from csi_s3.errors import VolumeError
from csi_s3.link.report import Notice, Reason

VOLUME_BROKEN = "VolumeBroken"
DUPLICATE_HANDLE = "DuplicateVolumeHandle"
IGNORED_OPTION = "IgnoredOption"
FILES_ON_NODE = "FilesOnNode"

_AFTER_A_DEATH = (
    "Containers get 'Transport endpoint is not connected' from the volume until they are restarted."
    " A restart works once kubelet has published the volume again, which takes up to two minutes"
)
_ON_NODE = "files were written to the node's disk, in {}, while the volume was not mounted there"


def mount_died(error: VolumeError) -> str:
    """Why the mount of running pods ended, in the mounter's words, and what that means for them."""
    public = error.as_public()
    lost = "Data that was not closed or synced before may be lost"
    return f"{public}. {lost}. {_AFTER_A_DEATH} [{error.code}]"


def mount_lost(source: str) -> str:
    return f"the mount of {source} was lost while the node plugin was down. {_AFTER_A_DEATH}"


def failed_after_last_pod(handle: str, error: VolumeError) -> str:
    return f"volume {handle}, after its last pod ended: {error.as_public()} [{error.code}]"


def noticed(handle: str, notice: Notice) -> str:
    """What a worker reports of its mount."""
    error = notice.error.as_public()
    if notice.reason is Reason.NOT_WRITABLE:
        return f"volume {handle}: {error.what}: {error.hint}"
    if notice.reason is Reason.MISSING_OPTION:
        return (
            f"volume {handle}: a change was refused because it {error.hint}; add the option to the"
            " PersistentVolume's mountOptions and recreate the pods"
        )
    return f"volume {handle}: {error} [{error.code}]; the mounter's log names each file"


def duplicate_handle(handle: str, differences: str) -> str:
    return (
        f"volumeHandle {handle!r} is used on this node with different settings: {differences}. Both"
        " are served. Two PersistentVolumes need different volumeHandles: a pod that uses both"
        " gets only one of them. If the options of one PersistentVolume, or the driver's defaults,"
        " were edited, running pods keep the old ones until they are recreated"
    )


def files_hidden(volume: str, path: str, directory: object) -> str:
    return (
        f"volume {volume}: {_ON_NODE.format(path)}. They are not in the bucket, and the mount hides"
        f" them. When the pod ends they are moved to a directory below {directory} on the node"
    )


def files_moved(path: str, moved_to: str) -> str:
    return (
        f"{_ON_NODE.format(path)}. They are not in the bucket. They were moved to {moved_to} on the"
        " node"
    )


def differences(ours: VolumeConfig, theirs: VolumeConfig) -> str:
    """As `bucket.prefix 'a/' here, 'b/' there; …`. These are settings, never secrets.

    "" if only the settings that come with a pod's fsGroup differ, as pods of one volume may.
    """
    parts: tuple[tuple[str, Any, Any], ...] = (
        ("bucket.", ours.bucket, theirs.bucket),
        ("tree.", ours.tree, theirs.tree),
        ("", ours, theirs),
    )
    return "; ".join(
        f"{prefix}{field.name} {here!r} here, {there!r} there"
        for prefix, our_part, their_part in parts
        for field in fields(our_part)
        if field.name not in _NOT_COMPARED
        for here, there in [(getattr(our_part, field.name), getattr(their_part, field.name))]
        if here != there and not is_dataclass(here)
    )


_NOT_COMPARED = {"gid", "dir_mode", "file_mode", "read_only"}
