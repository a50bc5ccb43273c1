"""What pyfuse3 calls for the requests that go to it; see `routes`."""

import errno
from typing import Any, NoReturn

import pyfuse3
from typing_extensions import override

from csi_s3.fs.base.keys import MAX_NAME_BYTES
from csi_s3.fuse.boundary import answered
from csi_s3.fuse.bridge import ANSWER_WITHIN_S, Bridge
from csi_s3.fuse.reply_messages import BLOCK_BYTES

FREE_BYTES = 1 << 63  # 8 EiB: 9007199254740992 1K-blocks in df
FREE_FILES = 1 << 40

Context = Any  # pyfuse3.RequestContext, which has no type stubs


class Pyfuse3Operations(pyfuse3.Operations):
    """Lifetime and concurrency: as the file system's."""

    enable_writeback_cache = False
    supports_dot_lookup = False

    def __init__(self, operations: Bridge) -> None:
        super().__init__()
        self._operations = operations

    @override
    @answered(ANSWER_WITHIN_S)
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Context
    ) -> NoReturn:
        raise pyfuse3.FUSEError(errno.EPERM)  # not logged: git tries one for each file

    @override
    async def readlink(self, inode: int, ctx: Context) -> bytes:
        return await self._operations.readlink(inode)

    @override
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Context,
    ) -> None:
        await self._operations.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    @override
    @answered(ANSWER_WITHIN_S)
    async def statfs(self, ctx: Context) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks = data.f_bfree = data.f_bavail = FREE_BYTES // BLOCK_BYTES
        data.f_files = data.f_ffree = data.f_favail = FREE_FILES
        data.f_namemax = MAX_NAME_BYTES
        return data
