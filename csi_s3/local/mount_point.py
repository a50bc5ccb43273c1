"""May this directory be mounted on? Asked before anything is started, and told in plain words.

/proc/self/mountinfo is asked before the path is touched: a stat of a mount whose program hangs
would hang as well.
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

TOLERATED = {"autofs"}  # a systemd automount point waits for exactly this mount


@contextmanager
def claimed(directory: Path) -> Iterator[Path]:
    """The real path of a directory that is free, ours until the block ends.

    The claim is a flock on the directory below the mount, so that of two programs that want one
    directory at the same moment one gets it and the other an error; mounts would stack silently.

    Raises:
        MountError: it does not exist, is no directory, is mounted on already, or is just being
            mounted on by somebody else.

    """
    path = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would touch the mount
    if _refuse_mounted(path) is not None:
        yield path  # to open an automount point would wait for the mount that we are to make
        return
    fd = _open(path)
    try:
        path = path.resolve()
        _refuse_mounted(path)  # it may have been a symlink
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise MountError(
                f"{path} is just being mounted on by another program",
                hint="one directory holds one mount: give each its own",
            ) from exc
        _refuse_mounted(path)
        yield path
    finally:
        os.close(fd)


def _refuse_mounted(path: Path) -> MountEntry | None:
    """What is mounted there and tolerated, or None."""
    entry = mount_at(str(path))
    if entry is not None and entry.fs_type not in TOLERATED:
        raise MountError(
            f"{path} is already a mount point: {entry.source} of type {entry.fs_type}",
            hint=f"one directory holds one mount: umount {path} first, or give another directory",
        )
    return entry


def _open(path: Path) -> int:
    hints = {
        ENOENT: f"mkdir -p {path}",
        ENOTDIR: "give a directory",
        EACCES: "the caller must be able to read it",
        ENOTCONN: f"a mount above it lost its program: umount -l {path.parent}",
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
