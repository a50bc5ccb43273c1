"""The kernel's name cache, for a mount of `fs_mount`: when it drops what it is asked to drop."""

from collections import Counter
from collections.abc import Iterator
from enum import Enum, auto

from csi_s3.fs.names.kernel_cache import CachedName

SOON_S = 0.002


class Drops(Enum):
    AT_ONCE = auto()
    SOON = auto()  # some turns of the event loop later
    LATE = auto()  # at `catch_up`
    NEVER = auto()


class NameCache:
    """Replaces `drop_names` and `held` of a driver.

    asked: how often each name was asked for. longest: the longest list of names at a time. most,
    most_bytes: the most inodes that the file system had, and the most memory that they took.
    """

    def __init__(self, mount, drops: Drops) -> None:
        self.mount, self.drops = mount, drops
        self.asked: Counter[CachedName] = Counter()
        self.longest = self.most = self.most_bytes = self.calls = self.under_way = 0
        self._refs: Counter[int] = Counter()
        self._late: list[CachedName] = []
        mount.held, mount.kernel.drop_names = self, self.drop_names

    def append(self, ino: int) -> None:
        """The kernel has a reference to the inode."""
        self._refs[ino] += 1
        usage = self.mount.fs.usage()
        self.most = max(self.most, usage.inodes)
        self.most_bytes = max(self.most_bytes, usage.memory_bytes["inodes"])

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._refs.elements()))

    async def drop_names(self, names, *, is_read):
        assert not self.under_way, "one batch at a time"
        self.calls += 1
        self.longest = max(self.longest, len(names))
        left = [name for name in names if is_read(name.parent)]
        for name in names:
            if name in left:
                continue
            self.asked[name] += 1
            if self.drops is Drops.AT_ONCE:
                self._drop(name)
            elif self.drops is Drops.SOON:
                self.mount.loop.call_later(SOON_S, self._drop, name)
            elif self.drops is Drops.LATE:
                self._late.append(name)
        return left

    def forget(self, ino: int) -> None:
        """As after unlink and rmdir."""
        if references := self._refs.pop(ino, 0):
            self.mount.fs.forget(ino, references)

    def catch_up(self) -> None:
        late, self._late = self._late, []
        for name in late:
            self._drop(name)

    def _drop(self, name: CachedName) -> None:
        """One whose look-up is not answered yet is in use."""
        self.forget(name.ino)
