"""Aborts FUSE connections, so that every process that waits in one gets an error.

This uses the fusectl file system, in which each connection has a directory named by its minor
number. umount -f would do the same but needs a mount point, which a mount that only a container
still has does not offer.
"""

import os

from csi_s3.errors import MountError
from csi_s3.kernel import mount, syscalls
from csi_s3.kernel.syscalls import open_fd

FS_TYPE = "fusectl"


def abort(minor: int, *, fd: int | None = None) -> bool:
    """Abort the connection. Returns False if it had ended already.

    It mounts fusectl detached: a pod has none in its /sys, and one below kubelet's directory would
    be visible on the host.

    fd: a duplicate of its /dev/fuse descriptor. The kernel reuses a minor as soon as it is
    free. With fd no other connection can be aborted: if fd is alive after the file was opened,
    the file belongs to its connection.

    Raises:
        MountError: fusectl cannot be mounted, or the kernel refused.

    """
    try:
        with open_fd(syscalls.detached_mount(FS_TYPE)) as root:
            file = os.open(f"{minor}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
        with open_fd(file):
            if fd is not None and mount.is_over(fd):
                return False
            os.write(file, b"1")
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise MountError(
            f"cannot abort the FUSE connection {minor}: {exc.strerror}",
            hint="needs root (CAP_SYS_ADMIN) and a kernel with fusectl",
        ) from exc
    return True
