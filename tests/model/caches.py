"""What Linux caches of a FUSE mount, and how it uses it: names, sizes and pages.

From fs/fuse of Linux 6.18, without a writeback cache: an answer's attributes are taken unless
others came since the request was sent (attr_version); reads and lseek refresh attributes that have
expired; append, mmap, sendfile and copy_file_range use the cached size. An open that fails with
ESTALE is tried once more, with look-ups of the whole path.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from csi_s3.errors import NotCopiedError, NotFoundError, StaleError
from csi_s3.fs.files.open_files import FALLOC_FL_KEEP_SIZE as KEEP_SIZE
from csi_s3.fs.names.attributes import Attributes

if TYPE_CHECKING:
    from tests.model.machine import Driver

PAGE_BYTES = 8
GONE = -1.0


@dataclass
class CachedInode:
    """An inode in the kernel's cache. attr_version: the order in which its attributes came.

    pages: by index, each padded with zeros.
    """

    size: int = 0
    mtime_ns: int = 0
    valid_until: float = GONE
    attr_version: int = 0
    pages: dict[int, bytes] = field(default_factory=dict)


class Caches:
    """The kernel's side of one worker's mount; the file system's `Kernel`."""

    def __init__(self, driver: "Driver") -> None:
        self.dropped: list[int] = []
        self.forgotten: list[tuple[int, bytes]] = []
        self._driver = driver
        self._attr_version = 0
        self._inodes: dict[int, CachedInode] = {}
        self._names: dict[tuple[int, bytes], tuple[int, float]] = {}
        self._open: dict[int, tuple[int, int]] = {}  # inode and flags

    @property
    def _fs(self):
        return self._driver.fs

    def _now_s(self) -> float:
        return self._driver.time.now_s

    def _next(self) -> int:
        self._attr_version += 1
        return self._attr_version

    # what the file system calls

    async def invalidate_inode(self, ino: int) -> None:
        await asyncio.sleep(0)
        self.dropped.append(ino)
        self.invalidate_attributes(ino)
        if ino in self._inodes:
            self._inodes[ino].pages.clear()

    def invalidate_attributes(self, ino: int) -> None:
        held = self._inodes.get(ino)
        if held is not None:
            held.attr_version, held.valid_until = self._next(), GONE

    def forget_name(self, parent: int, name: bytes) -> None:
        self.forgotten.append((parent, name))
        self._names.pop((parent, name), None)

    can_drop_directories = True

    async def drop_names(self, names, *, is_read):
        """It may keep them all; tests.model.forgetting has one that drops some."""
        return ()

    def forget_unused(self) -> None:
        """Under memory pressure: all that is not open."""
        self._names.clear()
        used = {ino for ino, _ in self._open.values()}
        self._inodes = {ino: held for ino, held in self._inodes.items() if ino in used}

    # attributes and names

    def _take(self, a: Attributes, asked: int | None) -> None:
        """asked: the attr_version when the request was sent; None: the answer is always taken."""
        held = self._inodes.setdefault(a.ino, CachedInode())
        if asked is not None and held.attr_version > asked:
            return
        if (held.size, held.mtime_ns) != (a.size, a.mtime_ns):
            held.pages.clear()
        held.size, held.mtime_ns, held.attr_version = a.size, a.mtime_ns, self._next()
        held.valid_until = self._now_s() + a.ttl_s

    async def _lookup(self, parent: int, name: bytes, *, again: bool) -> int:
        ino, valid_until = self._names.get((parent, name), (0, GONE))
        if not again and self._now_s() < valid_until and ino in self._inodes:
            return ino
        asked = self._attr_version
        try:
            found = await self._fs.lookup(parent, name)
        except NotFoundError:
            self._names.pop((parent, name), None)
            raise
        self._driver.held.append(found.ino)
        self._names[parent, name] = found.ino, self._now_s() + found.ttl_s
        self._take(found, asked)
        return found.ino

    async def walk(self, path: str, *, again: bool = False) -> int:
        ino = 1
        for name in filter(None, path.split("/")):
            ino = await self._lookup(ino, name.encode(), again=again)
        return ino

    async def _refresh(self, ino: int) -> CachedInode:
        held = self._inodes[ino]
        if self._now_s() >= held.valid_until:
            asked = self._attr_version
            self._take(await self._fs.getattr(ino), asked)
        return held

    async def _persist(self, call: Callable[[bool], Awaitable[int]]) -> int:
        """A call by path, and if it is ESTALE once more, by look-ups."""
        try:
            return await call(False)
        except StaleError:
            return await call(True)

    # calls of programs

    async def stat(self, path: str) -> int:
        async def call(again: bool) -> int:
            ino = await self.walk(path, again=again)
            return (await self._refresh(ino)).size if ino in self._inodes else 0

        return await self._persist(call)

    async def list(self, path: str) -> None:
        """READDIRPLUS; its names and attributes are cached."""
        ino = await self.walk(path)
        fh, asked, start = await self._fs.opendir(ino), self._attr_version, self._fs.now
        listed = []
        async for entry in self._fs.readdir(fh, 0):
            self._fs.remember(entry.attributes.ino)
            self._driver.held.append(entry.attributes.ino)
            listed.append(entry)
        self._fs.note_answers([e.attributes.ino for e in listed], start=start)
        for entry in listed:
            self._names[ino, entry.name] = entry.attributes.ino, self._now_s() + 1
            self._take(entry.attributes, asked)
        self._fs.releasedir(fh)

    async def open(self, path: str, flags: int) -> int:
        """open(2) of a name that is there, or with O_CREAT of one that is not."""

        async def call(again: bool) -> int:
            try:
                ino = await self.walk(path, again=again)
            except NotFoundError:
                if not flags & os.O_CREAT:
                    raise
                return await self._create(path, flags)
            await self._refresh(ino)  # may_open asks for the mode
            fh = await self._fs.files.open(ino, flags & ~os.O_EXCL)
            self._open[fh] = ino, flags
            if flags & os.O_TRUNC:
                self._resized(ino, 0)
            return fh

        return await self._persist(call)

    async def _create(self, path: str, flags: int) -> int:
        above, _, name = path.rpartition("/")
        parent = await self.walk(above)
        fh, made = await self._fs.files.create(parent, name.encode(), flags)
        self._driver.held.append(made.ino)
        self._names[parent, name.encode()] = made.ino, self._now_s() + made.ttl_s
        self._take(made, None)
        self._open[fh] = made.ino, flags
        return fh

    def _resized(self, ino: int, size: int) -> None:
        held = self._inodes[ino]
        held.size, held.attr_version, held.valid_until = size, self._next(), GONE
        held.pages.clear()

    async def read(self, fh: int, offset: int, length: int) -> bytes:
        await self._refresh(self._open[fh][0])
        return await self.read_mapped(fh, offset, length)

    async def read_mapped(self, fh: int, offset: int, length: int) -> bytes:
        """As mmap, sendfile and copy_file_range: what is within the cached size."""
        held = self._inodes[self._open[fh][0]]
        data = b""
        for index in range(offset // PAGE_BYTES, -(-(offset + length) // PAGE_BYTES)):
            if index * PAGE_BYTES < held.size:
                data += await self._page(fh, held, index)
        skipped = offset % PAGE_BYTES
        return data[skipped : skipped + min(length, max(0, held.size - offset))]

    async def _page(self, fh: int, held: CachedInode, index: int) -> bytes:
        page, at, asked = held.pages.get(index), index * PAGE_BYTES, self._attr_version
        if page is None:
            page = b"".join(await self._fs.files.read(fh, at, PAGE_BYTES))
            if len(page) < PAGE_BYTES and asked >= held.attr_version:
                held.size = min(held.size, at + len(page))  # fuse_read_update_size
            page = held.pages[index] = page.ljust(PAGE_BYTES, b"\0")
        return page

    async def append(self, fh: int, data: bytes) -> int:
        """write(2) with O_APPEND."""
        return await self.write(fh, self._inodes[self._open[fh][0]].size, data)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        written = await self._fs.files.write(fh, offset, data)
        ino = self._open[fh][0]
        self._resized(ino, max(self._inodes[ino].size, offset + len(data) if data else 0))
        return written

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """The kernel drops pages of the range, and grows the size itself."""
        await self._fs.files.fallocate(fh, mode, offset, length)
        ino = self._open[fh][0]
        size = self._inodes[ino].size
        self._resized(ino, size if mode & KEEP_SIZE else max(size, offset + length))

    async def copy_range(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, length: int
    ) -> int:
        """Up to the size that the kernel knows; what is not copied is read and written."""
        ino_in, ino_out = self._open[fh_in][0], self._open[fh_out][0]
        length = min(length, self._inodes[ino_in].size - offset_in)
        if length <= 0:
            return 0
        try:
            n = await self._fs.files.copy_file_range(fh_in, offset_in, fh_out, offset_out, length)
        except NotCopiedError:
            data = await self.read_mapped(fh_in, offset_in, length)
            return await self.write(fh_out, offset_out, data) if data else 0
        self._resized(ino_out, max(self._inodes[ino_out].size, offset_out + n))
        return n

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        await self._refresh(self._open[fh][0])
        return self._fs.files.lseek(fh, offset, whence)

    async def truncate(self, path: str, size: int) -> int:
        async def call(again: bool) -> int:
            ino = await self.walk(path, again=again)
            self._take(await self._fs.setattr(ino, size=size), None)
            return size

        return await self._persist(call)

    async def release(self, fh: int) -> None:
        self._open.pop(fh, None)
        await self._fs.files.release(fh)
