"""One FUSE session on a /dev/fuse descriptor that another process mounted: the INIT relay.

libfuse starts on one end of a socketpair. The kernel's INIT request, which node has read already,
is written to the other end; libfuse's reply is read there, changed, and written to the real
descriptor, which then replaces the socketpair (dup2) before the event loop has seen it.

So the reply may contain flags that pyfuse3 does not offer (parallel look-ups in one directory), and
another worker can later be started on a live mount with the same INIT request.
"""

import asyncio
import logging
import os
import select
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pyfuse3
import pyfuse3.asyncio
from typing_extensions import override

from csi_s3.aio import blocking
from csi_s3.errors import MountError
from csi_s3.fs.names.kernel_cache import CachedName
from csi_s3.fuse.notifier import Notifier

log = logging.getLogger(__name__)

MAX_TASKS = 4096  # writers may wait for memory, and must not block readers
INVALIDATE_WITHIN_S = 10.0
DROP_WITHIN_S = 150.0  # longer than a READDIR takes, for which the kernel locks a directory

# include/uapi/linux/fuse.h: struct fuse_out_header, then struct fuse_init_out
_FLAGS_AT = 28
_MAX_READAHEAD_AT = 24
_BACKGROUND_AT = 32
FUSE_PARALLEL_DIROPS = 1 << 18
MAX_READAHEAD_BYTES = 1 << 20
MAX_BACKGROUND = 128
CONGESTION_THRESHOLD = 96


def add_init_flags(reply: bytes) -> bytes:
    """Add flags and limits to libfuse's INIT reply.

    Measured: five one-second look-ups in one directory took 1.01 s instead of 5.01 s with
    FUSE_PARALLEL_DIROPS.
    """
    changed = bytearray(reply)
    (flags,) = struct.unpack_from("<I", changed, _FLAGS_AT)
    struct.pack_into("<I", changed, _FLAGS_AT, flags | FUSE_PARALLEL_DIROPS)
    struct.pack_into("<I", changed, _MAX_READAHEAD_AT, MAX_READAHEAD_BYTES)
    struct.pack_into("<HH", changed, _BACKGROUND_AT, MAX_BACKGROUND, CONGESTION_THRESHOLD)
    return bytes(changed)


class _Nursery(pyfuse3.asyncio._Nursery):  # noqa: SLF001 - its hook; see Session.serve
    """Its tasks go on when a request is withdrawn before it is read: its caller was killed.

    pyfuse3 would end the task, and with it one of MAX_TASKS and its buffer. And a task that has
    ended is dropped at once: pyfuse3 keeps those that began later until it has ended as well.
    """

    @override
    def start_soon(
        self, func: Callable[..., Coroutine[Any, Any, None]], *args: object, name: str | None = None
    ) -> None:
        async def reading() -> None:
            while True:
                try:
                    return await func(*args)
                except BlockingIOError:
                    log.debug("a request was withdrawn before it was read")

        task = asyncio.create_task(reading())  # noqa: TID251 - this is the group of its tasks
        setattr(task, "name", name)  # noqa: B010 - pyfuse3 reads it
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class Session:
    """Lifetime: one per process, because libfuse and pyfuse3 keep theirs in globals.

    `serve` runs until the mount is unmounted everywhere, the connection is aborted (ENODEV), or
    `end` is called. Cancellation: use `end`; a cancelled `serve` leaves callers without an answer.
    """

    def __init__(
        self, fuse_fd: int, init_request: bytes, *, only_owner_and_root: bool = False
    ) -> None:
        """Own fuse_fd; init_request is the kernel's INIT request as read from it.

        only_owner_and_root: libfuse answers all users but root and this process's own with EACCES.
        """
        self._fuse_fd, self._init_request = fuse_fd, init_request
        self._options = set(pyfuse3.default_options)
        if only_owner_and_root:
            self._options.add("allow_root")
        self._notifier: Notifier | None = None
        self._waits = 0
        self._poll = select.poll()
        self._is_ended = False
        self.is_answered = asyncio.Event()

    async def serve(self, operations: pyfuse3.Operations) -> None:
        """Answer the kernel until the session ends.

        Raises:
            MountError: libfuse or the kernel refused the INIT.

        """
        kernel_side, libfuse_side = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pyfuse3.asyncio.enable()
        self._wait_readable = pyfuse3.asyncio.wait_readable
        setattr(pyfuse3.asyncio, "wait_readable", self._relay(kernel_side))  # noqa: B010 - its hook
        setattr(pyfuse3.asyncio, "open_nursery", _Nursery)  # noqa: B010 - its hook
        fd = libfuse_side.detach()  # libfuse closes it with the session
        pyfuse3.init(operations, f"/dev/fd/{fd}", self._options)
        try:
            await pyfuse3.main(max_tasks=MAX_TASKS)
        finally:
            self._is_ended = True  # `terminate` of a closed session would crash
            pyfuse3.asyncio.wait_readable = self._wait_readable
            kernel_side.close()
            if self._notifier is not None:
                self._notifier.close()
            pyfuse3.close(unmount=False)
            if self._fuse_fd >= 0:
                os.close(self._fuse_fd)
        if not self.is_answered.is_set():
            raise MountError("the FUSE session ended before INIT was answered")

    def end(self) -> None:
        """Stop serving; plain code and idempotent."""
        if not self._is_ended:
            self._is_ended = True
            pyfuse3.terminate()

    @property
    def can_drop_directories(self) -> bool:
        """With FUSE_NOTIFY_PRUNE only: see `notifier`."""
        return self._notifier is not None and self._notifier.can_prune

    async def invalidate_inode(self, ino: int) -> None:
        """Drop the kernel's pages and attributes of an inode, if it has any."""
        await blocking(partial(_invalidate, ino, attr_only=False), within_s=INVALIDATE_WITHIN_S)

    def invalidate_attributes(self, ino: int) -> None:
        """Drop the kernel's attributes of an inode, if it has any.

        It takes no lock that is held by a request to this process: 5 µs, in the event loop.
        """
        _invalidate(ino, attr_only=True)

    def forget_name(self, parent: int, name: bytes) -> None:
        """Have the kernel look a name up again, in a thread of pyfuse3."""
        pyfuse3.invalidate_entry_async(parent, name, ignore_enoent=True)

    async def drop_names(
        self, names: Sequence[CachedName], *, is_read: Callable[[int], bool]
    ) -> Sequence[CachedName]:
        """Ask the kernel to drop names that are not in use; see `Notifier.drop`."""
        if self._notifier is None:
            return names
        drop = partial(self._notifier.drop, names, is_read=is_read)
        try:
            return await blocking(drop, within_s=DROP_WITHIN_S)
        except TimeoutError:
            log.debug("the kernel keeps a directory locked")
            return ()

    def _relay(self, kernel_side: socket.socket) -> Callable[[int], Coroutine[Any, Any, None]]:
        """A wait_readable whose first two calls pass INIT in and its reply out."""

        async def wait_readable(fd: int) -> None:
            self._waits += 1
            if self._waits == 1:
                kernel_side.send(self._init_request)
                return
            if self._waits == 2:  # noqa: PLR2004 - INIT was processed, its reply is there
                self._answer(kernel_side.recv(1 << 16), fd)
                self._poll.register(fd, select.POLLIN)
            await self._wait_readable(fd)
            while not self._poll.poll(0):  # the request was withdrawn: its caller was killed
                await self._wait_readable(fd)

        return wait_readable

    def _answer(self, reply: bytes, fd: int) -> None:
        try:
            os.write(self._fuse_fd, add_init_flags(reply))
        except OSError as exc:
            raise MountError(f"the kernel refused the INIT reply: {exc.strerror}") from exc
        self._notifier = Notifier(self._fuse_fd, self._init_request)
        os.set_blocking(self._fuse_fd, False)
        os.dup2(self._fuse_fd, fd, inheritable=False)
        os.close(self._fuse_fd)
        self._fuse_fd = -1
        self.is_answered.set()


def _invalidate(ino: int, *, attr_only: bool) -> None:
    try:
        pyfuse3.invalidate_inode(ino, attr_only=attr_only)
    except FileNotFoundError:
        pass  # the kernel does not have the inode
    except OSError as exc:
        log.debug("invalidate of inode %d: %s", ino, exc)
