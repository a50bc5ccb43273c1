"""Entries of a READDIRPLUS that bring the kernel no inode: name, type and number only.

In struct fuse_entry_out a nodeid of 0 means that nothing is to be linked (fuse_direntplus_link in
Linux), while the number in struct fuse_dirent is what programs see, and must not be 0. libfuse
takes the first from `ino` of struct fuse_entry_param, and the second from its `attr.st_ino`.
pyfuse3 sets both at once, so the first is found in the object's memory, and set to 0 there. Whether
it was found is checked; if not, such entries cannot be made.
"""

import ctypes
import sys
from typing import Self

import pyfuse3

_MARK = 0x5BD1_E995_C0DE_7F01


class EntryWithoutInode:
    """Concurrency: plain code; it has no state but a place in memory."""

    def __init__(self, ino_at: int) -> None:
        self._ino_at = ino_at

    @classmethod
    def create(cls) -> Self | None:
        """None: this pyfuse3 keeps entries in another way."""
        if sys.implementation.name != "cpython":
            return None
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = _MARK
        mark, memory = _MARK.to_bytes(8, sys.byteorder), _memory(entry)
        first = memory.find(mark)
        second = memory.find(mark, first + 8)
        if first < 0 or second < 0 or memory.find(mark, second + 8) >= 0 or first % 8:
            return None
        made = cls(first)
        made.remove(entry)
        is_right = entry.st_ino == 0 and _memory(entry).find(mark) == second
        return made if is_right else None

    def remove(self, entry: pyfuse3.EntryAttributes) -> None:
        """Let it bring no inode; its number is still shown."""
        ctypes.memset(id(entry) + self._ino_at, 0, 8)


def _memory(entry: pyfuse3.EntryAttributes) -> bytes:
    return ctypes.string_at(id(entry), type(entry).__basicsize__)
