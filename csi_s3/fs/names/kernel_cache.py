"""What the kernel caches of a mount, and what the file system may ask it to drop.

`fuse.session` is the real one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class CachedName(NamedTuple):
    """A name and the inode that it stands for."""

    parent: int
    name: bytes
    ino: int


class KernelCache(Protocol):
    """Of names, attributes and pages."""

    @property
    def can_drop_directories(self) -> bool:
        """Whether it leaves directories alone that are in use, as working directories are."""

    async def invalidate_inode(self, ino: int) -> None:
        """Drop the pages and attributes it holds of the inode; returns when they are gone."""

    def invalidate_attributes(self, ino: int) -> None:
        """Drop the attributes it holds, and those in answers to what it has asked until now."""

    def forget_name(self, parent: int, name: bytes) -> None:
        """Look a name up again before its next use; it may take its time."""

    async def drop_names(
        self, names: Sequence[CachedName], *, is_read: Callable[[int], bool]
    ) -> Sequence[CachedName]:
        """Drop names that are not in use, and so their inodes.

        Waits as long as the kernel has a directory locked, as it does for a READDIR. So those whose
        directory is_read are left out: there it may take long. Returns these.
        """
