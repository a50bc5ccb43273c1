"""The rename of a directory: all its keys, copied in parallel, then deleted in batches.

Nothing is deleted before every copy is made, and from the journal the mount's next worker finishes
after a crash, so that each file is whole under one name at least. If a copy is refused, all copies
are deleted again. Until the end, other changes below both names wait (`KeyRangeLock`).
"""

import logging
from contextlib import closing
from dataclasses import replace
from itertools import chain

from csi_s3.errors import BusyError, InvalidNameError, NotFoundError, StaleError, VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.files.write_back import WriteBack
from csi_s3.fs.listings.entries import Special
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.tree import Tree
from csi_s3.fs.rename.copies import Copies
from csi_s3.fs.rename.journal import JournalEntry, RenameJournal, RenameRecord
from csi_s3.fs.rename.known_below import KnownBelow

log = logging.getLogger(__name__)

TRIES = 5  # to find no file below that must be stored first


class DirectoryRenames:
    """Concurrency and cancellation: as `Renames`, whose part it is."""

    def __init__(
        self,
        context: MountContext,
        *,
        tree: Tree,
        write_back: WriteBack,
        copies: Copies,
        journal: RenameJournal,
    ) -> None:
        self._store, self._clock, self._key_lock = context.store, context.clock, context.key_lock
        self._tree, self._write_back = tree, write_back
        self._copies, self._journal = copies, journal
        self._inodes = tree.inodes

    async def move(self, inode: Inode, into: Inode, new: str, target: Inode | None) -> None:
        """Give a directory another name; target: an empty directory that has it.

        Raises:
            NotEmptyError: target holds something.
            VolumeError: what the store answered.

        """
        before = inode.parent, inode.name
        for _ in range(TRIES):
            async with self._key_lock.move(
                lambda: self._inodes.key(inode), lambda: self._inodes.key_at(inode, into, new)
            ):
                if not inode.is_linked or (inode.parent, inode.name) != before:
                    raise StaleError(f"{inode.name}: renamed or removed concurrently")
                if not into.is_linked or self._inodes.child(into.ino, new) is not target:
                    raise StaleError(f"{new}: changed concurrently")
                if self._inodes.is_below(into, inode):
                    raise InvalidNameError(
                        f"{inode.name}: a directory cannot be moved below itself"
                    )
                below = KnownBelow(inode, tree=self._tree, write_back=self._write_back)
                not_stored = await below.find_written(_must_be_stored)
                if not not_stored:
                    await self._move_now(inode, (into, new), target, below)
                    return
            for child in not_stored:
                await self._write_back.sync(child)
        raise BusyError(
            f"{self._inodes.key(inode)}: files below are being written, and the spool is full",
            "close them, or give the volume a larger spool-size",
        )

    async def _move_now(
        self, inode: Inode, place: tuple[Inode, str], target: Inode | None, below: KnownBelow
    ) -> None:
        """place: the new directory and name."""
        into, new = place
        record = RenameRecord(
            old=self._inodes.key(inode),
            new=self._inodes.key_at(inode, into, new),
            phase="copying",
            began=self._clock.realtime_ns() / 1e9,
        )
        await below.check_keys(record.old, record.new)
        if target is not None:
            await self._tree.check_empty(target)
        for child in await below.find_written(_has_upload):
            if child.writer is not None:
                await child.writer.detach()
        entry = self._journal.begin(record)
        with closing(entry.copied) as copied:
            try:
                await self._copies.tree(record.old, record.new, copied)
                await below.check_keys(record.old, record.new)  # made during the copy
            except VolumeError:
                await self._undo(entry, record)
                raise
            entry.update(replace(record, phase="deleting", newest=copied.newest))
            above, old = self._inodes.get(inode.parent), inode.name
            if target is not None:
                self._tree.local_names.drop(self._inodes.get(target.parent), target.name)
                self._inodes.unlink(target)
            self._tree.move(inode, into, new)
            is_gone = False
            try:
                await below.follow(copied, record.old)
                pairs = ((key, etag) for page in copied.pages() for key, etag, _ in page)
                is_gone = not await self._copies.delete(pairs)
            finally:
                if not is_gone and self._inodes.child(above.ino, old) is None:
                    self._tree.directory(above).note(old, Special.DIRECTORY)
            entry.end()

    # a refused copy

    async def _undo(self, entry: JournalEntry, record: RenameRecord) -> None:
        """Delete the copies: the rename has not happened."""
        copied, uncertain = entry.copied, []
        unfiled = [(record.at_new(key), etag) for key, _, etag in copied.unfiled()]
        undoing = replace(record, phase="undoing", made=unfiled, in_file=copied.in_file)
        entry.update(undoing)
        try:
            uncertain = [(key, etag) for key in copied.uncertain if (etag := await self._etag(key))]
            if uncertain:
                entry.update(replace(undoing, made=[*unfiled, *uncertain]))
            made = ((record.at_new(key), etag) for page in copied.pages() for key, _, etag in page)
            await self._copies.delete(chain(made, uncertain))
        except VolumeError as exc:
            log.error(  # noqa: TRY400 - one line; what happens next is in it
                "copies under %s could not be removed after the rename of %s failed: %s; the"
                " mount's next worker tries again",
                record.new,
                record.old,
                exc,
                extra={"code": exc.code},
            )
        else:
            entry.end()

    async def _etag(self, key: str) -> str:
        """Of the object; "" if there is none."""
        try:
            return (await self._store.head(key)).etag
        except NotFoundError:
            return ""


def _must_be_stored(file: Inode) -> bool:
    """Whether it has bytes that are only in an upload to its present key."""
    return file.writer is not None and file.writer.must_be_stored_to_move


def _has_upload(file: Inode) -> bool:
    """Whether bytes of it are on their way to its present key."""
    return file.writer is not None and file.writer.has_upload
