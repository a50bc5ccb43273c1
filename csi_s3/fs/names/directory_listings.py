"""The listings that open directories read: which of them share one, and when it is begun again."""

import math
from collections.abc import Callable

from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.listings.directory import Directory
from csi_s3.fs.listings.entries import Packer
from csi_s3.fs.listings.lister import Lister
from csi_s3.fs.listings.listing import Listing
from csi_s3.fs.listings.listing_reader import DirectoryReader
from csi_s3.fs.listings.page_cache import PageCache
from csi_s3.fs.names.directory_moves import DirectoryMoves
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.inodes import Inodes


class DirectoryListings:
    """Concurrency: plain code.

    directory: of an inode. next_question: see `Sizes`.
    """

    def __init__(
        self,
        context: MountContext,
        *,
        directory: Callable[[Inode], Directory[Inode]],
        inodes: Inodes,
        moves: DirectoryMoves,
        next_question: Callable[[], int],
    ) -> None:
        self._config, self._clock = context.config, context.clock
        self._directory, self._inodes = directory, inodes
        self._cache = PageCache(context.memory)
        self._lister = Lister(
            context=context,
            cache=self._cache,
            packer=Packer(),
            next_question=next_question,
            handles=context.memory.account(MemoryKind.HANDLES),
            key_of=self._key_of,
            moves=moves,
        )

    def _key_of(self, ino: int) -> str:
        return self._inodes.key(self._inodes.get(ino))

    def open(self, inode: Inode) -> DirectoryReader:
        """Begin to read a directory, or join others that began within `metadata-ttl`.

        Raises:
            TooManyOpenFilesError: there is no memory for one more.

        """
        return self._open(inode, since_s=self._fresh_since_s)

    def read_from_start(self, inode: Inode, reader: DirectoryReader) -> DirectoryReader:
        """The reader of a first READDIR, or after rewinddir: the directory as it is now."""
        since_s = math.inf if reader.is_begun else self._fresh_since_s
        if not reader.is_begun and reader.listing.is_joinable(since_s):
            return reader
        new = self._open(inode, since_s=since_s, is_new=False)
        self.close(inode, reader)
        return new

    @property
    def _fresh_since_s(self) -> float:
        return self._clock.monotonic_s() - self._config.metadata_ttl_s

    def _open(self, inode: Inode, *, since_s: float, is_new: bool = True) -> DirectoryReader:
        directory = self._directory(inode)
        listing = directory.newest
        self.drop_old_pages()
        if not isinstance(listing, Listing) or not listing.is_joinable(since_s):
            listing = Listing(self._lister, directory, inode.ino)
        reader = DirectoryReader(self._lister, listing, is_new=is_new)
        directory.opened(listing)
        return reader

    def drop_old_pages(self) -> None:
        """Give back what closed listings hold after `metadata-ttl`."""
        self._cache.expire(self._clock.monotonic_s())

    def close(self, inode: Inode, reader: DirectoryReader) -> None:
        now_s = self._clock.monotonic_s()
        reader.close(valid_until=now_s + self._config.metadata_ttl_s)
        if reader.listing.readers == 0:
            self._directory(inode).closed(reader.listing)
        self.drop_old_pages()
