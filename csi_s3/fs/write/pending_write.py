"""A write that waits: for the file, for memory, or for a rename.

Its caller may give up. How much of it is in the file is then known, because nothing more is
accepted: the program gets a short count, or an error and nothing has been written. Rejected: to go
on accepting, as a store does. The program may write the bytes again, and something else before.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from csi_s3.fs.write.waiting_bytes import WaitingBytes
from csi_s3.s3.store import Buffer


class PendingWrite:
    """Lifetime: of one `DirtyFile.write`. Concurrency: plain code.

    accepted: so many of its bytes are in the file.
    """

    __slots__ = ("_data", "_is_sending", "_is_stopped", "_offset", "accepted")

    def __init__(self, offset: int, data: Buffer | WaitingBytes) -> None:
        self._offset = offset
        self._data = data if isinstance(data, WaitingBytes) else memoryview(data)
        self.accepted = 0
        self._is_sending = self._is_stopped = False

    @property
    def offset(self) -> int:
        """In the file, of the bytes that are not accepted."""
        return self._offset + self.accepted

    @property
    def rest_bytes(self) -> int:
        """So many are not accepted."""
        return len(self._data) - self.accepted

    @property
    def memory_bytes(self) -> int:
        """What its bytes take of memory while it waits."""
        return 0 if isinstance(self._data, WaitingBytes) else len(self._data)

    def next(self, n: int) -> memoryview:
        """Up to n of those that are not accepted, to be accepted at once: they take memory.

        Raises:
            SpoolFullError: they were set aside, and the disk does not return them.

        """
        if isinstance(self._data, WaitingBytes):
            return memoryview(self._data.read(self.accepted, n))
        return self._data[self.accepted : self.accepted + n]

    @contextmanager
    def sending(self) -> Iterator[None]:
        """While bytes that were accepted earlier leave, which a caller that gives up must not stop.

        Raises:
            CancelledError: at the end: the caller has given up.

        """
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False
        if self._is_stopped:
            raise asyncio.CancelledError

    def stop(self, task: "asyncio.Task[Any]") -> None:
        """Accept nothing more. task: in which it is being accepted."""
        self._is_stopped = True
        if not self._is_sending:
            task.cancel()
