"""Notifications to the kernel, written to /dev/fuse: requests to drop names that are not in use.

Since Linux 6.18 one notification takes many inode numbers, locks no directory, and skips what is in
use (FUSE_NOTIFY_PRUNE). Older kernels take one name at a time and wait for the directory's lock,
which they hold while a READDIR, a look-up or a change of that directory is under way.

pyfuse3 has no FUSE_NOTIFY_PRUNE. Rejected: FUSE_EXPIRE_ONLY, after which the kernel (6.18) looks a
name up again at its next use, but keeps the inode.
"""

import fcntl
import logging
import os
import struct
from collections.abc import Callable, Sequence

from csi_s3.fs.names.kernel_cache import CachedName

log = logging.getLogger(__name__)

# include/uapi/linux/fuse.h
_MINOR_AT = 44  # in an INIT request: struct fuse_in_header, then struct fuse_init_in
_HEADER = struct.Struct("<IiQ")  # struct fuse_out_header: length, code of the notification, 0
FUSE_NOTIFY_INVAL_ENTRY = 3
_ENTRY = struct.Struct("<QII")  # struct fuse_notify_inval_entry_out
FUSE_NOTIFY_PRUNE = 9
_PRUNE = struct.Struct("<IIQ")  # struct fuse_notify_prune_out
PRUNE_SINCE_MINOR = 45


def can_prune(init_request: bytes) -> bool:
    """Whether the kernel that sent this INIT request has FUSE_NOTIFY_PRUNE."""
    (minor,) = struct.unpack_from("<I", init_request, _MINOR_AT)
    return bool(minor >= PRUNE_SINCE_MINOR)


def prune(inodes: Sequence[int]) -> bytes:
    body = _PRUNE.pack(len(inodes), 0, 0) + struct.pack(f"<{len(inodes)}Q", *inodes)
    return _HEADER.pack(_HEADER.size + len(body), FUSE_NOTIFY_PRUNE, 0) + body


def invalidate(parent: int, name: bytes) -> bytes:
    body = _ENTRY.pack(parent, len(name), 0) + name + b"\0"
    return _HEADER.pack(_HEADER.size + len(body), FUSE_NOTIFY_INVAL_ENTRY, 0) + body


class Notifier:
    """Lifetime: from the INIT reply to `close`. Concurrency: `drop` is called in a thread.

    The number of its descriptor is never freed, so that a thread that returns late cannot write
    into another file. can_prune: the kernel leaves alone what is in use, directories as well.
    """

    def __init__(self, fuse_fd: int, init_request: bytes) -> None:
        self._fd = fcntl.fcntl(fuse_fd, fcntl.F_DUPFD_CLOEXEC, 0)
        self.can_prune = can_prune(init_request)
        self._is_closed = False

    def close(self) -> None:
        """Release the connection; plain code."""
        self._is_closed = True
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, self._fd, inheritable=False)
        os.close(null)

    def drop(
        self, names: Sequence[CachedName], *, is_read: Callable[[int], bool]
    ) -> Sequence[CachedName]:
        """Ask the kernel to drop each name; may block. Returns the names that were skipped.

        Skipped are names of directories that are being read. A READDIR that is answered without
        the store, or that this process has not seen yet, is waited for.
        """
        if self.can_prune:
            self._write(prune([name.ino for name in names]))
            return ()
        skipped = []
        for name in names:
            if is_read(name.parent):
                skipped.append(name)
            else:
                self._write(invalidate(name.parent, name.name))
        return skipped

    def _write(self, notification: bytes) -> None:
        if self._is_closed:
            return
        try:
            os.write(self._fd, notification)
        except FileNotFoundError:
            pass  # the kernel does not have it
        except OSError as exc:
            log.debug("the kernel did not drop names: %s", exc)
