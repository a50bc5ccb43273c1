"""The rename of a directory: all its keys, copied in parallel, then deleted in batches.

Nothing is deleted before every copy is made, and from the journal the mount's next worker finishes
after a crash, so that each file is whole under one name at least. If a copy is refused, all copies
are deleted again. Until the end, other changes below both names wait (`KeyRangeLock`).
"""

import logging
from dataclasses import replace

from csi_s3.errors import BusyError, InvalidNameError, NotFoundError, StaleError, VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import check_key
from csi_s3.fs.files.write_back import WriteBack
from csi_s3.fs.names.entries import Special
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.tree import Tree
from csi_s3.fs.rename.copies import Copies, TreeCopy
from csi_s3.fs.rename.journal import JournalEntry, RenameJournal, RenameRecord
from csi_s3.s3.store import Version

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
            for child in self._not_stored(inode):
                await self._write_back.sync(child)
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
                if not self._not_stored(inode):
                    await self._move_now(inode, into, new, target)
                    return
        raise BusyError(
            f"{self._inodes.key(inode)}: files below are being written, and the spool is full",
            "close them, or give the volume a larger spool-size",
        )

    def _not_stored(self, inode: Inode) -> list[Inode]:
        """Files below with bytes that are only in an upload to their present key."""
        return [
            child
            for child in self._inodes.below(inode)
            if child.writer is not None and child.writer.must_be_stored_to_move
        ]

    async def _move_now(self, inode: Inode, into: Inode, new: str, target: Inode | None) -> None:
        old_prefix = self._inodes.key(inode)
        new_prefix = self._inodes.key_at(inode, into, new)
        self._check_keys(inode, old_prefix, new_prefix)
        if target is not None:
            await self._tree.check_empty(target)
        for child in self._inodes.below(inode):
            if child.writer is not None:
                await child.writer.detach()
        record = RenameRecord(
            old=old_prefix, new=new_prefix, phase="copying", began=self._clock.realtime_ns() / 1e9
        )
        entry = self._journal.begin(record)
        copied = TreeCopy()
        try:
            await self._copies.tree(old_prefix, new_prefix, copied)
            self._check_keys(inode, old_prefix, new_prefix)  # of names made during the copy
        except VolumeError:
            await self._undo(entry, record, copied)
            raise
        entry.update(replace(record, phase="deleting", newest=copied.newest))
        above, old = self._inodes.get(inode.parent), inode.name
        if target is not None:
            self._tree.drop_local(self._inodes.get(target.parent), target.name)
            self._inodes.unlink(target)
        self._tree.move(inode, into, new)
        self._tree.moved(inode)
        self._follow(inode, record, copied)
        is_gone = False
        try:
            is_gone = not await self._copies.delete((key, etag) for key, etag, _ in copied)
        finally:
            if not is_gone and self._inodes.child(above.ino, old) is None:
                self._tree.directory(above).note(old, Special.DIRECTORY)
        entry.end()

    def _check_keys(self, inode: Inode, old: str, new: str) -> None:
        """Also of files that are not stored yet: they could not be stored later."""
        for child in self._inodes.below(inode):
            check_key(new + self._inodes.key(child)[len(old) :])

    def _follow(self, inode: Inode, record: RenameRecord, copied: TreeCopy) -> None:
        """Let the files below stand for the copies.

        Not for files that were never stored, or that another client removed or replaced: those are
        stale while they are open, and the next look-up finds another version.
        """
        files = {
            record.old + self._inodes.key(child)[len(record.new) :]: child
            for child in self._inodes.below(inode)
            if not child.is_dir
        }
        versions = {key: (a, b) for key, a, b in copied if key in files} if files else {}
        for source, child in files.items():
            known = child.info if child.writer is None else child.writer.base
            old_etag, etag = versions.get(source, ("", ""))
            if known is not None and old_etag and known.version == Version(old_etag):
                self._write_back.moved(
                    child, replace(known, key=self._inodes.key(child), etag=etag)
                )
            else:
                child.set_fresh(0.0)

    # a refused copy

    async def _undo(self, entry: JournalEntry, record: RenameRecord, copied: TreeCopy) -> None:
        """Delete the copies: the rename has not happened."""
        made = [(record.new + source[len(record.old) :], etag) for source, _, etag in copied]
        try:
            made += [(key, etag) for key in copied.uncertain if (etag := await self._etag(key))]
            entry.update(replace(record, phase="undoing", made=made))
            await self._copies.delete(made)
        except VolumeError as exc:
            entry.update(replace(record, phase="undoing", made=made))
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
