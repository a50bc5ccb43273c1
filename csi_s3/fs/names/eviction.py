"""Keeps the inode table within its share of memory: a `find` pins every name it has seen.

The bound is what the other kinds of records leave of their pool, and 7/8 of it at most. Above five
eighths of the bound the kernel is asked to drop names that are not in use, each once until it is
used again. Above thirteen sixteenths, listings bring the kernel no inodes that it has not. What
needs an inode then waits for the kernel to drop some, for a short time, and is refused at the bound
before anything is changed.

What was not used for some time is dropped although there is room (`drop_unused`), if it is much:
the memory goes back to the node. Then none stays, because CPython gives a MiB back when nothing in
it is in use. Files with pages stay, because reading them again would cost more than a look-up.

Of what the kernel was asked for and has not dropped, half is taken to stay: so others are asked for
in its place, however many the kernel cannot drop.

Rejected: pyfuse3.invalidate_entry_async, whose queue has no bound. Evicting directories before
Linux 6.18: a process whose working directory is dropped cannot find out its path, and what is
mounted on one goes.
"""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice

from csi_s3.errors import OutOfMemoryError
from csi_s3.fs.base.memory import Room
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.inodes import Inodes
from csi_s3.fs.names.kernel_cache import CachedName, KernelCache

BATCH = 256  # a thread for each; READDIR brings some 200 names at most
CHECK_EVERY_S = 0.1  # whether there is room for those that wait
# Parts of the bound: the kernel is asked to drop names above SOFT, READDIR brings no inodes above
# LISTED, and above MADE there are none but for look-ups: `rm` frees memory, and looks names up.
SOFT, LISTED, MADE = 5 / 8, 13 / 16, 15 / 16
MOST = 7 / 8  # of the pool
LOCKED = 1 / 16  # of the pool, above that: for requests that keep names locked which can be dropped
LOW_BYTES = 1 << 20  # names of a volume that nothing uses, which are not worth it; some 1,400
LOW = 1 / 4  # of the bound, if that is less
SETTLE_S = 1.0  # until what was dropped is forgotten
PLENTY_BYTES = 16 << 10  # more than an inode takes: its key has 1,024 characters at most
WORTH_A_PASS_BYTES = 1 << 20  # so much more than what the last pass has left


class Eviction:
    """low_bytes: up to so many, the names of a volume that nothing uses stay.

    most_bytes: what inodes may take where other records take little.

    Concurrency: one task of the group, while there are too many names; else plain code.

    Lifetime: until `close`, after which the kernel is asked for nothing.
    """

    def __init__(
        self,
        inodes: Inodes,
        kernel: KernelCache,
        group: asyncio.TaskGroup,
        *,
        wait_within_s: float,
    ) -> None:
        """wait_within_s: how long a request waits for the kernel to drop names."""
        self._inodes, self._kernel, self._group = inodes, kernel, group
        self._wait_within_s = wait_within_s
        self._account = inodes.account
        self.may_list = False  # the last answer of `check`
        self.most_bytes = int(inodes.account.limit_bytes * MOST)
        self._locked_bytes = int(inodes.account.limit_bytes * LOCKED)
        self._waiting: dict[asyncio.Future[None], int] = {}  # the bytes that each needs
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._unused: Iterator[Inode] | None = None  # what is left of a pass over all of them
        self.low_bytes, self._settle_s = LOW_BYTES, min(SETTLE_S, wait_within_s)
        self._left_bytes = 0  # by a pass that found nothing to drop
        self._has_dropped = False  # the last pass; others may go now, directories first of all

    @property
    def _free_bytes(self) -> int:
        """An eighth of the pool is left to other records: a known file can always be opened."""
        account = self._account
        return min(account.pool_free_bytes, self.most_bytes - account.used_bytes)

    @property
    def bound_bytes(self) -> int:
        """What inodes may take at this moment."""
        return max(0, self._account.used_bytes + self._free_bytes)

    @property
    def soft_limit(self) -> int:
        """At about so many inodes the kernel is asked to drop some."""
        return int(self.bound_bytes * SOFT * len(self._inodes) // self._account.used_bytes)

    def check(self) -> bool:
        """To be called when there are new names, or names that can be dropped now.

        Returns whether listings may bring more inodes.
        """
        used, free = self._account.used_bytes, self._free_bytes
        bound = max(0, used + free)
        if used <= bound * SOFT:
            self.may_list = True
            return True
        if self._excess(bound) > 2 * _margin(bound):
            self._start()
        self.may_list = used <= bound * LISTED
        return self.may_list

    async def drop_unused(self) -> None:
        """Have the kernel drop names, if there are many; returns when it was asked for them.

        For a volume with little use. The oldest go first, and neither files with pages nor those
        whose times were set. A pass looks at each name once; another is made where the last has
        dropped something (directories come after what is in them), or there are many more names.
        """
        self._inodes.compact()
        enough = max(self._low_bytes, self._left_bytes)
        if self._account.used_bytes <= enough and not self._has_dropped:
            return
        if self._unused is None:
            self._unused = islice(self._inodes.idle.each(), len(self._inodes))
            self._has_dropped = False
            self._left_bytes = self._account.used_bytes + WORTH_A_PASS_BYTES
        self._start()
        if self._task is not None:
            await asyncio.wait([self._task])
            await asyncio.sleep(self._settle_s)
        self._inodes.compact()

    @property
    def _low_bytes(self) -> float:
        return min(self.low_bytes, self.bound_bytes * LOW)

    def close(self) -> None:
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()

    def begin_reading(self, directory: Inode) -> None:
        """A READDIR waits for the store: the kernel keeps the directory locked."""
        self._inodes.idle.begin_reading(directory.ino)

    def end_reading(self, directory: Inode) -> None:
        """Once for each `begin_reading`."""
        self._inodes.idle.end_reading(directory.ino)
        self.check()

    @property
    def has_plenty(self) -> bool:
        """Whether any one inode may be added now, without `room`."""
        return self._free_bytes >= PLENTY_BYTES

    def room_now(self, n: int) -> Room | None:
        """As `room` for a look-up. None: it would have to wait, or be refused."""
        return Room(self._account, n) if n <= self._free_bytes else None

    async def room(self, n: int, *, is_look_up: bool = False, directory: int | None = None) -> Room:
        """Memory for n bytes of inodes, to be entered at once; waits for it if need be.

        None are needed for what is known already: that is never refused.

        is_look_up: it may have the part that is left for look-ups. directory: whose lock the kernel
        holds for this request, which so does not wait for names in it.

        Raises:
            OutOfMemoryError: the kernel drops nothing, or not soon.

        """
        kept_bytes = 0 if is_look_up else int(self.bound_bytes * (1 - MADE))
        if (
            n
            and n + kept_bytes > self._free_bytes
            and not await self._wait(
                n + kept_bytes, None if self._kernel.can_drop_directories else directory
            )
        ):
            raise OutOfMemoryError(
                f"the volume's {self.bound_bytes >> 20} MiB for files and directories that are in"
                " use are taken",
                "close files and leave directories that are no longer needed, or give the volume a"
                " larger memory-target",
            )
        return Room(self._account, n)

    def has_room_for(self, n: int) -> bool:
        """Whether n bytes may be taken that nothing needs."""
        return n <= self._free_bytes - self.bound_bytes * (1 - LISTED)

    def freed(self) -> None:
        """To be called when the kernel has forgotten inodes: those that wait may have room."""
        if self._waiting:
            self._admit()

    async def _wait(self, n: int, locked: int | None) -> bool:
        """Whether n bytes became free in time. locked: the directory that the kernel has locked.

        It may have names that can be dropped as soon as this request is answered.
        """
        if locked is None:
            return await self._wait_for_others(n)
        self._inodes.idle.begin_reading(locked)
        try:
            return self._may_exceed(n, locked) or await self._wait_for_others(n)
        finally:
            self._inodes.idle.end_reading(locked)
            self.check()

    def _may_exceed(self, n: int, locked: int) -> bool:
        """Whether a request may take more than the bound, because names of its directory can go."""
        account = self._account
        limit_bytes = self.most_bytes + self._locked_bytes - account.used_bytes
        has_names = self._inodes.idle.holds_in(locked) or locked in self._inodes.pending_in
        return has_names and n <= min(account.pool_free_bytes, limit_bytes)

    @property
    def _can_drop_others(self) -> bool:
        """Whether the kernel has names to drop whose directory no waiting request keeps locked."""
        inodes = self._inodes
        locked = sum(inodes.pending_in.get(directory, 0) for directory in inodes.idle.read)
        return bool(inodes.idle) or inodes.evictions_pending > locked

    async def _wait_for_others(self, n: int) -> bool:
        try:
            async with asyncio.timeout(self._wait_within_s):
                while n > self._free_bytes:
                    if not self._can_drop_others:
                        return False
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiting[waiter] = n
                    try:
                        self._start()
                        await waiter
                    finally:
                        del self._waiting[waiter]
        except TimeoutError:
            return False
        return True

    def _admit(self) -> None:
        """Let those go on that fit, in the order in which they came."""
        free = self._free_bytes
        for waiter, n in self._waiting.items():
            free -= n
            if free < 0:
                return
            if not waiter.done():
                waiter.set_result(None)

    def _start(self) -> None:
        if not self._is_closed and (self._task is None or self._task.done()):
            self._task = self._group.create_task(self._evict())

    def _excess(self, bound: int) -> int:
        """How many bytes more should be asked for."""
        return int(self._account.used_bytes - self._inodes.pending_bytes / 2 - bound * SOFT)

    async def _evict(self) -> None:
        while True:
            names = self._batch() or self._unused_batch()
            if not names and self._waiting:
                await asyncio.sleep(CHECK_EVERY_S)
                names = self._asked_before()
            if names:
                skipped = await self._kernel.drop_names(names, is_read=self._inodes.idle.is_read)
                for name in skipped:
                    self._inodes.eviction_failed(name.ino)
                if len(skipped) == len(names):
                    await asyncio.sleep(CHECK_EVERY_S)
            elif self._unused is not None:
                await asyncio.sleep(0)  # of so many, each has to stay
            elif not self._waiting:
                return
            self._admit()

    def _batch(self) -> Sequence[CachedName]:
        names: list[CachedName] = []
        bound = self.bound_bytes
        if (excess := self._excess(bound)) <= _margin(bound) and not self._waiting:
            return names
        directories = self._kernel.can_drop_directories
        while len(names) < BATCH and (excess > 0 or self._waiting):
            inode = self._inodes.evict_oldest(directories=directories)
            if inode is None:
                break
            excess -= inode.table_bytes
            names.append(CachedName(inode.parent, inode.name.encode(), inode.ino))
        return names

    def _unused_batch(self) -> Sequence[CachedName]:
        """Looks at a batch of names; those that can be dropped."""
        names: list[CachedName] = []
        if self._unused is None:
            return names
        directories, seen = self._kernel.can_drop_directories, 0
        for inode in islice(self._unused, BATCH):
            seen += 1
            if inode.is_missed or not inode.is_idle or (inode.is_dir and not directories):
                continue
            self._inodes.evict(inode)
            names.append(CachedName(inode.parent, inode.name.encode(), inode.ino))
            self._left_bytes, self._has_dropped = 0, True
        if seen < BATCH:
            self._unused = None
        return names

    def _asked_before(self) -> Sequence[CachedName]:
        """Names that the kernel had in use when it was asked, and may no longer have."""
        names: dict[int, CachedName] = {}
        while len(names) < BATCH and (inode := self._inodes.ask_again()) is not None:
            if inode.ino in names:
                break
            names[inode.ino] = CachedName(inode.parent, inode.name.encode(), inode.ino)
        return list(names.values())


def _margin(bound: int) -> int:
    """So many bytes too many are not worth a call of the kernel."""
    return min(bound >> 7, BATCH * 256)
