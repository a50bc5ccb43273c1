"""Files below a target: written on the node's disk while nothing was mounted there.

This version shows no container that directory (`node.binds`); an earlier one did, and whoever
unmounts a target by hand does. They belong to a pod's owner, who has to hear of them, and must not
keep the pod from ending. So the directory is moved as it is, by one rename, to

    <state dir>/leftovers/<pod's uid>_<volume>/mount      for root only

Its content is not looked into: it may hold anything.
"""

import logging
import os
from errno import EXDEV
from functools import partial
from itertools import count
from pathlib import Path

from csi_s3.errors import NotEmptyError, TargetNotEmptyError
from csi_s3.node.pod_events import FILES_ON_NODE, PodEvents
from csi_s3.node.source_mounts import off_loop
from csi_s3.node.targets import Target

_NAME_BYTES = 200

log = logging.getLogger(__name__)


class Leftovers:
    """Concurrency: one call per target at a time."""

    def __init__(self, directory: Path, pod_events: PodEvents) -> None:
        self._directory, self._pod_events = directory, pod_events
        self._stuck: set[Target] = set()  # of those that were told

    def found(self, target: Target, volume: str) -> None:
        """Tell that a mount hides files."""
        text = (
            f"volume {volume}: files were written on the node's disk, in {target.path}, while it"
            " was not mounted there. They are not in the bucket, and the mount hides them now. When"
            f" the pod has ended they are below {self._directory} on the node"
        )
        log.warning("%s", text, extra={"volume": volume, "target": target.path})
        self._pod_events.tell([target], FILES_ON_NODE, text)

    async def remove(self, target: Target) -> None:
        """Remove the target's directory, on which nothing is mounted; with files in it, move it.

        Raises:
            TargetNotEmptyError: it cannot be moved. Nothing was changed.
            BadRequestError: the way to it is not plain directories.

        """
        try:
            moved = await off_loop(partial(self._remove, target), "removing the target")
        except TargetNotEmptyError as exc:
            if target not in self._stuck:  # kubelet asks again and again
                self._stuck.add(target)
                self._pod_events.tell_last(target, FILES_ON_NODE, str(exc))
            raise
        self._stuck.discard(target)
        if moved is None:
            return
        text = (
            f"files were written on the node's disk, in {target.path}, while the volume was not"
            f" mounted there. They are not in the bucket. They were moved to {moved} on the node"
        )
        log.warning("%s", text, extra={"target": target.path})
        self._pod_events.tell_last(target, FILES_ON_NODE, text)

    def _remove(self, target: Target) -> str | None:
        """Return where its files are now."""
        try:
            target.remove()
        except NotEmptyError:
            return self._move(target)
        return None

    def _move(self, target: Target) -> str:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        home = self._home(target)
        try:
            with target.parent() as parent:
                to = os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.rename(target.name, target.name, src_dir_fd=parent, dst_dir_fd=to)
                finally:
                    os.close(to)
        except OSError as exc:
            home.rmdir()
            why = "they are on another file system" if exc.errno == EXDEV else exc.strerror
            raise TargetNotEmptyError(
                f"target {target.path} is not mounted, but there are files in it, which could not"
                f" be moved to {self._directory}: {why}",
                "they are on the node's disk, not in the bucket; move them away, and the pod ends",
            ) from exc
        return str(home / target.name)

    def _home(self, target: Target) -> Path:
        """Make a directory that was not there."""
        names = target.pod_and_volume or (target.relative.replace("/", "_"),)
        name = os.fsdecode(os.fsencode("_".join(names))[:_NAME_BYTES])
        numbers = count()
        while True:
            number = next(numbers)
            home = self._directory / (f"{name}-{number}" if number else name)
            try:
                home.mkdir(mode=0o700)
            except FileExistsError:
                continue
            return home
