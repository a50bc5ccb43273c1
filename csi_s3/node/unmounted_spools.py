"""What workers left in the spools of volumes that are not mounted here.

A volume's next worker uploads what its last one could not. A volume that does not come back (its
options were edited, or its pods run elsewhere) has no next worker. Its files count in metrics with
their age, and are removed after a time, because the disk is the node's.

The directories belong to the mounter's user, so that they may have anything in them: names are used
below a descriptor, no link is followed, and no content is read.
"""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from csi_s3.kernel.syscalls import open_fd
from csi_s3.obs.metrics import catalog as metrics

log = logging.getLogger(__name__)

_PREFIX, _DATA, _DESCRIPTION = "file-", ".data", ".json"  # as in `fs.write.spool_directory`
_STAT_BLOCK_BYTES = 512  # the unit of st_blocks: stat(2)
_NAMED = 10  # in the log, of one look
_MOST_NAMES = 20_000  # of one directory at a look; the others come once these are removed


@dataclass(slots=True, kw_only=True)
class UnmountedSpools:
    """The numbers of one look at all directories. Blocks: call `take` off the loop.

    before_s: what was left before is removed: since the epoch; 0.0: nothing is.
    oldest_s: since the epoch; 0.0: there is no file.
    """

    before_s: float = 0.0
    volumes: int = 0
    files: int = 0
    used_bytes: int = 0
    oldest_s: float = 0.0
    removed: list[str] = field(default_factory=list)  # the first few
    removed_files: int = 0

    def take(self, state: Path) -> None:
        """Count one volume's state directory, and remove what is old.

        A file's age is that of its description, which is written when it is left; without one,
        that of its bytes.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(state, flags)
        except OSError:  # none
            return
        try:
            with open_fd(fd):
                self._take(fd, state)
        except OSError as exc:
            log.warning("%s cannot be looked at: %s", state, exc.strerror)

    def _take(self, fd: int, state: Path) -> None:
        with os.scandir(fd) as entries:
            some = islice(entries, _MOST_NAMES)
            names = {e.name.partition(".")[0] for e in some if e.name.startswith(_PREFIX)}
        files = 0
        for name in names:
            described, data = (_stat(f"{name}{suffix}", fd) for suffix in (_DESCRIPTION, _DATA))
            if (last := described or data) is None:  # removed since
                continue
            if last.st_mtime < self.before_s and self._remove(name, fd, state):
                continue
            files += 1
            self.oldest_s = min(self.oldest_s or last.st_mtime, last.st_mtime)
            self.used_bytes += _STAT_BLOCK_BYTES * sum(
                one.st_blocks for one in (described, data) if one is not None
            )
        self.files += files
        self.volumes += files > 0

    def _remove(self, name: str, fd: int, state: Path) -> bool:
        """Remove a file and its description. False: it cannot be removed."""
        try:
            for suffix in (_DESCRIPTION, _DATA):
                with suppress(FileNotFoundError):
                    os.unlink(f"{name}{suffix}", dir_fd=fd)
        except OSError as exc:
            log.warning("%s/%s cannot be removed: %s", state, name, exc.strerror)
            return False
        self.removed_files += 1
        if len(self.removed) < _NAMED:
            self.removed.append(f"{state}/{name}{_DATA}")
        return True

    def publish(self, now_s: float) -> None:
        """Set the metrics, and log what was removed. now_s: since the epoch."""
        metrics.UNMOUNTED_SPOOLS.set(self.volumes)
        metrics.UNMOUNTED_SPOOL_FILES.set(self.files)
        metrics.UNMOUNTED_SPOOL_BYTES.set(self.used_bytes)
        metrics.UNMOUNTED_SPOOL_AGE.set(max(0.0, now_s - self.oldest_s) if self.oldest_s else 0.0)
        if self.removed_files:
            metrics.UNMOUNTED_SPOOL_REMOVED.inc(self.removed_files)
            log.warning(
                "%d files that were not uploaded, of volumes that are not mounted here, are removed"
                " because their time is over: %s%s",
                self.removed_files,
                ", ".join(self.removed),
                ", ..." if self.removed_files > len(self.removed) else "",
            )


def _stat(name: str, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None
