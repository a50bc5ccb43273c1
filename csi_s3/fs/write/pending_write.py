"""A write that waits: for the file, for memory, or for a rename.

Its caller may give up. How much of it is in the file is then known, because nothing more is
accepted: the program gets a short count, or an error and nothing has been written. Rejected: to go
on accepting, as a store does. The program may write the bytes again, and something else before.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from csi_s3.s3.store import Buffer


class PendingWrite:
    """Lifetime: of one `DirtyFile.write`. Concurrency: plain code.

    accepted: so many of its bytes are in the file.
    """

    __slots__ = ("_data", "_is_sending", "_is_stopped", "_offset", "accepted")

    def __init__(self, offset: int, data: Buffer) -> None:
        self._offset, self._data = offset, memoryview(data)
        self.accepted = 0
        self._is_sending = self._is_stopped = False

    @property
    def offset(self) -> int:
        """Of `rest` in the file."""
        return self._offset + self.accepted

    @property
    def rest(self) -> memoryview:
        """What is not accepted."""
        return self._data[self.accepted :]

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
