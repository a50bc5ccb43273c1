"""The name of a Unix socket in the file system: how it is made, replaced and removed.

A socket is bound through /proc/self/fd, because its path may be longer than sun_path's 107 bytes.
It is bound under a temporary name and then renamed, so that a stale socket is replaced in one step.
gRPC removes the name that it bound when it stops: after a forced deletion of a pod that would be
the new pod's socket. kubelet's plug-in watcher ignores names that begin with a dot.
"""

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from errno import EEXIST
from pathlib import Path


def bind(path: Path, bind_at: Callable[[str], object], *, mode: int, gid: int | None = None) -> int:
    """Have `bind_at` bind a socket to a short path, and give it the name `path`.

    Returns the inode number by which `remove` recognises the socket.

    Raises:
        OSError: the directory does not exist, or path exists and is not a socket.

    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(
                os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode
            ):
                raise FileExistsError(EEXIST, "exists and is not a socket", str(path))
        temporary = f".{secrets.token_hex(6)}"
        old = os.umask(0o777 & ~mode)
        try:
            bind_at(f"/proc/self/fd/{directory}/{temporary}")
        finally:
            os.umask(old)
        inode = os.stat(temporary, dir_fd=directory).st_ino
        os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        if gid is not None:
            os.chown(path.name, -1, gid, dir_fd=directory, follow_symlinks=False)
        return inode
    finally:
        os.close(directory)


def remove(path: Path, inode: int) -> None:
    """Remove the socket's name, unless another socket has it by now."""
    with suppress(FileNotFoundError):
        if path.lstat().st_ino == inode:
            path.unlink()
