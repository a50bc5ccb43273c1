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
from functools import partial
from typing import Any, TypeVar

from csi_s3.aio import KeyLocks
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

        The inodes are held from this call on, until the caller has its answer and the work its end.
        """
        in_order = places if len(places) == 1 else sorted(set(places))
        held = self._hold(places)
        try:
            return await self._progress_timeout.wait(
                partial(self._change, in_order, work),
                what,
                progress=None if progress is None else lambda: progress,
                leave=partial(self._leave, places, held),
            )
        finally:
            self._release(held)

    async def _change(self, places: Sequence[Place], work: Callable[[], Awaitable[T]]) -> T:
        """In a task of the mount: take the locks in this order."""
        async with self._locks.hold(places[0]):
            if len(places) == 1:
                return await work()
            async with self._locks.hold(places[1]):
                return await work()

    def _leave(
        self, places: Sequence[Place], held: list[Inode], change: "asyncio.Task[Any]"
    ) -> None:
        """The caller gives up: what it held is the change's."""
        if not change.done():
            self._left += Counter(places)
            change.add_done_callback(partial(self._end, places, held.copy()))
            held.clear()

    def _end(self, places: Sequence[Place], held: Sequence[Inode], _: "asyncio.Task[Any]") -> None:
        self._left -= Counter(places)
        self._release(held)

    def _release(self, held: Sequence[Inode]) -> None:
        for inode in held:
            self._inodes.release(inode)

    def _hold(self, places: Sequence[Place]) -> list[Inode]:
        """The directories, and what has the names, with a reference to each; to be released so."""
        held = []
        for ino, name in places:
            directory = self._inodes.get(ino)
            if (child := directory.runtime.names.get(name)) is not None:
                held.append(child)
            held.append(directory)
        for inode in held:
            self._inodes.hold(inode)
        return held
