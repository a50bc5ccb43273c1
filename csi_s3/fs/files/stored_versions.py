"""Which version of a file S3 has, asked for when the file is opened or is about to be changed."""

from dataclasses import dataclass, replace

from csi_s3.errors import NotFoundError, StaleError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.listings.entries import Entry
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.tree import Tree
from csi_s3.fs.write.dirty_file import DirtyFile
from csi_s3.s3.store import Buffer, ObjectInfo

WHOLE_FILE_BYTES = 1 << 20  # open brings files up to this size along whole
FIRST_BYTES = 128 << 10  # and the kernel's first read-ahead of larger ones


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """S3's answer to an open. first: bytes that came with it. question: see `Inode`."""

    info: ObjectInfo
    first: Buffer
    question: int


class StoredVersions:
    """Concurrency and cancellation: as `FileSystem`, whose part it is."""

    def __init__(self, context: MountContext, tree: Tree) -> None:
        self._store, self._tree, self._inodes = context.store, tree, tree.inodes

    async def current(self, inode: Inode, *, with_bytes: bool) -> StoredVersion | DirtyFile:
        """What the file is now: the version that S3 has, or the writer that is changing it.

        Raises:
            StaleError: another version is there and handles are open; or it is gone.

        """
        stored, own_change = await self._ask(inode, with_bytes=with_bytes)
        if isinstance(own_change, ObjectInfo):
            stored = replace(stored, info=own_change, first=b"")
        elif own_change is not None:
            if inode.writer is not None:
                return inode.writer
            raise StaleError(f"{stored.info.key}: removed while it was opened")
        if await self._tree.versions.renew(inode, stored.info, question=stored.question):
            return stored
        if inode.writer is not None:
            return inode.writer  # opened for writing while S3 was asked
        raise StaleError(f"{stored.info.key}: another version is in S3 while this one is open")

    async def _ask(self, inode: Inode, *, with_bytes: bool) -> tuple[StoredVersion, Entry | None]:
        """S3's answer, and what this mount made of the name during the request, if anything.

        Raises:
            StaleError: the name is gone.

        """
        while True:
            key, question = self._inodes.key(inode), self._tree.sizes.next_question()
            if not inode.is_linked:
                raise StaleError(f"{key}: replaced or removed")
            directory = self._tree.directory(self._inodes.get(inode.parent))
            try:
                with directory.observe(inode.name) as observation:
                    info, first = await self._ask_version(key, inode, with_bytes=with_bytes)
                own_change = observation.change
            except NotFoundError:
                if self._inodes.key(inode) == key:
                    raise
                continue  # renamed while S3 was asked
            if self._inodes.key(inode) == key:
                if own_change is None:
                    above = self._inodes.get(inode.parent)
                    self._tree.learn(above, inode.name, info, question=question)
                return StoredVersion(info, first, question), own_change

    async def _ask_version(
        self, key: str, inode: Inode, *, with_bytes: bool
    ) -> tuple[ObjectInfo, Buffer]:
        """Ask S3; for the first bytes as well where the kernel may need some and has none."""
        known = inode.info
        if not with_bytes or known is None or known.size == 0 or inode.has_pages:
            return await self._store.head(key), b""
        wanted = known.size if known.size <= WHOLE_FILE_BYTES else FIRST_BYTES
        chunk = await self._store.read_range(key, 0, wanted)
        return chunk.info, chunk.data

    async def ask_to_change(self, inode: Inode) -> None:
        """Let the inode stand for the version in S3 before it is changed.

        Raises:
            StaleError: it is gone, or handles are open on another version; look the name up again.

        """
        if inode.writer is not None or self._tree.versions.is_fresh(inode):
            return
        try:
            await self.current(inode, with_bytes=False)
        except NotFoundError as exc:
            raise StaleError(f"{inode.name}: removed while it was opened") from exc
