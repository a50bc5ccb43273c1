"""Names that are being changed; what comes next for one of them waits until that has ended.

The kernel locks a directory until the request that changes it is answered. A change whose caller
was interrupted is answered before, and goes on: its DELETE may reach S3 late, or twice, and would
remove what has been made under the name since. So the name stays locked here until its end.

Rejected: the lock of keys (`KeyRangeLock`), because look-ups below a directory that is being
renamed do not wait.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from csi_s3.aio import KeyLocks
from csi_s3.errors import StoreTimeoutError
from csi_s3.fs.base.progress_timeout import FileProgress, ProgressTimeout
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.inodes import Inodes

T = TypeVar("T")

Place = tuple[int, str]  # the number of a directory, and a name in it


class NameChanges:
    """Concurrency: a change holds its names before any other lock.

    Cancellation: a change is a task of the mount and goes on; a cancelled wait has done nothing.
    The inodes stay until it has ended, whatever the kernel forgets.
    """

    def __init__(self, progress_timeout: ProgressTimeout, inodes: Inodes) -> None:
        self._progress_timeout, self._inodes = progress_timeout, inodes
        self._locks: KeyLocks[Place] = KeyLocks()
        self._left: Counter[Place] = Counter()  # of changes whose callers have given up

    def is_left(self, place: Place) -> bool:
        """Whether `settled` has to wait."""
        return place in self._left

    async def settled(self, *places: Place) -> None:
        """Wait until the changes of these names have ended whose callers have given up.

        Those that a caller waits for have their directory locked by the kernel.
        """
        for place in places:
            if place in self._left:
                async with self._locks.hold(place):
                    pass

    async def run(
        self,
        work: Callable[[], Awaitable[T]],
        what: str,
        *places: Place,
        progress: FileProgress | None = None,
    ) -> T:
        """Change these names, even if the caller gives up. As `ProgressTimeout.wait`.

        The inodes are held from the work's first step: before that, the kernel holds them.
        """
        in_order = places if len(places) == 1 else sorted(set(places))
        inodes, locks, taken = self._inodes, self._locks, 0
        is_over = is_left = False

        async def change() -> T:
            nonlocal is_over, taken
            held = self._hold(places)
            try:
                for place in in_order:
                    await locks.acquire(place)
                    taken += 1
                return await work()
            finally:
                is_over = True
                for place in in_order[:taken]:
                    locks.release(place)
                if is_left:
                    self._left -= Counter(places)
                for inode in reversed(held):
                    inodes.release(inode)

        try:
            return await self._progress_timeout.wait(change, what, progress=lambda: progress)
        except (asyncio.CancelledError, StoreTimeoutError):
            if not is_over:
                is_left = True
                self._left += Counter(places)
            raise

    def _hold(self, places: Sequence[Place]) -> Sequence[Inode]:
        """The directories, and what has the names; with a reference to each."""
        directories = [self._inodes.get(ino) for ino, _ in places]
        there = [child for p in places if (child := self._inodes.child(*p)) is not None]
        for inode in (held := [*directories, *there]):
            self._inodes.hold(inode)
        return held
