"""Open handles: what a number of the kernel stands for, and the memory that it takes."""

import asyncio
from typing import Self, TypeVar

from typing_extensions import override

from csi_s3.errors import StaleError
from csi_s3.fs.base.memory import Account, Memory, MemoryKind, Room
from csi_s3.fs.names.inode import DirHandle, FileHandle
from csi_s3.fs.read.reader import Reader

# Measured, 1,000 to 100,000 files or directories with a handle each: 229 to 260, with the place in
# the table, the number and the inode's runtime half. A directory's listing is counted elsewhere.
HANDLE_BYTES = 250
CLOSED_AT_ONCE = 1000  # at the end: less than 1 ms (measured)
READER_BYTES = 280  # measured: 183 to 281, without what it has read, which is in the buffers

H = TypeVar("H", FileHandle, DirHandle)


class Opening(Room):
    """Room for one handle, from before S3 is asked; given back if no handle came of it."""

    __slots__ = ("_handles",)

    def __init__(self, handles: "Handles", account: Account) -> None:
        super().__init__(account, HANDLE_BYTES)
        self._handles = handles

    @override
    def __enter__(self) -> Self:
        return self  # `Handles.opening` has counted it

    def add(self, handle: FileHandle | DirHandle) -> int:
        """Put the handle in the table; once. Returns its number."""
        self._n = 0
        return self._handles.add(handle)


class Handles:
    """The table. Concurrency: plain code. Numbers are never used twice in a worker's life."""

    def __init__(self, memory: Memory) -> None:
        self._open: dict[int, FileHandle | DirHandle] = {}
        self._next = 1
        self._account = memory.account(MemoryKind.HANDLES)

    def __len__(self) -> int:
        return len(self._open)

    def opening(self, what: str) -> Opening:
        """Make room for a handle of this file or directory.

        Raises:
            TooManyOpenFilesError: there is none.

        """
        self._account.charge(HANDLE_BYTES, what)
        return Opening(self, self._account)

    def add(self, handle: FileHandle | DirHandle) -> int:
        """For `Opening`, which has counted it."""
        fh = self._next
        self._next += 1
        self._open[fh] = handle
        handle.inode.add_handle(handle)
        if isinstance(handle, FileHandle) and handle.reader is not None:
            self._account.add(READER_BYTES)
        return fh

    def set_reader(self, handle: FileHandle, reader: Reader | None) -> None:
        """Close the present reader, and have another. It is counted, but not refused."""
        if handle.reader is not None:
            handle.reader.close()
            self._account.add(-READER_BYTES)
        handle.reader = reader
        if reader is not None:
            self._account.add(READER_BYTES)

    def file(self, fh: int) -> FileHandle:
        return self._get(fh, FileHandle)

    def directory(self, fh: int) -> DirHandle:
        return self._get(fh, DirHandle)

    def remove(self, fh: int) -> FileHandle | DirHandle | None:
        handle = self._open.pop(fh, None)
        if handle is not None:
            if isinstance(handle, FileHandle):
                self.set_reader(handle, None)
            handle.inode.remove_handle(handle)
            self._account.add(-HANDLE_BYTES)
        return handle

    async def close(self) -> None:
        """End what is under way for them, at the end of the mount."""
        for at, handle in enumerate(list(self._open.values())):
            if at % CLOSED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if isinstance(handle, DirHandle):
                handle.reader.listing.stop()
            elif handle.reader is not None:
                handle.reader.close()

    def _get(self, fh: int, cls: type[H]) -> H:
        handle = self._open.get(fh)
        if not isinstance(handle, cls):
            raise StaleError(f"handle {fh} is not open")
        return handle
