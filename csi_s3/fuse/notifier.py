"""Notifications to the kernel, written to /dev/fuse: what it has cached is to be dropped.

Each is one write, whose result is the kernel's answer. A write for pages waits until pages that are
being read are there, one for a name until no READDIR, look-up or change of its directory is under
way. Since Linux 6.18 one notification takes many inode numbers, locks no directory, and skips what
is in use (FUSE_NOTIFY_PRUNE).

Rejected: FUSE_EXPIRE_ONLY, after which the kernel (6.18) looks a name up again at its next use, but
keeps the inode.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from csi_s3.fs.names.kernel_cache import CachedName
from csi_s3.fuse.reply_messages import build_inval_entry, build_inval_inode, build_prune

log = logging.getLogger(__name__)

PRUNE_SINCE_MINOR = 45
STUCK_S = 1.0  # no further name of a directory is asked for while one has waited so long


class Notifier:
    """Lifetime: from the INIT reply to `close`.

    Concurrency: `drop` and `drop_pages` may block, and are called in a thread.

    The number of its descriptor is never freed, so that a thread that returns late cannot write
    into another file. can_prune: the kernel leaves alone what is in use, directories as well.
    """

    def __init__(self, fuse_fd: int, *, minor: int) -> None:
        """minor: of the kernel's protocol."""
        self._fd = fcntl.fcntl(fuse_fd, fcntl.F_DUPFD_CLOEXEC, 0)
        self.can_prune = minor >= PRUNE_SINCE_MINOR
        self._is_closed = False
        self._waiting: dict[int, tuple[int, float]] = {}  # by thread: a directory, since when
        self._names: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """Release the connection; plain code."""
        self._is_closed = True
        self._names.put(None)
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, self._fd, inheritable=False)
        os.close(null)

    def drop(
        self,
        names: Iterator[CachedName],
        skipped: list[CachedName],
        *,
        is_read: Callable[[int], bool],
    ) -> None:
        """Ask the kernel to drop each name; may block. Adds to skipped the names that it skips.

        names: an iterator of a list, which several threads may share: each takes the next one.

        Skipped are names of directories that are being read, or that another thread has waited for
        for a second. Look-ups, and what this process has not seen yet, are waited for.
        """
        if self.can_prune:
            self._write(build_prune([name.ino for name in names]))
            return
        for name in names:
            if is_read(name.parent) or self._is_stuck(name.parent):
                skipped.append(name)
                continue
            self._waiting[threading.get_ident()] = name.parent, time.monotonic()
            self._write(build_inval_entry(name.parent, name.name))
            del self._waiting[threading.get_ident()]

    def _is_stuck(self, directory: int) -> bool:
        now_s = time.monotonic()
        waiting = list(self._waiting.values())
        return any(where == directory and now_s - since > STUCK_S for where, since in waiting)

    def drop_pages(self, ino: int) -> bool:
        """Drop pages and attributes of an inode; may block. False: the kernel did not have it."""
        return self._write(build_inval_inode(ino, attr_only=False))

    def drop_attributes(self, ino: int) -> bool:
        """Drop the attributes of an inode. False: the kernel did not have it."""
        return self._write(build_inval_inode(ino, attr_only=True))

    def drop_soon(self, parent: int, name: bytes) -> None:
        """Drop a name, in a thread, after those that came before it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._drop_names, daemon=True)
            self._thread.start()
        self._names.put((parent, name))

    def _drop_names(self) -> None:
        while (name := self._names.get()) is not None:
            self._write(build_inval_entry(*name))

    def _write(self, notification: bytes) -> bool:
        if self._is_closed:
            return False
        try:
            os.write(self._fd, notification)
        except FileNotFoundError:
            return False
        except OSError as exc:
            log.debug("the kernel did not drop what it was asked to: %s", exc)
            return False
        return True
