"""Whether the kernel knows the size of the version that is to be opened.

Linux trusts the size it has: append, mmap, sendfile and copy_file_range use it, however old it is.
Only attributes that the kernel asks for change it; dropping attributes, or answering OPEN, does
not. So an OPEN for which the kernel had the size of another version must fail: after ESTALE the
kernel looks the path up, asks for attributes that were dropped, and opens once more.

Rejected: only dropping the attributes (`sh -c 'echo >> f'` still overwrote what another machine had
appended: it makes no fstat); a new inode for each version (a file that is a mount point keeps its
inode, and could not be opened any more).
"""

from csi_s3.errors import StaleError
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.kernel_cache import KernelCache
from csi_s3.s3.store import ObjectInfo


class Sizes:
    """Concurrency: plain code only.

    now: counts questions to S3, and replacements of an inode's version. The answer to a request
        that began before a replacement does not count: the kernel ignores attributes that it asked
        for before it had to drop what it had (fuse_change_attributes).
    """

    def __init__(self, kernel: KernelCache) -> None:
        self.now = 0
        self._kernel = kernel

    def next_question(self) -> int:
        """The number of a question to S3; an answer to an older one never replaces its answer."""
        self.now += 1
        return self.now

    def replace_version(self, inode: Inode, info: ObjectInfo) -> None:
        """Give it another version: no old attributes may be answered after this."""
        self.now += 1
        inode.replace_version(info, at=self.now)
        self._kernel.invalidate_attributes(inode.ino)

    def note_answer(self, inode: Inode, *, start: int) -> None:
        """The kernel has got its attributes, as the answer to a request that came at `start`."""
        if inode.replaced_at <= start:
            inode.note_size()

    def reusable_for_s(self, inode: Inode, now_s: float) -> float:
        """How long a version whose size the kernel does not have is shown without asking S3."""
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
