"""Translates pyfuse3's requests for `fs.filesystem` and its answers back, without decisions."""

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, Literal

import pyfuse3
from typing_extensions import override

from csi_s3.errors import NotFoundError
from csi_s3.fs.base.keys import MAX_NAME_BYTES
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fs.names.attributes import Attributes
from csi_s3.fs.write.waiting_bytes import WaitingBytes
from csi_s3.fuse.boundary import answered, answered_at_once
from csi_s3.fuse.protocol import MessageBytes
from csi_s3.obs.metrics import catalog as metrics

ANSWER_WITHIN_S = 120.0  # longer than the store's own retries
FOREVER_S = 1e9
BLOCK_BYTES = 4096
FREE_BYTES = 1 << 63  # 8 EiB: 9007199254740992 1K-blocks in df
FREE_FILES = 1 << 40
RENAME_NOREPLACE = 1
# The generation of an entry that is to bring no inode; no UTF-8 has such bytes. See `answers`.
NO_INODE = 0xFFC1_D3B5_FE97_C0A1
FORGET_AT_ONCE = 1000  # inodes, in one step of the event loop
DOTS = 2  # `.` and `..` come first in a directory

_READ, _WRITTEN = metrics.READ_BYTES.labels(), metrics.WRITTEN_BYTES.labels()

Context = Any  # pyfuse3.RequestContext, which has no type stubs


class Bridge(pyfuse3.Operations):
    """Lifetime and concurrency: as the file system's."""

    enable_writeback_cache = False
    supports_dot_lookup = False

    def __init__(
        self,
        fs: FileSystem,
        *,
        negative_ttl_s: float = 0.0,
        on_other_user: Callable[[int, int], None] | None = None,
    ) -> None:
        """on_other_user: called once, with uid and gid of the first program that is not root's."""
        super().__init__()
        self._fs, self._negative_ttl_s = fs, negative_ttl_s
        self._on_other_user = on_other_user

    def _check_user(self, ctx: Context) -> None:
        if self._on_other_user is not None and ctx.uid != 0:
            self._on_other_user(ctx.uid, ctx.gid)
            self._on_other_user = None

    @override
    @answered(ANSWER_WITHIN_S)
    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> pyfuse3.EntryAttributes:
        self._check_user(ctx)
        try:
            return entry(await self._fs.lookup(parent_inode, name))
        except NotFoundError:
            if self._negative_ttl_s <= 0:
                raise
            return nothing(self._negative_ttl_s)

    def forget_now(self, ino: int, n: int) -> None:
        """The kernel gives back n references to an inode."""
        self._fs.forget(ino, n)

    @override
    async def forget(self, inode_list: Iterable[tuple[int, int]]) -> None:
        """As `forget_now`, of any number of inodes: in steps, for no program waits for it."""
        references = iter(inode_list)
        while some := list(islice(references, FORGET_AT_ONCE)):
            for ino, n in some:
                self._fs.forget(ino, n)
            await asyncio.sleep(0)

    @override
    @answered(ANSWER_WITHIN_S)
    async def getattr(self, inode: int, ctx: Context) -> pyfuse3.EntryAttributes:
        return entry(await self._fs.getattr(inode))

    @override
    @answered(None)
    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        return entry(
            await self._fs.setattr(
                inode,
                size=attr.st_size if fields.update_size else None,
                mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
                atime_ns=attr.st_atime_ns if fields.update_atime else None,
            )
        )

    @override
    @answered(ANSWER_WITHIN_S)
    async def opendir(self, inode: int, ctx: Context) -> int:
        self._check_user(ctx)
        return await self._fs.opendir(inode)

    @override
    @answered(ANSWER_WITHIN_S)
    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        if start_id < DOTS:
            dots = zip((b".", b".."), self._fs.dots(fh), (1, 2), strict=True)
            for name, attributes, position in dots:  # these do not count as look-ups
                if position > start_id and not pyfuse3.readdir_reply(
                    token, name, entry(attributes), position
                ):
                    return
        start = self._fs.now
        listed: list[int] = []
        try:
            await self._list(fh, max(0, start_id - DOTS), token, listed)
        except BaseException:
            for ino in listed:  # the kernel gets the error, and no name
                self._fs.forget(ino, 1)
            raise
        self._fs.note_answers(listed, start=start)

    async def _list(
        self, fh: int, start: int, token: pyfuse3.ReaddirToken, listed: list[int]
    ) -> None:
        """Put names into the answer. listed: gets the inodes to which the kernel has references."""
        names = self._fs.readdir(fh, start)
        async with aclosing(names) as entries:
            async for found in entries:
                position = found.position + DOTS
                answer = entry(found.attributes)
                if not found.has_inode:
                    answer.generation = NO_INODE
                if not pyfuse3.readdir_reply(token, found.name, answer, position):
                    break
                if not found.has_inode:
                    continue
                listed.append(found.attributes.ino)
                self._fs.remember(found.attributes.ino)

    @override
    @answered(ANSWER_WITHIN_S, has_caller=False)
    async def releasedir(self, fh: int) -> None:
        self._fs.releasedir(fh)

    @override
    @answered(ANSWER_WITHIN_S)
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Names are in S3 when the call that changed them returns."""

    @override
    @answered(ANSWER_WITHIN_S)
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        return entry(await self._fs.mkdir(parent_inode, name))

    @override
    @answered(ANSWER_WITHIN_S)
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        await self._fs.rmdir(parent_inode, name)

    @override
    @answered(None)
    async def unlink(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        await self._fs.unlink(parent_inode, name)

    @override
    @answered(ANSWER_WITHIN_S)
    async def open(self, inode: int, flags: int, ctx: Context) -> pyfuse3.FileInfo:
        self._check_user(ctx)  # the first request for a file that is mounted by subPath
        return pyfuse3.FileInfo(fh=await self._fs.files.open(inode, flags), keep_cache=True)

    @override
    @answered(ANSWER_WITHIN_S)
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Context
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        fh, attributes = await self._fs.files.create(parent_inode, name, flags)
        return pyfuse3.FileInfo(fh=fh, keep_cache=True), entry(attributes)

    @override
    @answered(None)
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        if not stat.S_ISREG(mode):
            raise pyfuse3.FUSEError(errno.EPERM)  # a fifo, socket or device
        fh, attributes = await self._fs.files.create(parent_inode, name, os.O_EXCL)
        try:
            await self._fs.files.release(fh)
        except BaseException:
            self._fs.forget(attributes.ino, 1)  # the kernel never got the number
            raise
        return entry(attributes)

    @override
    @answered(ANSWER_WITHIN_S)
    async def read(  # type: ignore[override] # it is called by `answers` only
        self, fh: int, off: int, size: int
    ) -> Sequence[MessageBytes]:
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

    @override
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

    @override
    @answered(None)
    async def flush(self, fh: int) -> None:
        await self._fs.files.flush(fh)

    @override
    @answered(None)
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._fs.files.fsync(fh)

    @override
    @answered(None, has_caller=False)
    async def release(self, fh: int) -> None:
        await self._fs.files.release(fh)

    @override
    @answered(ANSWER_WITHIN_S)
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        raise pyfuse3.FUSEError(errno.EPERM)  # not logged: git tries one for each file

    @override
    @answered(ANSWER_WITHIN_S)
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        return entry(await self._fs.links.make(parent_inode, name, target))

    @override
    @answered(ANSWER_WITHIN_S)
    async def readlink(self, inode: int, ctx: Context) -> bytes:
        return await self._fs.links.read(inode)

    @override
    @answered(None)
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Context,
    ) -> None:
        if flags & ~RENAME_NOREPLACE:
            raise pyfuse3.FUSEError(errno.EINVAL)  # RENAME_EXCHANGE, RENAME_WHITEOUT
        await self._fs.rename(
            parent_inode_old,
            name_old,
            parent_inode_new,
            name_new,
            may_replace=not flags & RENAME_NOREPLACE,
        )

    @override
    @answered(ANSWER_WITHIN_S)
    async def statfs(self, ctx: Context) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks = data.f_bfree = data.f_bavail = FREE_BYTES // BLOCK_BYTES
        data.f_files = data.f_ffree = data.f_favail = FREE_FILES
        data.f_namemax = MAX_NAME_BYTES
        return data

    @override
    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        # ENOSYS, once: the kernel then answers EOPNOTSUPP itself and does not ask before each write
        raise pyfuse3.FUSEError(errno.ENOSYS)


def entry(a: Attributes) -> pyfuse3.EntryAttributes:
    """The attributes of an inode, and for how long the kernel may use them."""
    e = pyfuse3.EntryAttributes()
    e.st_ino = a.ino
    e.generation = a.generation
    e.st_mode = a.mode
    e.st_size = a.size
    e.st_nlink = a.nlink
    e.st_uid = a.uid
    e.st_gid = a.gid
    e.st_mtime_ns = e.st_ctime_ns = a.mtime_ns
    e.st_atime_ns = a.atime_ns
    e.st_blksize = BLOCK_BYTES
    e.st_blocks = -(-a.size // 512)
    e.entry_timeout = e.attr_timeout = min(a.ttl_s, FOREVER_S)
    return e


def nothing(ttl_s: float) -> pyfuse3.EntryAttributes:
    """The answer that a name does not exist, which the kernel may cache."""
    e = pyfuse3.EntryAttributes()
    e.st_ino = 0
    e.entry_timeout = min(ttl_s, FOREVER_S)
    return e
