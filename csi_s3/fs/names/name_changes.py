"""Names that are being changed; what comes next for one of them waits until that has ended.

The kernel locks a directory until the request that changes it is answered. A change whose caller
was interrupted is answered before, and goes on: its DELETE may reach S3 late, or twice, and would
remove what has been made under the name since. So the name stays locked here until its end.

Rejected: the lock of keys (`KeyRangeLock`), because look-ups below a directory that is being
renamed do not wait.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from csi_s3.aio import KeyLocks
from csi_s3.fs.base.progress_timeout import ProgressTimeout
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

    def is_busy(self, place: Place) -> bool:
        """Whether a change of this name is under way."""
        return self._locks.busy(place)

    async def settled(self, *places: Place) -> None:
        """Wait until the changes of these names have ended that have begun."""
        for place in places:
            if self._locks.busy(place):
                async with self._locks.hold(place):
                    pass

    async def run(self, work: Callable[[], Awaitable[T]], what: str, *places: Place) -> T:
        """Change these names, even if the caller gives up. As `ProgressTimeout.wait`."""
        in_order = places if len(places) == 1 else sorted(set(places))
        inodes = self._inodes
        there = [child for p in places if (child := inodes.child(*p)) is not None]
        held = [*(inodes.get(ino) for ino, _ in places), *there]
        for inode in held:
            inodes.hold(inode)
        locks, taken = self._locks, 0

        async def change() -> T:
            nonlocal taken
            try:
                for place in in_order:
                    await locks.acquire(place)
                    taken += 1
                return await work()
            finally:
                for place in in_order[:taken]:
                    locks.release(place)
                for inode in reversed(held):
                    inodes.release(inode)

        return await self._progress_timeout.wait(change, what)
