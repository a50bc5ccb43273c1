"""The descriptors of spool files: a small cache, so that others are left for S3 and the kernel.

A spool file has a name as long as it is in use, so it can be closed and opened again at any time.
"""

import errno
import os
import resource
from collections import OrderedDict
from contextlib import suppress

MOST_OPEN = 512


def share_of_limit() -> int:
    """A quarter of the descriptors that this process may have, and no more than MOST_OPEN."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(soft // 4, MOST_OPEN))


class Descriptors:
    """The files that were used last, by number.

    Concurrency: plain code; what is returned is to be used before the next call.
    most: may be open at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, number: int) -> int | None:
        """The descriptor, if the file is open."""
        fd = self._open.get(number)
        if fd is not None:
            self._open.move_to_end(number)
        return fd

    def open(self, number: int, path: str, *, is_new: bool = False) -> int:
        """Open the file for reading and writing. is_new: it must not be there.

        Raises:
            OSError: as open(2).

        """
        while len(self._open) >= self._most:
            self._close_oldest()
        try:
            fd = _open(path, is_new=is_new)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                raise
            self._close_oldest()  # others have taken their share
            fd = _open(path, is_new=is_new)
        self._open[number] = fd
        return fd

    def close(self, number: int) -> None:
        """Close the file if it is open."""
        fd = self._open.pop(number, None)
        if fd is not None:
            with suppress(OSError):  # a local disk has no news at close
                os.close(fd)

    def release(self, number: int) -> int | None:
        """Hand over the descriptor, if the file is open; the caller closes it."""
        return self._open.pop(number, None)

    def _close_oldest(self) -> None:
        self.close(next(iter(self._open)))


def _open(path: str, *, is_new: bool) -> int:
    flags = os.O_CREAT | os.O_EXCL if is_new else 0
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
