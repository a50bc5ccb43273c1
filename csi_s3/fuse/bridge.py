"""Every operation of the kernel, as a call of `fs.filesystem`: always answered, and counted.

`answers` calls these for our request loop, `pyfuse3_operations` for pyfuse3. No decisions.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Literal

from pyfuse3 import FUSEError

from csi_s3.errors import NotFoundError
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fs.names.attributes import Attributes
from csi_s3.fs.write.waiting_bytes import WaitingBytes
from csi_s3.fuse.boundary import answered, answered_at_once
from csi_s3.fuse.protocol import MessageBytes
from csi_s3.fuse.reply_messages import DirectoryReply
from csi_s3.obs.metrics import catalog as metrics

ANSWER_WITHIN_S = 120.0  # longer than the store's own retries
RENAME_NOREPLACE = 1
FORGET_AT_ONCE = 1000  # inodes, in one step of the event loop
DOTS = 2  # `.` and `..` come first in a directory

_READ, _WRITTEN = metrics.READ_BYTES.labels(), metrics.WRITTEN_BYTES.labels()


class Bridge:
    """Lifetime and concurrency: as the file system's."""

    def __init__(
        self,
        fs: FileSystem,
        *,
        negative_ttl_s: float = 0.0,
        on_other_user: Callable[[int, int], None] | None = None,
    ) -> None:
        """on_other_user: called once, with uid and gid of the first program that is not root's."""
        self._fs, self._negative_ttl_s = fs, negative_ttl_s
        self._on_other_user = on_other_user

    def note_user(self, uid: int, gid: int) -> None:
        """Of the program that looks a name up or opens something; see `on_other_user`."""
        if uid and self._on_other_user is not None:
            self._on_other_user(uid, gid)
            self._on_other_user = None

    @answered(ANSWER_WITHIN_S)
    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """An inode 0 is an answer as well: there is no such name, for as long as its TTL says."""
        try:
            return await self._fs.lookup(parent, name)
        except NotFoundError:
            if self._negative_ttl_s <= 0:
                raise
            return Attributes(0, 0, 0, 0, 0, 0, 0, 0, 0, self._negative_ttl_s)

    def forget_now(self, ino: int, n: int) -> None:
        """The kernel gives back n references to an inode."""
        self._fs.forget(ino, n)

    async def forget(self, inode_list: Iterable[tuple[int, int]]) -> None:
        """As `forget_now`, of any number of inodes: in steps, for no program waits for it."""
        references = iter(inode_list)
        while some := list(islice(references, FORGET_AT_ONCE)):
            for ino, n in some:
                self._fs.forget(ino, n)
            await asyncio.sleep(0)

    @answered(ANSWER_WITHIN_S)
    async def getattr(self, ino: int) -> Attributes:
        return await self._fs.getattr(ino)

    @answered(None)
    async def setattr(
        self, ino: int, *, size: int | None, mtime_ns: int | None, atime_ns: int | None
    ) -> Attributes:
        return await self._fs.setattr(ino, size=size, mtime_ns=mtime_ns, atime_ns=atime_ns)

    @answered(ANSWER_WITHIN_S)
    async def opendir(self, ino: int) -> int:
        return await self._fs.opendir(ino)

    @answered(ANSWER_WITHIN_S)
    async def readdir(self, fh: int, start_id: int, size: int) -> bytearray:
        """The names after a position, up to size bytes; see `DirectoryReply`."""
        reply = DirectoryReply(size)
        if start_id < DOTS:
            dots = zip((b".", b".."), self._fs.dots(fh), (1, 2), strict=True)
            for name, attributes, position in dots:  # these do not count as look-ups
                if position > start_id and not reply.add(name, attributes, position):
                    return reply.entries
        start = self._fs.now
        listed: list[int] = []
        try:
            await self._list(fh, max(0, start_id - DOTS), reply, listed)
        except BaseException:
            for ino in listed:  # the kernel gets the error, and no name
                self._fs.forget(ino, 1)
            raise
        self._fs.note_answers(listed, start=start)
        return reply.entries

    async def _list(self, fh: int, start: int, reply: DirectoryReply, listed: list[int]) -> None:
        """Put names into the reply. listed: gets the inodes to which the kernel has references."""
        names = self._fs.readdir(fh, start)
        async with aclosing(names) as entries:
            async for name, attributes, position, has_inode in entries:
                if not reply.add(name, attributes, position + DOTS, has_inode=has_inode):
                    break
                if has_inode:
                    listed.append(attributes.ino)
                    self._fs.remember(attributes.ino)

    @answered(ANSWER_WITHIN_S, has_caller=False)
    async def releasedir(self, fh: int) -> None:
        self._fs.releasedir(fh)

    @answered(ANSWER_WITHIN_S)
    async def mkdir(self, parent: int, name: bytes) -> Attributes:
        return await self._fs.mkdir(parent, name)

    @answered(ANSWER_WITHIN_S)
    async def rmdir(self, parent: int, name: bytes) -> None:
        await self._fs.rmdir(parent, name)

    @answered(None)
    async def unlink(self, parent: int, name: bytes) -> None:
        await self._fs.unlink(parent, name)

    @answered(ANSWER_WITHIN_S)
    async def open(self, ino: int, flags: int) -> int:
        return await self._fs.files.open(ino, flags)

    @answered(ANSWER_WITHIN_S)
    async def create(self, parent: int, name: bytes, flags: int) -> tuple[int, Attributes]:
        return await self._fs.files.create(parent, name, flags)

    @answered(None)
    async def mknod(self, parent: int, name: bytes, mode: int) -> Attributes:
        if not stat.S_ISREG(mode):
            raise FUSEError(errno.EPERM)  # a fifo, socket or device
        fh, attributes = await self._fs.files.create(parent, name, os.O_EXCL)
        try:
            await self._fs.files.release(fh)
        except BaseException:
            self._fs.forget(attributes.ino, 1)  # the kernel never got the number
            raise
        return attributes

    @answered(ANSWER_WITHIN_S)
    async def read(self, fh: int, off: int, size: int) -> Sequence[MessageBytes]:
        """The bytes in one or more pieces, which do not change any more."""
        pieces = await self._fs.files.read(fh, off, size)
        _READ.count += sum(map(len, pieces))
        return pieces

    @answered_at_once
    def write_now(
        self, fh: int, off: int, data: memoryview, *, besides_bytes: int = 0
    ) -> WaitingBytes | Literal[True] | None:
        """Write, if nothing is to be waited for: True. Else `write` is to be called.

        None: with data that stay in memory; else with the returned ones, which are not there.
        data: is not referred to when this returns. besides_bytes: see `WaitingWrites.hold`.
        """
        if not self._fs.files.try_write(fh, off, data):
            return self._fs.files.hold(data, besides_bytes=besides_bytes)
        _WRITTEN.count += len(data)
        return True

    @answered(None)
    async def write(self, fh: int, off: int, buf: MessageBytes | WaitingBytes) -> int:
        written = await self._fs.files.write(fh, off, buf)
        _WRITTEN.count += written
        return written

    @answered(None)
    async def fallocate(self, fh: int, mode: int, off: int, length: int) -> None:
        await self._fs.files.fallocate(fh, mode, off, length)

    @answered(None)
    async def copy_file_range(
        self, fh_in: int, off_in: int, fh_out: int, off_out: int, length: int
    ) -> int:
        return await self._fs.files.copy_file_range(fh_in, off_in, fh_out, off_out, length)

    @answered(ANSWER_WITHIN_S)
    async def lseek(self, fh: int, off: int, whence: int) -> int:
        return self._fs.files.lseek(fh, off, whence)

    @answered(None)
    async def syncfs(self) -> None:
        await self._fs.syncfs()

    @answered(None)
    async def flush(self, fh: int) -> None:
        await self._fs.files.flush(fh)

    @answered(None)
    async def fsync(self, fh: int) -> None:
        await self._fs.files.fsync(fh)

    @answered(None, has_caller=False)
    async def release(self, fh: int) -> None:
        await self._fs.files.release(fh)

    @answered(ANSWER_WITHIN_S)
    async def symlink(self, parent: int, name: bytes, target: bytes) -> Attributes:
        return await self._fs.links.make(parent, name, target)

    @answered(ANSWER_WITHIN_S)
    async def readlink(self, ino: int) -> bytes:
        return await self._fs.links.read(ino)

    @answered(None)
    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        if flags & ~RENAME_NOREPLACE:
            raise FUSEError(errno.EINVAL)  # RENAME_EXCHANGE, RENAME_WHITEOUT
        may_replace = not flags & RENAME_NOREPLACE
        await self._fs.rename(parent, name, new_parent, new_name, may_replace=may_replace)
