"""The rename of a directory: all its keys, copied in parallel, then deleted in batches.

Nothing is deleted before every copy is made, and the intent tells the mount's next worker what to
finish after a crash, so that each file is whole under one name at least. A refused copy undoes
what was copied. While it lasts, other changes below both names wait (`moves`).
"""

import asyncio
import logging
from dataclasses import replace
from functools import partial

from csi_s3.errors import (
    BusyError,
    NotEmptyError,
    NotFoundError,
    StaleError,
    StoreRefusedError,
    VolumeError,
)
from csi_s3.fs.changes import Changes
from csi_s3.fs.copies import Copies, TreeCopy
from csi_s3.fs.directory import Found, Link, Special
from csi_s3.fs.inodes import Inode
from csi_s3.fs.intents import DirectoryRename, Intent, Intents
from csi_s3.fs.outcome import outcome
from csi_s3.fs.tree import Clock, Tree
from csi_s3.s3.store import ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

CLOCK_SKEW_S = 60.0  # between this node and the store, when an object's age is judged
TRIES = 5  # to find no file below in an upload whose bytes are nowhere else


class TreeMoves:
    """Concurrency and cancellation: as `Renames`, whose part it is."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        tree: Tree,
        changes: Changes,
        copies: Copies,
        intents: Intents,
        clock: Clock,
    ) -> None:
        self._store, self._tree, self._changes = store, tree, changes
        self._copies, self._intents, self._clock = copies, intents, clock
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
                await self._changes.store(child)
            async with self._changes.moves.move(
                lambda: self._inodes.key(inode), lambda: self._inodes.key_at(inode, into, new)
            ):
                if not inode.is_linked or (inode.parent, inode.name) != before:
                    raise StaleError(f"{inode.name}: changed meanwhile")
                if not into.is_linked or self._inodes.child(into.ino, new) is not target:
                    raise StaleError(f"{new}: changed meanwhile")
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
        if target is not None:
            await self._check_empty(target, new_prefix)
        for child in self._inodes.below(inode):
            if child.writer is not None:
                await child.writer.detach()
        what = DirectoryRename(
            old=old_prefix,
            new=new_prefix,
            phase="copying",
            began=self._clock.realtime_ns() / 1e9,
        )
        intent = self._intents.begin(what)
        copied = TreeCopy()
        try:
            await self._copies.tree(old_prefix, new_prefix, copied)
        except VolumeError:
            await self._undo(intent, what, copied)
            raise
        intent.update(replace(what, phase="deleting", newest=copied.newest))
        if target is not None:
            self._tree.drop_local(self._inodes.get(target.parent), target.name)
            self._inodes.unlink(target)
        take_place(self._tree, inode, into, new)
        self._tree.moved(inode)
        for child in self._inodes.below(inode):
            if not child.is_dir:
                self._moved(child, old_prefix + self._inodes.key(child)[len(new_prefix) :], copied)
        await self._delete(list(copied.etags))
        intent.end()

    async def _check_empty(self, target: Inode, prefix: str) -> None:
        page = await self._store.list_page(prefix, max_keys=2)
        has_marker = any(o.key == prefix for o in page.objects)
        there = len(page.objects) + len(page.prefixes)
        if there > has_marker or self._tree.directory(target).local:
            raise NotEmptyError(f"{prefix}: not empty")

    def _moved(self, child: Inode, source: str, copied: TreeCopy) -> None:
        """A file below was copied; not if it was never stored, or somebody else removed it.

        Where somebody else had replaced it, it goes on as before: what is open is stale, and the
        next look finds another version.
        """
        known = child.info if child.writer is None else child.writer.base
        old_etag, etag = copied.etags.get(source, ("", ""))
        if known is not None and known.etag and known.etag == old_etag:
            self._changes.moved(child, replace(known, key=self._inodes.key(child), etag=etag))
        else:
            child.fresh_until = 0.0

    async def _delete(self, keys: list[str]) -> None:
        remain = await self._store.delete_many(keys)
        if remain:
            key, reason = next(iter(remain.items()))
            raise StoreRefusedError(
                f"{len(remain)} of {len(keys)} objects could not be deleted, the first {key}:"
                f" {reason}",
                "they are there under both names",
            )

    # a refused copy

    async def _undo(self, intent: Intent, what: DirectoryRename, copied: TreeCopy) -> None:
        """Nothing of it has happened: what was copied goes again."""
        made = [
            (what.new + source[len(what.old) :], etag) for source, (_, etag) in copied.etags.items()
        ]
        try:
            made += [(key, etag) for key in copied.unsure if (etag := await self._etag(key))]
            intent.update(replace(what, phase="undoing", made=made))
            await self._delete([key for key, _ in made])
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

    # what an earlier worker left

    async def recover(self) -> None:
        """Finish, or undo, the directory renames of earlier workers of this mount.

        They have their turns before anything else that asks for one later.
        """
        async with asyncio.TaskGroup() as group:
            for intent, what in self._intents.pending():
                group.create_task(self._recover(intent, what))

    async def _recover(self, intent: Intent, what: DirectoryRename) -> None:
        async with self._changes.moves.move(lambda: what.old, lambda: what.new):
            work = self._take_back if what.phase == "undoing" else self._finish
            failed = await outcome(partial(work, intent, what))
        if isinstance(failed, VolumeError):
            log.error(
                "the rename of %s to %s, which an earlier worker began, is still half done: %s",
                what.old,
                what.new,
                failed,
                extra={"code": failed.code},
            )
        else:
            intent.end()
            log.info("finished an earlier worker's rename of %s to %s", what.old, what.new)

    async def _take_back(self, _intent: Intent, what: DirectoryRename) -> None:
        """Delete the copies, where nobody has written to their keys since."""
        doomed = []
        for key, etag in what.made:
            if await self._etag(key) == etag:
                doomed.append(key)
        await self._delete(doomed)

    async def _finish(self, intent: Intent, what: DirectoryRename) -> None:
        """Copy what is not at its new place yet, then delete what was copied."""
        newest, keys = what.newest, []
        if what.phase == "copying":
            newest = await self._copy_rest(what)
            intent.update(replace(what, phase="deleting", newest=newest))
        async for objects in self._copies.pages(what.old):
            keys += [o.key for o in objects if o.last_modified <= newest]
        await self._delete(keys)

    async def _copy_rest(self, what: DirectoryRename) -> float:
        """Returns when the youngest of what is at both places now was made."""
        there: dict[str, ObjectInfo] = {}
        async for objects in self._copies.pages(what.new):
            there |= {o.key[len(what.new) :]: o for o in objects}
        newest = 0.0
        async for objects in self._copies.pages(what.old):
            for o in objects:
                if o.last_modified > what.began + CLOCK_SKEW_S:
                    continue  # made after the crash, by somebody else
                rest = o.key[len(what.old) :]
                if not _is_copy(there.get(rest), o):
                    await self._copies.one(o, what.new + rest)
                newest = max(newest, o.last_modified)
        return newest


def _is_copy(made: ObjectInfo | None, source: ObjectInfo) -> bool:
    """Whether it is certain; a copy of what was uploaded in parts has another ETag."""
    if made is None or made.size != source.size:
        return False
    return made.etag == source.etag or made.last_modified > source.last_modified


def take_place(tree: Tree, inode: Inode, into: Inode, new: str) -> None:
    """The name moves: inode table, what is local, and what listings show. Plain code."""
    above, old = tree.inodes.get(inode.parent), inode.name
    was_local = tree.directory(above).local.get(old) is inode
    if was_local:
        tree.drop_local(above, old)
    tree.directory(above).note(old, Special.ABSENT)
    tree.inodes.move(inode, into.ino, new)
    for directory in (above, into):
        tree.entries_changed(directory)
    if was_local:
        tree.add_local(into, inode)
    tree.directory(into).note(new, Special.LOCAL if was_local else found_as(inode, inode.info))
    tree.keep(above)  # until rmdir, even if that was its last name


def found_as(inode: Inode, info: ObjectInfo | None) -> Found:
    """What a look-up finds of it; info: the version of a file or symbolic link."""
    if inode.is_dir:
        return Special.DIRECTORY
    if info is None:
        return Special.LOCAL
    return Link(info) if inode.is_link else info
