"""Checks that a directory can be mounted on, before anything is started.

/proc/self/mountinfo is read before the path is touched: a stat of a mount whose program hangs would
hang as well.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, ENOENT, ENOTCONN, ENOTDIR
from pathlib import Path

from csi_s3.errors import MountError
from csi_s3.kernel.mountinfo import MountEntry, mount_at
from csi_s3.kernel.syscalls import open_fd

ALLOWED_FS_TYPES = {"autofs"}  # a systemd automount point waits for this mount


@contextmanager
def claim(directory: Path) -> Iterator[Path]:
    """The real path of a directory, locked for mounting until the block ends.

    The lock is a flock on the directory below the mount: if two programs mount on one directory
    concurrently, one gets an error. Otherwise their mounts would be stacked.

    Raises:
        MountError: it does not exist, is not a directory, is already a mount point, or is locked by
            another program.

    """
    path = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would touch the mount
    if _refuse_mounted(path) is not None:
        yield path  # opening an automount point would wait for this mount
        return
    with open_fd(_open(path)) as fd:
        path = path.resolve()
        _refuse_mounted(path)  # it may have been a symlink
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise MountError(
                f"another program is mounting on {path}",
                hint="use a separate directory for each mount",
            ) from exc
        _refuse_mounted(path)
        yield path


def _refuse_mounted(path: Path) -> MountEntry | None:
    """The mount on path if it is allowed, or None.

    Raises:
        MountError: it is not allowed.

    """
    entry = mount_at(str(path))
    if entry is not None and entry.fs_type not in ALLOWED_FS_TYPES:
        raise MountError(
            f"{path} is already a mount point: {entry.source} of type {entry.fs_type}",
            hint=f"unmount it first (umount {path}), or use another directory",
        )
    return entry


def _open(path: Path) -> int:
    hints = {
        ENOENT: f"mkdir -p {path}",
        ENOTDIR: "use a directory",
        EACCES: "the user must be able to read it",
        ENOTCONN: f"the program of a mount above it has ended: umount -l {path.parent}",
    }
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise MountError(
            f"cannot mount on {path}: {exc.strerror}", hint=hints.get(exc.errno or 0, "")
        ) from exc
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise MountError(f"cannot mount on {path}: it is not a directory", hints[ENOTDIR])
    return fd
