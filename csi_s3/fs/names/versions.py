"""Which version of its object a file's inode stands for, and how it gets another one.

When it does, the pages that the kernel has of the old one are gone first: docs/concurrency.md
(Kernel caches).
"""

from contextlib import AbstractAsyncContextManager

from csi_s3.aio import KeyLocks
from csi_s3.errors import StaleError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.inodes import Inodes
from csi_s3.fs.names.kernel_cache import KernelCache
from csi_s3.fs.names.sizes import Sizes
from csi_s3.fs.names.unfinished_moves import UnfinishedMoves
from csi_s3.s3.store import ObjectInfo


class Versions:
    """Concurrency: a lock for each inode whose version may change; a change holds it.

    Cancellation: a cancelled call has changed nothing.

    moves: of directories, while files below still stand for the versions at their old keys.
    """

    def __init__(
        self, context: MountContext, *, inodes: Inodes, sizes: Sizes, kernel: KernelCache
    ) -> None:
        self._inodes, self._sizes, self._kernel = inodes, sizes, kernel
        self._config, self._clock = context.config, context.clock
        self._locks: KeyLocks[int] = KeyLocks()
        self.moves = UnfinishedMoves()

    def hold(self, ino: int) -> AbstractAsyncContextManager[None]:
        """The lock of an inode."""
        return self._locks.hold(ino)

    def is_fresh(self, inode: Inode) -> bool:
        """Whether a `metadata-ttl` that the user has set permits an answer without S3."""
        return (
            self._config.metadata_ttl_by_hand
            and not inode.is_dir
            and self._clock.monotonic_s() < inode.fresh_until
        )

    async def renew(self, inode: Inode, info: ObjectInfo, *, question: int) -> bool:
        """Let a file's inode stand for this version; False if it cannot, because handles are open.

        The kernel's pages of another version are gone when this returns.
        question: by the count of `sizes`. If a newer one was answered, nothing changes.

        Raises:
            StaleError: the inode was given another key since that version was asked for.

        """
        self._check_key(inode, info)
        if inode.question > question:
            return True
        inode.set_fresh(self._clock.monotonic_s() + self._config.metadata_ttl_s)
        if inode.is_version(info) and not self._locks.busy(inode.ino):
            inode.set_version(info, question=question)
            return True
        await self.moves.wait()
        async with self.hold(inode.ino):
            self._check_key(inode, info)
            if inode.question <= question and await self.renew_held(inode, info):
                inode.set_version(info, question=question)
            return inode.question >= question

    async def renew_held(self, inode: Inode, info: ObjectInfo) -> bool:
        """As `renew`, for a caller that holds the inode's lock."""
        if inode.is_version(info):
            return True
        if inode.has_pages and not inode.is_open:
            await self._kernel.invalidate_inode(inode.ino)  # if cancelled, nothing has changed
        if inode.is_open:
            return False
        self._sizes.replace_version(inode, info)
        return True

    def _check_key(self, inode: Inode, info: ObjectInfo) -> None:
        if info.key != self._inodes.key(inode):
            raise StaleError(f"{info.key}: renamed while it was looked up")
