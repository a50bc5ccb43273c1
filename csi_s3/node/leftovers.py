"""Files below a target: written to the node's disk while nothing was mounted there.

This version shows that directory to no container (`node.binds`). An earlier version did, and a
target that is unmounted by hand still does. The files belong to the pod's owner, who gets an Event,
and must not keep the pod from ending. So the directory is moved as it is, by one rename, to

    <state dir>/leftovers/<pod's uid>_<volume>/mount      readable by root only

Its content is not read: it may be anything. kubelet's pods and the state directory are two mounts
of the node plugin's container, so that the rename goes through the target's.
"""

import logging
import os
from contextlib import suppress
from errno import EXDEV
from functools import partial
from itertools import count
from pathlib import Path

from csi_s3.bounded import Recent
from csi_s3.errors import NotEmptyError, TargetNotEmptyError
from csi_s3.kernel.file_handles import open_on_mount
from csi_s3.kernel.syscalls import open_fd
from csi_s3.node import event_texts
from csi_s3.node.pod_events import PodEvents
from csi_s3.node.source_mounts import off_loop
from csi_s3.node.targets import Target

_NAME_BYTES = 200
_STUCK = 1000

log = logging.getLogger(__name__)


class Leftovers:
    """Concurrency: one call per target at a time."""

    def __init__(self, directory: Path, pod_events: PodEvents) -> None:
        self._directory, self._pod_events = directory, pod_events
        self._stuck: Recent[Target, None] = Recent(_STUCK)  # an Event said that it cannot be moved

    def report_hidden(self, target: Target, volume: str) -> None:
        text = event_texts.files_hidden(volume, target.path, self._directory)
        log.warning("%s", text, extra={"volume": volume, "target": target.path})
        self._pod_events.post([target], event_texts.FILES_ON_NODE, text)

    async def remove(self, target: Target) -> None:
        """Remove the target's directory, on which nothing is mounted; with files in it, move it.

        Raises:
            TargetNotEmptyError: it cannot be moved. Nothing was changed.
            BadRequestError: its path is not made of plain directories.

        """
        try:
            moved_to = await off_loop(partial(self._remove, target), "removing the target")
        except TargetNotEmptyError as exc:
            if target not in self._stuck:  # kubelet repeats the request
                self._stuck[target] = None
                self._pod_events.post_last(target, event_texts.FILES_ON_NODE, str(exc))
            raise
        self._stuck.pop(target, None)
        if moved_to is not None:
            text = event_texts.files_moved(target.path, moved_to)
            log.warning("%s", text, extra={"target": target.path})
            self._pod_events.post_last(target, event_texts.FILES_ON_NODE, text)

    def _remove(self, target: Target) -> str | None:
        """Return the path to which its files were moved, if any."""
        try:
            target.remove()
        except NotEmptyError:
            return self._move(target)
        return None

    def _move(self, target: Target) -> str:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        home = self._home(target)
        try:
            to = open_fd(os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            with to as to_fd, target.parent() as parent:
                _rename(target.name, parent, to_fd)
        except OSError as exc:
            home.rmdir()
            why = "they are on another file system" if exc.errno == EXDEV else exc.strerror
            raise TargetNotEmptyError(
                f"target {target.path} is not mounted, but there are files in it, which could not"
                f" be moved to {self._directory}: {why}",
                "they are on the node's disk, not in the bucket; move them so that the pod can end",
            ) from exc
        return str(home / target.name)

    def _home(self, target: Target) -> Path:
        names = target.pod_and_volume or (target.relative.replace("/", "_"),)
        name = os.fsdecode(os.fsencode("_".join(names))[:_NAME_BYTES])
        for number in count():
            home = self._directory / (f"{name}-{number}" if number else name)
            with suppress(FileExistsError):
                home.mkdir(mode=0o700)
                break
        return home


def _rename(name: str, parent: int, to: int) -> None:
    """Move a directory between mounts of one file system. Raises OSError; EXDEV: of two."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with (
        open_fd(os.open(".", flags, dir_fd=parent)) as mount,
        open_fd(open_on_mount(to, mount)) as to_on_mount,
    ):
        os.rename(name, name, src_dir_fd=parent, dst_dir_fd=to_on_mount)
