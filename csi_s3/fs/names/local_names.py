"""Names that exist whatever S3 says: of files not stored yet, of directories without a key.

A directory with such a name in it exists as well, and so do all above it.
"""

from collections.abc import Callable

from csi_s3.errors import OutOfMemoryError
from csi_s3.fs.listings.directory import Directory
from csi_s3.fs.names.inode import ROOT, Inode
from csi_s3.fs.names.inodes import Inodes


class LocalNames:
    """Concurrency: plain code.

    directory: of an inode. limit: of directories that are kept.
    """

    def __init__(
        self, inodes: Inodes, directory: Callable[[Inode], Directory[Inode]], *, limit: int
    ) -> None:
        self._inodes, self._directory, self.limit = inodes, directory, limit

    def add(self, parent: Inode, inode: Inode) -> None:
        """Let the name exist whatever S3 says, and the directories above it."""
        self._directory(parent).add_local(inode.name, inode)
        while parent.ino != ROOT and parent.is_linked:
            inode, parent = parent, self._inodes.get(parent.parent)
            self._directory(parent).add_local(inode.name, inode)

    def drop(self, parent: Inode, name: str) -> None:
        """Let S3 decide again whether the name exists, and the directories above it."""
        if self._inodes.local_only:
            self._inodes.note_keys_below(parent)
        self._drop(parent, name)

    def _drop(self, parent: Inode, name: str) -> None:
        self._directory(parent).drop_local(name)
        while parent.ino != ROOT and parent.is_linked:
            if parent.runtime.is_pinned or self._directory(parent).local:
                return
            name, parent = parent.name, self._inodes.get(parent.parent)
            self._directory(parent).drop_local(name)

    def keep(self, inode: Inode, *, is_local: bool = False) -> None:
        """Let a directory exist even if S3 has no key for it.

        There is a limit: at it, S3 decides again whether the one exists that was kept first. Not of
        those that are local, of which S3 has never had a key; see `check_directory`.
        """
        if inode.ino == ROOT or not inode.is_linked:
            return
        self._inodes.keep(inode, is_local=is_local)
        self.add(self._inodes.get(inode.parent), inode)
        while len(self._inodes.kept) > self.limit:
            first = self._inodes.get(next(iter(self._inodes.kept)))
            if not self._directory(first).local:
                self._drop(self._inodes.get(first.parent), first.name)
            self._inodes.let_go(first)

    def check_directory(self) -> None:
        """Whether there may be one more directory of which S3 has no key.

        Raises:
            OutOfMemoryError: there are too many already.

        """
        if len(self._inodes.local_only) >= self.limit:
            raise OutOfMemoryError(
                f"the volume has {self.limit} directories that are not in S3, because no file"
                " is in them, and no memory for one more",
                "put files into them, or mount without dir-markers=off",
            )
