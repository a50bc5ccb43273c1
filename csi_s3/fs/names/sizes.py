"""Whether the kernel knows the size of the version that is to be opened.

Linux goes by the size it has: append, mmap, sendfile and copy_file_range take it as it is, however
old, and only attributes change it, which the kernel asks for. To drop attributes, or to answer
OPEN, does not. So an OPEN for which the kernel had the size of another version must fail: after
ESTALE it looks the path up, asks for attributes that were dropped, and opens once more.

Rejected: only to drop the attributes (`sh -c 'echo >> f'` still overwrote what another machine had
appended: it makes no fstat); a new inode for each version (a file that is a mount point keeps its
inode, and could not be opened any more).
"""

from csi_s3.errors import StaleError
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.kernel_cache import KernelCache
from csi_s3.s3.store import ObjectInfo


class Sizes:
    """Concurrency: plain code only.

    now: counts questions to S3, and the times that an inode was given another version. A request
        that began before that brings the kernel no attributes of it: the kernel ignores those that
        it asked for before it was told to drop what it had (fuse_change_attributes).
    """

    def __init__(self, kernel: KernelCache) -> None:
        self.now = 0
        self._kernel = kernel

    def ask(self) -> int:
        """A question to S3 begins. An answer to an older one never replaces its answer."""
        self.now += 1
        return self.now

    def replace_version(self, inode: Inode, info: ObjectInfo) -> None:
        """Give it another version: no old attributes may be answered after this."""
        self.now += 1
        inode.replace_version(info, at=self.now)
        self._kernel.invalidate_attributes(inode.ino)

    def told(self, inode: Inode, *, began: int) -> None:
        """Its attributes are the answer to a request that came at `began`."""
        if inode.replaced_at <= began:
            inode.note_size()

    def untold_for_s(self, inode: Inode, now_s: float) -> float:
        """For so long a version that the kernel was not told of answers it without a request."""
        return 0.0 if inode.is_size_known or inode.is_dir else max(0.0, inode.fresh_until - now_s)

    def check(self, inode: Inode, replaced_at: int) -> None:
        """Whether the kernel had the size of the inode's version when it sent an OPEN.

        replaced_at: the inode's, when the OPEN came.

        Raises:
            StaleError: it had not.

        """
        if inode.is_size_known and inode.replaced_at == replaced_at:
            return
        self._kernel.invalidate_attributes(inode.ino)  # a mount point's path is not looked up
        raise StaleError(f"{inode.name}: the kernel does not know this version's size yet")
