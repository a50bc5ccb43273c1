"""Ends a FUSE connection, so that everybody who waits in it is freed with an error.

Through the fusectl file system, where each connection has a directory named by its minor number.
umount -f would do the same, but needs a mount to name: a mount that only a container still has
is out of its reach.
"""

import threading
from pathlib import Path

from csi_s3.errors import MountError
from csi_s3.kernel import mount, syscalls
from csi_s3.kernel.mountinfo import read_mountinfo

FS_TYPE = "fusectl"


class FuseControl:
    """fusectl, wherever it is mounted writable; else mounted on a private directory of ours.

    A pod sees no fusectl in its /sys. The private mount is kept and found again by the next run.
    """

    def __init__(self, private: Path) -> None:
        self._private = private
        self._mounting = threading.Lock()  # several mounts are aborted at once, from threads

    def abort(self, minor: int, *, fd: int | None = None) -> bool:
        """Abort the connection. Returns False where it had ended already.

        fd: a duplicate of its /dev/fuse descriptor. The kernel gives a minor to the next mount as
        soon as it is free; with fd that one cannot be hit: fd is alive after the file was opened,
        so the file is its.

        Raises:
            MountError: fusectl cannot be had, or refused.

        """
        try:
            with (self._connections() / str(minor) / "abort").open("wb", buffering=0) as file:
                if fd is not None and mount.is_over(fd):
                    return False
                file.write(b"1")
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise MountError(
                f"cannot abort the FUSE connection {minor}: {exc.strerror}",
                hint="needs root and fusectl: mount -t fusectl none /sys/fs/fuse/connections",
            ) from exc
        return True

    def _connections(self) -> Path:
        with self._mounting:
            for entry in read_mountinfo():
                if entry.fs_type == FS_TYPE and not entry.read_only:
                    return Path(entry.mount_point)
            self._private.mkdir(parents=True, exist_ok=True)
            syscalls.mount("none", str(self._private), FS_TYPE, 0, "")
            return self._private
