"""Directory renames that an earlier worker of this mount began: they are finished, or undone.

Between the two workers, other clients may have changed both names: what was not certainly done by
that worker stays as it is, and the log names it.
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
from csi_s3.fs.rename.copies import Copies
from csi_s3.fs.rename.journal import JournalEntry, RenameJournal, RenameRecord
from csi_s3.fs.rename.tree_copy import TreeCopy
from csi_s3.s3.store import ObjectInfo

log = logging.getLogger(__name__)

CLOCK_SKEW_S = 60.0  # between this node and the store, when an object's age is judged


async def recover_renames(key_lock: KeyRangeLock, copies: Copies, journal: RenameJournal) -> None:
    """Finish or undo each; failures go to the log.

    They get turns in the order in which they began, and before all later requests.
    Cancellation: an entry that is not finished stays for the next worker.
    """
    async with asyncio.TaskGroup() as group:
        for entry, record in journal.pending():
            group.create_task(_recover(key_lock, copies, entry, record))


async def _recover(
    key_lock: KeyRangeLock, copies: Copies, entry: JournalEntry, record: RenameRecord
) -> None:
    async with key_lock.move(lambda: record.old, lambda: record.new):
        work = _take_back if record.phase == "undoing" else _finish
        failed = await outcome(partial(work, copies, entry, record))
        entry.copied.close()
    if isinstance(failed, VolumeError):
        log.error(
            "the rename of %s to %s, which an earlier worker began, is still half done: %s",
            record.old,
            record.new,
            failed,
            extra={"code": failed.code},
        )
    else:
        entry.end()
        log.info("finished an earlier worker's rename of %s to %s", record.old, record.new)


async def _take_back(copies: Copies, entry: JournalEntry, record: RenameRecord) -> None:
    """Delete the copies, unless their keys were written to since."""
    made, present = dict(record.made), []
    if made:
        async for objects in copies.pages(record.new):
            present += [(o.key, o.etag) for o in objects if made.get(o.key) == o.etag]
        await copies.delete(present)
    found = 0
    for page in entry.left_pages() if record.in_file else ():
        found += len(page)
        new_keys = ((record.at_new(key), etag) for key, _, etag in page)
        await copies.delete(await copies.unchanged(new_keys))
    if found < record.in_file:
        log.warning(
            "%d of %d copies under %s may stay after the rename of %s was undone: what an earlier"
            " worker wrote down is damaged",
            record.in_file - found,
            record.in_file,
            record.new,
            record.old,
        )


async def _finish(copies: Copies, entry: JournalEntry, record: RenameRecord) -> None:
    """Copy what is not at its new key yet, then delete what was copied."""
    copied = entry.copied
    if record.phase == "copying":
        left = _not_copied(copies, record, copied)
        await copies.tree(record.old, record.new, copied, pages=left)
        entry.update(replace(record, phase="deleting", newest=copied.newest))
    else:
        async with aclosing(_pairs(copies, record)) as pages:
            async for pairs in pages:
                for o, made in pairs:
                    if made is not None and o.last_modified <= record.newest:
                        copied.add(o, made)
    await copies.delete((key, etag) for page in copied.pages() for key, etag, _ in page)


async def _not_copied(
    copies: Copies, record: RenameRecord, copied: TreeCopy
) -> AsyncGenerator[list[ObjectInfo], None]:
    """Pages of objects that are still to be copied; those at both keys go to `copied`."""
    async with aclosing(_pairs(copies, record)) as pages:
        async for pairs in pages:
            yield [o for o, made in pairs if _must_be_copied(record, o, made, copied)]


def _must_be_copied(
    record: RenameRecord, o: ObjectInfo, made: ObjectInfo | None, copied: TreeCopy
) -> bool:
    if o.last_modified > record.began + CLOCK_SKEW_S:
        return False  # made after the crash, by another client
    if made is None:
        return True
    if _is_copy(made, o):
        copied.add(o, made)
        return False
    if made.last_modified > o.last_modified:
        log.info("%s stays: %s was modified concurrently", o.key, made.key)
        return False
    return True  # a copy of a version that was replaced since


async def _pairs(
    copies: Copies, record: RenameRecord
) -> AsyncGenerator[list[tuple[ObjectInfo, ObjectInfo | None]], None]:
    """Each object under the old name, with the object at its new key.

    Both listings have one order, so that memory holds a page or two of each.
    """
    at_new: dict[bytes, ObjectInfo] = {}
    reached, is_over = b"", False
    new, old = copies.pages(record.new), copies.pages(record.old)
    async with aclosing(new), aclosing(old):
        async for objects in old:
            suffixes = [_suffix(o, record.old) for o in objects]
            last = max(suffixes, default=b"")
            while reached <= last and not is_over:
                page = await anext(new, None)
                is_over = page is None
                at_new |= {_suffix(o, record.new): o for o in page or ()}
                reached = max(at_new, default=reached)
            yield [(o, at_new.get(suffix)) for o, suffix in zip(objects, suffixes, strict=True)]
            at_new = {suffix: o for suffix, o in at_new.items() if suffix > last}


def _suffix(o: ObjectInfo, prefix: str) -> bytes:
    return o.key[len(prefix) :].encode(errors="surrogateescape")


def _is_copy(made: ObjectInfo, source: ObjectInfo) -> bool:
    """Whether that is certain; a copy of an object uploaded in parts has another ETag."""
    if made.size != source.size:
        return False
    return made.etag == source.etag or made.last_modified > source.last_modified
