"""One FUSE session on a /dev/fuse descriptor that another process mounted.

INIT, which node has read already, is answered here. `request_loop` reads all further requests,
`answers` answers most of them, and `relay` has pyfuse3 answer the others; `routes` says which.

So another worker can later be started on a live mount, with the same INIT request.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from operator import length_hint

import pyfuse3

from csi_s3.aio import LateCalls, blocking
from csi_s3.errors import MountError
from csi_s3.fs.names.kernel_cache import CachedName
from csi_s3.fuse import negotiation
from csi_s3.fuse.answers import Answers
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.init_messages import build_init, build_init_reply, parse_init
from csi_s3.fuse.notifier import Notifier
from csi_s3.fuse.protocol import Opcode, parse_reply_header
from csi_s3.fuse.pyfuse3_operations import Pyfuse3Operations
from csi_s3.fuse.relay import MAX_TASKS, Relay
from csi_s3.fuse.request_loop import RequestLoop
from csi_s3.fuse.requests import KernelRequest

log = logging.getLogger(__name__)

INVALIDATE_WITHIN_S = 10.0
DROP_WITHIN_S = 3.0  # then other names are asked for: the kernel may keep a directory locked
# They ask name by name. Each waits for its directory's lock in the kernel's queue, so that between
# two rounds of look-ups by 64 programs 64 names go; with 8 threads fewer went than came (measured).
FEW_DROP_THREADS, DROP_THREADS = 8, 64
LOCKED_AFTER_S = 0.02
LATE_DROPS = 32  # threads that wait for locked directories, before no more are begun
CHECK_EVERY_S = 60.0


class Session:
    """Lifetime: one per process, because libfuse and pyfuse3 keep theirs in globals.

    `serve` runs until the mount is unmounted everywhere, the connection is aborted (ENODEV), or
    `end` is called. Cancellation: use `end`; a cancelled `serve` leaves callers without an answer.
    """

    def __init__(
        self, fuse_fd: int, init_request: bytes, *, only_owner_and_root: bool = False
    ) -> None:
        """Own fuse_fd; init_request is the kernel's INIT request as read from it.

        only_owner_and_root: all users but root and this process's own are answered with EACCES.
        """
        self._fuse_fd, self._init = fuse_fd, parse_init(init_request)
        self._only_uid = os.getuid() if only_owner_and_root else None
        self._notifier: Notifier | None = None
        self._loop: RequestLoop | None = None
        self._relay: Relay | None = None
        self._answers: Answers | None = None
        self._checking: asyncio.TimerHandle | None = None
        self._failure: MountError | None = None
        self._is_ended = False
        self._late_drops = LateCalls(LATE_DROPS)
        self.is_answered = asyncio.Event()

    async def serve(
        self, operations: Bridge, *, key_of: Callable[[int], str] = lambda _: ""
    ) -> None:
        """Answer the kernel until the session ends. key_of: as of `RequestsInFlight`.

        Raises:
            MountError: libfuse or the kernel refused the INIT.

        """
        self._loop = loop = RequestLoop(self._fuse_fd, ended=self.end, key_of=key_of)
        self._relay = relay = Relay(self._pass_back)
        self._answers = answers = Answers(loop, relay, operations, only_uid=self._only_uid)
        far_end = f"/dev/fd/{relay.open()}"
        pyfuse3.init(Pyfuse3Operations(operations), far_end, set(pyfuse3.default_options))
        init = negotiation.for_libfuse(self._init)
        relay.add(KernelRequest(Opcode.INIT, init.unique, 0), build_init(init))
        self._check_later()
        try:
            await pyfuse3.main(max_tasks=MAX_TASKS)
        finally:
            self._is_ended = True  # `terminate` of a closed session would crash
            if self._checking is not None:
                self._checking.cancel()
            answers.close()
            relay.close()
            if self._notifier is not None:
                self._notifier.close()
            pyfuse3.close(unmount=False)
            loop.close()
        if self._failure is not None:
            raise self._failure
        if not self.is_answered.is_set():
            raise MountError("the FUSE session ended before INIT was answered")

    def end(self) -> None:
        """Stop serving; plain code and idempotent. What was taken is answered."""
        if self._is_ended:
            return
        self._is_ended = True
        pyfuse3.terminate()
        if self._loop is not None:
            self._loop.stop()
        if self._answers is not None:
            self._answers.end()
        if self._relay is not None:
            self._relay.end()

    def _pass_back(self, request: KernelRequest, reply: bytearray) -> None:
        if request.opcode == Opcode.INIT:
            self._answer_init(reply)
        elif self._loop is not None:
            self._loop.reply(request, [reply])

    def _answer_init(self, libfuse_reply: bytearray) -> None:
        """Answer the kernel, now that libfuse is ready."""
        _, error, _ = parse_reply_header(libfuse_reply)
        if error:
            self._fail(f"libfuse refused INIT: {os.strerror(-error)}")
            return
        try:
            answer = negotiation.answer(self._init)
            os.write(self._fuse_fd, build_init_reply(self._init.unique, answer))
        except ValueError as exc:
            self._fail(str(exc))
        except OSError as exc:
            self._fail(f"the kernel refused the INIT reply: {exc.strerror}")
        else:
            self._notifier = Notifier(self._fuse_fd, minor=self._init.minor)
            if self._loop is not None and self._answers is not None:
                self._loop.serve(self._answers.handlers())
            self.is_answered.set()

    def _fail(self, what: str) -> None:
        self._failure = MountError(what)
        self.end()

    # requests

    @property
    def requests_in_flight(self) -> int:
        """Requests that were taken and are not answered yet."""
        return 0 if self._loop is None else len(self._loop.in_flight)

    def log_requests(self) -> None:
        """Log how many requests are not answered, and the ten oldest. Plain code."""
        if self._loop is not None:
            self._loop.in_flight.log(logging.INFO)

    async def drain(self) -> None:
        """Take no more requests, and return when all that were taken are answered.

        The kernel keeps what comes until `resume`, or until another process serves the descriptor.
        """
        if self._loop is not None:
            await self._loop.drain()

    def resume(self) -> None:
        """Take requests again."""
        if self._loop is not None and not self._is_ended:
            self._loop.start()

    def _check_later(self) -> None:
        self._checking = asyncio.get_running_loop().call_later(CHECK_EVERY_S, self._check)

    def _check(self) -> None:
        if self._loop is not None:
            self._loop.in_flight.check()
        self._check_later()

    # the kernel's caches

    @property
    def can_drop_directories(self) -> bool:
        """With FUSE_NOTIFY_PRUNE only: see `notifier`."""
        return self._notifier is not None and self._notifier.can_prune

    async def invalidate_inode(self, ino: int) -> None:
        """Drop the kernel's pages and attributes of an inode, if it has any."""
        if self._notifier is not None:
            await blocking(partial(self._notifier.drop_pages, ino), within_s=INVALIDATE_WITHIN_S)

    def invalidate_attributes(self, ino: int) -> None:
        """Drop the kernel's attributes of an inode, if it has any.

        It takes no lock that is held by a request to this process: 5 µs, in the event loop.
        """
        if self._notifier is not None:
            self._notifier.drop_attributes(ino)

    def forget_name(self, parent: int, name: bytes) -> None:
        """Have the kernel look a name up again, in a thread."""
        if self._notifier is not None:
            self._notifier.drop_soon(parent, name)

    async def drop_names(
        self, names: Sequence[CachedName], *, is_read: Callable[[int], bool]
    ) -> Sequence[CachedName]:
        """Ask the kernel to drop names that are not in use; see `Notifier.drop`.

        Name by name, in several threads: a directory's lock is free for one name between a round of
        look-ups in it and the next, and each round may bring as many names as there are programs.
        """
        notifier = self._notifier
        if notifier is None:
            return names
        left, skipped = iter(list(names)), list[CachedName]()
        drop = partial(notifier.drop, left, skipped, is_read=is_read)

        async def some() -> None:
            try:
                await blocking(drop, within_s=DROP_WITHIN_S, late=self._late_drops)
            except TimeoutError:
                log.debug("the kernel keeps a directory locked")

        most = 1 if notifier.can_prune else min(DROP_THREADS, len(names))
        async with asyncio.TaskGroup() as group:
            few = [group.create_task(some()) for _ in range(min(most, FEW_DROP_THREADS))]
            await asyncio.wait(few, timeout=LOCKED_AFTER_S)
            for _ in range(min(most - len(few), length_hint(left))):
                group.create_task(some())
        return [*skipped, *left]
