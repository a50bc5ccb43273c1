"""The memory of a process: its use, and the return of what was freed to the system.

glibc keeps what is freed. A block of a threshold or more is a mapping of its own and goes back at
once, but each such block that is freed raises the threshold, up to 32 MiB. After that the parts of
uploads come from the heap, between small blocks that stay, and each thread has a heap of its own.
docs/decisions/0020-freed-memory-goes-back.md has the numbers.
"""

import ctypes
import re
from pathlib import Path
from typing import NamedTuple

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

MAPPED_FROM_BYTES = 256 << 10  # larger than a WRITE request of 128 KiB, smaller than a part
TRIMMED_FROM_BYTES = 4 << 20


class ProcessMemory(NamedTuple):
    """Bytes. private: without pages that are shared with other processes."""

    rss: int
    private: int


def memory_of(pid: int) -> ProcessMemory | None:
    """From /proc/PID/smaps_rollup (proc(5)); None if the process has ended.

    Blocking: the kernel walks all pages, 5 ms for each 100 MiB (measured).
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    rows = re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)
    sizes = {name: int(kib) << 10 for name, kib in rows}
    private = sizes.get("Private_Clean", 0) + sizes.get("Private_Dirty", 0)
    return ProcessMemory(rss=sizes.get("Rss", 0), private=private)


class _Mallinfo2(ctypes.Structure):
    """mallinfo(3). fordblks: free bytes in all heaps, whether or not they have pages."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class Heap:
    """This process's malloc; where it is not glibc's (2.33 or later), nothing is done.

    Lifetime: the process. Concurrency: `trim` is for a thread, all else for the event loop.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._mallinfo2 = getattr(libc, "mallinfo2", None)
        self._libc = libc if self._mallinfo2 is not None else None
        if self._mallinfo2 is not None:
            self._mallinfo2.restype = _Mallinfo2
        self._returned_bytes = 0  # free in the heap, without pages

    def configure(self) -> None:
        """Map large blocks by themselves, and use one heap for all threads; before any starts."""
        if self._libc is not None:
            self._libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
            self._libc.mallopt(_M_TRIM_THRESHOLD, TRIMMED_FROM_BYTES)
            self._libc.mallopt(_M_ARENA_MAX, 1)

    def reclaimable_bytes(self) -> int:
        """How much was freed since the last `trim` and not used again. 0.01 to 1 ms."""
        if self._mallinfo2 is None:
            return 0
        free_bytes = int(self._mallinfo2().fordblks)
        self._returned_bytes = min(self._returned_bytes, free_bytes)
        return free_bytes - self._returned_bytes

    def trim(self) -> None:
        """Return the pages of free blocks to the system.

        Blocking: 10 to 35 ms for 300 MB, in which other threads cannot allocate from the heap.
        """
        if self._libc is not None and self._mallinfo2 is not None:
            self._libc.malloc_trim(0)
            self._returned_bytes = int(self._mallinfo2().fordblks)
