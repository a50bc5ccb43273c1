"""The rename of a directory: all its keys, copied in parallel, then deleted in batches.

Nothing is deleted before every copy is made, and the intent tells the mount's next worker what to
finish after a crash, so that each file is whole under one name at least. A refused copy undoes
what was copied. While it lasts, other changes below both names wait (`KeyRangeLock`).
"""

import logging
from dataclasses import replace

from csi_s3.errors import (
    BusyError,
    InvalidNameError,
    NotFoundError,
    StaleError,
    VolumeError,
)
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

TRIES = 5  # to find no file below in an upload whose bytes are nowhere else


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
            for child in self._unkept(inode):
                await self._write_back.sync(child)
            async with self._key_lock.move(
                lambda: self._inodes.key(inode), lambda: self._inodes.key_at(inode, into, new)
            ):
                if not inode.is_linked or (inode.parent, inode.name) != before:
                    raise StaleError(f"{inode.name}: changed meanwhile")
                if not into.is_linked or self._inodes.child(into.ino, new) is not target:
                    raise StaleError(f"{new}: changed meanwhile")
                if self._inodes.is_below(into, inode):
                    raise InvalidNameError(f"{inode.name}: a directory cannot go below itself")
                if not self._unkept(inode):
                    await self._move_now(inode, into, new, target)
                    return
        raise BusyError(
            f"{self._inodes.key(inode)}: files below are being written, without room in the spool",
            "close them, or give the volume a larger spool-size",
        )

    def _unkept(self, inode: Inode) -> list[Inode]:
        """Files below of which bytes are in an upload to their present key, and nowhere else."""
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
        what = RenameRecord(
            old=old_prefix,
            new=new_prefix,
            phase="copying",
            began=self._clock.realtime_ns() / 1e9,
        )
        intent = self._journal.begin(what)
        copied = TreeCopy()
        try:
            await self._copies.tree(old_prefix, new_prefix, copied)
            self._check_keys(inode, old_prefix, new_prefix)  # of what was made meanwhile
        except VolumeError:
            await self._undo(intent, what, copied)
            raise
        intent.update(replace(what, phase="deleting", newest=copied.newest))
        above, old = self._inodes.get(inode.parent), inode.name
        if target is not None:
            self._tree.drop_local(self._inodes.get(target.parent), target.name)
            self._inodes.unlink(target)
        self._tree.move(inode, into, new)
        self._tree.moved(inode)
        self._follow(inode, what, copied)
        is_gone = False
        try:
            is_gone = not await self._copies.delete((key, etag) for key, etag, _ in copied)
        finally:
            if not is_gone and self._inodes.child(above.ino, old) is None:
                self._tree.directory(above).note(old, Special.DIRECTORY)
        intent.end()

    def _check_keys(self, inode: Inode, old: str, new: str) -> None:
        """Of what is below and not stored yet as well: it could not be stored later."""
        for child in self._inodes.below(inode):
            check_key(new + self._inodes.key(child)[len(old) :])

    def _follow(self, inode: Inode, what: RenameRecord, copied: TreeCopy) -> None:
        """The files below are the copies now.

        Not one that was never stored, or that somebody else removed. Where somebody else had
        replaced it, it goes on as before: what is open is stale, and the next look finds another
        version.
        """
        files = {
            what.old + self._inodes.key(child)[len(what.new) :]: child
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

    async def _undo(self, intent: JournalEntry, what: RenameRecord, copied: TreeCopy) -> None:
        """Nothing of it has happened: what was copied goes again."""
        made = [(what.new + source[len(what.old) :], etag) for source, _, etag in copied]
        try:
            made += [(key, etag) for key in copied.unsure if (etag := await self._etag(key))]
            intent.update(replace(what, phase="undoing", made=made))
            await self._copies.delete(made)
        except VolumeError as exc:
            intent.update(replace(what, phase="undoing", made=made))
            log.error(  # noqa: TRY400 - one line; what happens next is in it
                "copies under %s could not be removed after the rename of %s failed: %s; the"
                " mount's next worker tries again",
                what.new,
                what.old,
                exc,
                extra={"code": exc.code},
            )
        else:
            intent.end()

    async def _etag(self, key: str) -> str:
        """Of the object, or "" if there is none."""
        try:
            return (await self._store.head(key)).etag
        except NotFoundError:
            return ""
