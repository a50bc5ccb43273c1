"""Open handles: what a file handle number of the kernel stands for."""

from typing import TypeVar

from csi_s3.errors import StaleError
from csi_s3.fs.names.inode import DirHandle, FileHandle

H = TypeVar("H", FileHandle, DirHandle)


class Handles:
    """The table. Concurrency: plain code. Numbers are never used twice in a worker's life."""

    def __init__(self) -> None:
        self._open: dict[int, FileHandle | DirHandle] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._open)

    def add(self, handle: FileHandle | DirHandle) -> int:
        fh = self._next
        self._next += 1
        self._open[fh] = handle
        handle.inode.add_handle(handle)
        return fh

    def file(self, fh: int) -> FileHandle:
        return self._get(fh, FileHandle)

    def directory(self, fh: int) -> DirHandle:
        return self._get(fh, DirHandle)

    def remove(self, fh: int) -> FileHandle | DirHandle | None:
        handle = self._open.pop(fh, None)
        if handle is not None:
            handle.inode.remove_handle(handle)
        return handle

    def close(self) -> None:
        """End what is under way for them; plain code, at the end of the mount."""
        for handle in self._open.values():
            if isinstance(handle, DirHandle):
                handle.reader.listing.stop()
            elif handle.reader is not None:
                handle.reader.close()

    def _get(self, fh: int, cls: type[H]) -> H:
        handle = self._open.get(fh)
        if not isinstance(handle, cls):
            raise StaleError(f"handle {fh} is not open")
        return handle
