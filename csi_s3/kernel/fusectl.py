"""Ends a FUSE connection, so that everybody who waits in it is freed with an error.

Through the fusectl file system, where each connection has a directory named by its minor number.
umount -f would do the same, but needs a mount to name: a mount that only a container still has
is out of its reach.
"""

import os

from csi_s3.errors import MountError
from csi_s3.kernel import mount, syscalls

FS_TYPE = "fusectl"


class FuseControl:
    """Through a mount of fusectl that is attached nowhere, made for each use.

    A pod sees none in its /sys; one below kubelet's directory would reach the host.
    """

    def abort(self, minor: int, *, fd: int | None = None) -> bool:
        """Abort the connection. Returns False where it had ended already.

        fd: a duplicate of its /dev/fuse descriptor. The kernel gives a minor to the next mount as
        soon as it is free; with fd that one cannot be hit: fd is alive after the file was opened,
        so the file is its.

        Raises:
            MountError: fusectl cannot be had, or refused.

        """
        try:
            root = syscalls.detached_mount(FS_TYPE)
            try:
                file = os.open(f"{minor}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
            finally:
                os.close(root)
            try:
                if fd is not None and mount.is_over(fd):
                    return False
                os.write(file, b"1")
            finally:
                os.close(file)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise MountError(
                f"cannot abort the FUSE connection {minor}: {exc.strerror}",
                hint="needs root (CAP_SYS_ADMIN) and a kernel with fusectl",
            ) from exc
        return True
