"""Descriptors that another process sent: what they are, and how they are closed.

A descriptor of an unknown file is dangerous to a process with one event loop: fstat, poll and
close(2) ask the file's file system, and a FUSE daemon that does not answer makes them wait,
uninterruptibly once the daemon has read the request; a TCP socket with SO_LINGER makes the last
close wait as long as its owner wished. The process can then not even be killed. So nothing is
called on it that could ask, and it is closed in a thread.

A FUSE connection that does not answer close is aborted, which ends the wait. Nothing else would
before its daemon answers, and no mounter has a reason to send such a file.
"""

import contextlib
import fcntl
import logging
import os
import stat
import threading
from collections.abc import Sequence

from csi_s3.errors import VolumeError
from csi_s3.kernel import fusectl, mount
from csi_s3.kernel.syscalls import cached_status

ABORT_AFTER_S = 1.0

log = logging.getLogger(__name__)

_closing: set[threading.Thread] = set()  # bounded by who receives: see `are_few_closing`
_FEW = 16


def is_fuse_device(fd: int) -> bool:
    """Whether it is an open /dev/fuse, on which no call waits. Asks no file system."""
    try:
        mode, rdev, _ = cached_status(fd)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError:
        return False
    return stat.S_ISCHR(mode) and rdev == mount.FUSE_DEVICE and not flags & os.O_PATH


def discard(*fds: int) -> None:
    """Close descriptors that another process made; plain code that never waits."""
    others = []
    for fd in fds:
        if is_fuse_device(fd):
            os.close(fd)
        else:
            others.append(fd)
    if others:
        thread = threading.Thread(target=_close_all, args=(others,), daemon=True)
        _closing.add(thread)
        thread.start()


def are_few_closing() -> bool:
    """Whether more may be received: each call of close that waits has a thread."""
    return len(_closing) <= _FEW


def _close_all(fds: Sequence[int]) -> None:
    try:
        for fd in fds:
            _close(fd)
    finally:
        _closing.discard(threading.current_thread())


def _close(fd: int) -> None:
    """Close it in a thread of its own; abort its FUSE connection if that takes long."""
    dev = 0
    with contextlib.suppress(OSError):
        dev = cached_status(fd).dev
    closer = threading.Thread(target=_run_close, args=(fd,), daemon=True)
    _closing.add(closer)
    closer.start()
    closer.join(ABORT_AFTER_S)
    if not closer.is_alive():
        return
    try:
        is_aborted = os.major(dev) == 0 and fusectl.abort(os.minor(dev))
    except VolumeError as exc:
        log.warning("a descriptor that was received does not close: %s", exc)
        return
    what = "its FUSE connection was aborted" if is_aborted else "it is of no FUSE mount"
    log.warning("a descriptor that was received did not close in %s s; %s", ABORT_AFTER_S, what)


def _run_close(fd: int) -> None:
    try:
        with contextlib.suppress(OSError):  # an error of the file system: it is closed anyway
            os.close(fd)
    finally:
        _closing.discard(threading.current_thread())
