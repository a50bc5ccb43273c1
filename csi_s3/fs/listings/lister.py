"""What all listings of a mount share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.memory import Account
from csi_s3.fs.listings.entries import Packer
from csi_s3.fs.listings.page_cache import PageCache


class Moves(Protocol):
    """The renames of directories; `DirectoryMoves` is the real one."""

    latest: int  # the number of the last one

    def last_of(self, ino: int) -> int:
        """The number of the last one that gave this directory another key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lister:
    """next_question: see `Sizes`. handles: the account of what open handles hold.

    key_of: of the directory with that inode number, at that moment.
    """

    context: MountContext
    cache: PageCache
    packer: Packer
    next_question: Callable[[], int]
    handles: Account
    key_of: Callable[[int], str]
    moves: Moves
