"""Directory renames that an earlier worker of this mount began: finished now, or undone.

Between its end and our beginning anybody may have worked on both names: what is not certain to be
that worker's own doing stays as it is, and the log names it.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from csi_s3.errors import VolumeError
from csi_s3.fs.base.key_range_lock import KeyRangeLock
from csi_s3.fs.base.outcome import outcome
from csi_s3.fs.rename.copies import Copies, TreeCopy
from csi_s3.fs.rename.journal import JournalEntry, RenameJournal, RenameRecord
from csi_s3.s3.store import ObjectInfo

log = logging.getLogger(__name__)

CLOCK_SKEW_S = 60.0  # between this node and the store, when an object's age is judged


class RenameRecovery:
    """Concurrency: each has its keys locked. Cancellation: the intent stays for the next."""

    def __init__(self, key_lock: KeyRangeLock, *, copies: Copies, journal: RenameJournal) -> None:
        self._copies, self._key_lock, self._journal = copies, key_lock, journal

    async def recover(self) -> None:
        """Deal with each; failures reach the log.

        They have their turns in the order in which they began, and before anything else that asks
        for one later.
        """
        async with asyncio.TaskGroup() as group:
            for intent, what in self._journal.pending():
                group.create_task(self._recover(intent, what))

    async def _recover(self, intent: JournalEntry, what: RenameRecord) -> None:
        async with self._key_lock.move(lambda: what.old, lambda: what.new):
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

    async def _take_back(self, _intent: JournalEntry, what: RenameRecord) -> None:
        """Delete the copies, where nobody has written to their keys since."""
        made, doomed = dict(what.made), []
        async for objects in self._copies.pages(what.new):
            doomed += [(o.key, o.etag) for o in objects if made.get(o.key) == o.etag]
        await self._copies.delete(doomed)

    async def _finish(self, intent: JournalEntry, what: RenameRecord) -> None:
        """Copy what is not at its new place yet, then delete what was copied."""
        both = TreeCopy()
        if what.phase == "copying":
            left = self._not_copied(what, both)
            await self._copies.tree(what.old, what.new, both, pages=left)
            intent.update(replace(what, phase="deleting", newest=both.newest))
        else:
            async with aclosing(self._pairs(what)) as pages:
                async for pairs in pages:
                    for o, made in pairs:
                        if made is not None and o.last_modified <= what.newest:
                            both.add(o, made)
        await self._copies.delete((key, etag) for key, etag, _ in both)

    async def _not_copied(
        self, what: RenameRecord, both: TreeCopy
    ) -> AsyncGenerator[list[ObjectInfo], None]:
        """Pages of what is to be copied still; what is at both places already goes to `both`."""
        async with aclosing(self._pairs(what)) as pages:
            async for pairs in pages:
                yield [o for o, made in pairs if self._is_left(what, o, made, both)]

    def _is_left(
        self, what: RenameRecord, o: ObjectInfo, made: ObjectInfo | None, both: TreeCopy
    ) -> bool:
        if o.last_modified > what.began + CLOCK_SKEW_S:
            return False  # made after the crash, by somebody else
        if made is None:
            return True
        if _is_copy(made, o):
            both.add(o, made)
            return False
        if made.last_modified > o.last_modified:
            log.info("%s stays: somebody else has written to %s since", o.key, made.key)
            return False
        return True  # a copy of a version that somebody else then replaced

    async def _pairs(
        self, what: RenameRecord
    ) -> AsyncGenerator[list[tuple[ObjectInfo, ObjectInfo | None]], None]:
        """Pages of what is at the old name, each object with what has its new key.

        Both listings have one order, so that a page or two of each is all that memory holds.
        """
        there: dict[bytes, ObjectInfo] = {}
        reached, is_over = b"", False
        new, old = self._copies.pages(what.new), self._copies.pages(what.old)
        async with aclosing(new), aclosing(old):
            async for objects in old:
                rests = [_rest(o, what.old) for o in objects]
                last = max(rests, default=b"")
                while reached <= last and not is_over:
                    page = await anext(new, None)
                    is_over = page is None
                    there |= {_rest(o, what.new): o for o in page or ()}
                    reached = max(there, default=reached)
                yield [(o, there.get(rest)) for o, rest in zip(objects, rests, strict=True)]
                there = {rest: o for rest, o in there.items() if rest > last}


def _rest(o: ObjectInfo, prefix: str) -> bytes:
    return o.key[len(prefix) :].encode(errors="surrogateescape")


def _is_copy(made: ObjectInfo, source: ObjectInfo) -> bool:
    """Whether it is certain; a copy of what was uploaded in parts has another ETag."""
    if made.size != source.size:
        return False
    return made.etag == source.etag or made.last_modified > source.last_modified
