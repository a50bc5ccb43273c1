"""A file being changed through this mount.

The file owns its bytes, not a handle: page write-back, fsync through another descriptor and the
last release come with any handle or none. `staging` knows where the bytes are, `file_sender` brings
them to the store; here changes are accepted, in order.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from csi_s3.errors import (
    AccessDeniedError,
    ArchivedError,
    FileTooLargeError,
    SpoolFullError,
    StaleError,
    VolumeError,
)
from csi_s3.fs.base.budget import MemoryBudget
from csi_s3.fs.base.key_range_lock import KeyRangeLock
from csi_s3.fs.read.reader import BaseReader
from csi_s3.fs.write.extents import Origin
from csi_s3.fs.write.file_sender import FileSender
from csi_s3.fs.write.spool import Description, Spool, SpoolFile
from csi_s3.fs.write.staging import StagedFile
from csi_s3.s3.store import MAX_PARTS, ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

LARGEST_SHARE = 8  # of the memory budget: the largest part that is sent


class FileWriter:
    """Lifetime: from the first open for writing to the last release, or while it is stored.

    Concurrency: one lock orders changes and stores. `store` and `discard` are called with a turn
    of `KeyRangeLock`, whose owner may call `detach` and `rebase` without the lock.
    Cancellation: a store runs in a task of its owner (the file system), so a handler that gives up
    does not stop it.

    is_dirty: the store does not hold all of it. was_written: since it was stored last.
    exclusive: the name was created for us alone: without a base, only where there is no object.
    rewrites: the version that was there when the file was truncated to be written anew.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: Callable[[], str],
        *,
        base: ObjectInfo | None,
        read_base: BaseReader,
        spool: Spool,
        part_bytes: int,
        budget: MemoryBudget,
        group: asyncio.TaskGroup,
        progress: Callable[[], None],
        key_lock: KeyRangeLock,
        exclusive: bool = False,
        rewrites: ObjectInfo | None = None,
    ) -> None:
        self.is_dirty = base is None
        self.was_written = False
        self.is_discarded = False
        self._store, self._key, self._part_bytes = store, key, part_bytes
        self._budget, self._progress, self._key_lock, self._spool = (
            budget,
            progress,
            key_lock,
            spool,
        )
        self._rewrites = rewrites
        self._staged = StagedFile(
            base=base, read_base=read_base, spool=spool, budget=budget, key=key
        )
        self._sender = FileSender(
            store,
            key,
            staged=self._staged,
            part_bytes=part_bytes,
            budget=budget,
            group=group,
            progress=progress,
            like=None if exclusive else base,
            exclusive=exclusive,
        )
        self._lock = asyncio.Lock()
        self._storing: list[VolumeError] | None = None  # under way; its failure, at the end
        self._is_closed = False

    @property
    def size(self) -> int:
        """Of the file: bytes accepted, holes included."""
        return self._staged.size

    @property
    def base(self) -> ObjectInfo | None:
        """What the store holds of this file, if anything."""
        return self._staged.base

    @property
    def is_lost(self) -> bool:
        """An upload failed, and bytes that were in it are nowhere else."""
        return self._sender.failure is not None

    # changes

    def try_write(self, offset: int, data: bytes) -> bool:
        """Accept bytes if that needs no waiting; else False, and `write` is to be called."""
        staged = self._staged
        fits = staged.has_room(len(data)) and len(staged.tail) + len(data) <= self._part_bytes
        if not data or self.is_lost or offset != staged.size or self._lock.locked() or not fits:
            return False
        if 0 < staged.tail_start < self._store.min_part_bytes and self._sender.upload is None:
            return False  # it is brought into memory first
        staged.append(data)
        self.is_dirty = self.was_written = True
        return True

    async def write(self, offset: int, data: bytes) -> None:
        """Accept bytes anywhere; waits for memory.

        Raises:
            SpoolFullError: they fit neither memory nor spool.
            FileTooLargeError: so far behind the end that the file could not be sent.
            VolumeError: a part could not be stored and is here no more; final for this file.

        """
        view = memoryview(data)
        while True:
            async with self._lock:
                n = await self._write_some(offset, view)
            offset, view = offset + n, view[n:]
            if not view:
                return
            async with self._key_lock.change(self._key):
                pass  # a rename was in the way

    async def _write_some(self, offset: int, data: memoryview) -> int:
        """Returns how many bytes were accepted: all, unless a rename is under way."""
        self._check_whole()
        if not data:
            return 0
        await self._bring_small(is_append=offset == self.size)
        if offset > self.size:
            await self._grow(offset)
        self.is_dirty = self.was_written = True
        done = max(0, min(len(data), self.size - offset))
        self._overwrite(offset, data[:done])
        while done < len(data):
            n = await self._accept(data[done:])
            if n is None:
                break
            done += n
        return done

    def _check_whole(self) -> None:
        if self._is_closed:
            raise StaleError(f"{self._key()}: what was written could not be stored")
        if self._sender.failure is not None:
            raise self._sender.failure

    def _overwrite(self, offset: int, data: memoryview) -> None:
        if not data:
            return
        end = offset + len(data)
        self._check_kept(offset, end)
        if self._sender.upload is not None:  # first: a full disk may take some of it
            self._sender.upload.changed(offset, end)
        self._staged.overwrite(offset, data)

    def _check_kept(self, start: int, end: int) -> None:
        """Bytes that are in parts only cannot be sent again in another part."""
        if any(e.origin is Origin.SENT for e in self._staged.extents.within(start, end)):
            raise SpoolFullError(
                f"{self._key()}: a change of bytes that were sent already, and not kept",
                "give the volume a larger spool-size",
            )

    async def _bring_small(self, *, is_append: bool) -> None:
        """Have a small stored file in memory whole before it is changed."""
        staged = self._staged
        is_copied = staged.extents.has(Origin.BASE) and (is_append or self._spool.is_there)
        most = self._store.min_part_bytes - 1 if is_copied else self._part_bytes
        if staged.is_in_memory or staged.size > most or self._sender.upload is not None:
            return
        if staged.extents.has(Origin.SENT):
            return
        missing = staged.missing_for(staged.size)
        await self._budget.reserve(missing)
        staged.reserved(missing)
        await staged.load()

    async def _grow(self, size: int) -> None:
        """Let zeros follow: in memory as long as the file fits, else as a hole."""
        staged = self._staged
        largest = MAX_PARTS * max(self._part_bytes, self._budget.total_bytes // LARGEST_SHARE)
        if size - staged.size > largest:
            raise FileTooLargeError(
                f"{self._key()}: a hole up to {size}, and holes are sent as zeros",
                f"at most {largest} bytes; a larger write-part-size or memory-target allows more",
            )
        if staged.is_in_memory and size <= self._part_bytes:
            missing = staged.missing_for(size - staged.size)
            if self._budget.has_room(missing):
                await self._budget.reserve(missing)
                staged.reserved(missing)
                staged.append(bytes(size - staged.size))
                return
        staged.extend(size)

    async def _accept(self, data: memoryview) -> int | None:
        """Take what fits into the tail, once there is room; None: a rename is in the way."""
        staged = self._staged
        if len(staged.tail) >= self._sender.part_bytes and not await self._leave():
            return None
        limit = self._sender.part_bytes
        n = min(len(data), limit - len(staged.tail))
        missing = staged.missing_for(n)
        if missing > 0:
            if not self._budget.has_room(missing) and staged.tail and self._makes_room():
                left = await self._leave()  # its memory comes back, whoever else waits
                return 0 if left else None
            await self._budget.reserve(missing)
            staged.reserved(missing)
            self._progress()
        staged.append(data[:n])
        return n

    def _makes_room(self) -> bool:
        """Whether the tail can leave before it is a full part."""
        return self._can_stream() and len(self._staged.tail) >= self._store.min_part_bytes

    def _can_stream(self) -> bool:
        return not self.is_discarded and self._sender.can_stream()

    async def _leave(self) -> bool:
        """Empty the tail: as the next part of the upload, or into the spool.

        Returns False if a rename is under way, after which the upload will be another one.
        """
        if self._can_stream():
            with self._key_lock.change_at_once(self._key) as is_our_turn:
                if is_our_turn:
                    await self._sender.stream()
                return is_our_turn
        self._staged.spill()
        return True

    async def truncate(self, size: int) -> None:
        """Make the file that long.

        Raises:
            SpoolFullError: what must leave the memory finds no room.

        """
        async with self._lock:
            if size == 0:
                await self._reset()
                return
            self._check_whole()
            if size != self.size:
                await self._bring_small(is_append=False)
                if size > self.size:
                    await self._grow(size)
                else:
                    self._cut(size)
            self.is_dirty = self.was_written = True

    def _cut(self, size: int) -> None:
        upload = self._sender.upload
        for part in upload.parts if upload is not None else ():
            if part.start < size < part.end:
                self._check_kept(part.start, size)
        self._staged.cut(size)
        if upload is not None:
            upload.cut(size)

    async def reset(self) -> None:
        """Truncate to nothing: what was written is dropped, the store is told at the next store."""
        async with self._lock:
            await self._reset()

    async def _reset(self) -> None:
        self._staged.reset()
        self._sender.failure = None
        self.is_dirty, self.was_written = True, False
        await self._sender.drop()

    # into the store

    async def store(self, *, joins: bool = False) -> ObjectInfo | None:
        """Bring all bytes into the store, if they are not there. Returns what it then holds.

        joins: while they are on their way already, a failure of that is ours, too: it is not tried
        again at once with the same bytes.

        Raises:
            ExistsError: created exclusively, and somebody else made the object meanwhile.
            StaleError: the object that is changed was replaced or removed by somebody else.
            VolumeError: what the store answered; it may be tried again unless bytes are lost.

        """
        under_way = self._storing if joins else None
        async with self._lock:
            if under_way:
                raise under_way[0]
            if not self.is_dirty or self.is_discarded:
                return self.base
            self._check_whole()
            self._storing = failed = []
            try:
                info = await self._sender.store()
            except VolumeError as exc:
                failed.append(exc)
                raise
            finally:
                self._storing = None
            self._staged.stored(info)
            self._spool.written_anew(info.key)
            self._sender.exclusive = False
            self.is_dirty = self.was_written = False
            self._progress()
            return info

    # without a name, and the end

    async def discard(self, remove: Callable[[], Awaitable[None]], *, limit_bytes: int = 0) -> None:
        """Remove the name, then never store it: no store can be under way meanwhile.

        What is here stays readable and writable, and so does what is only in S3 if it is no more
        than limit_bytes: it is fetched before. A failure of `remove` changes nothing.
        """
        async with self._lock:
            try:
                await self._staged.localise(limit_bytes, self._progress)
            except (SpoolFullError, StaleError, AccessDeniedError, ArchivedError) as exc:
                log.info("%s: removed while open; reads will fail: %s", self._key(), exc)
            await self._sender.settle()  # what is there may be ours, and then has to go
            await remove()
            self.is_discarded = True
            self._staged.abandon()
            await self._sender.drop()

    @property
    def must_be_stored_to_move(self) -> bool:
        """Bytes are in an upload to the present key, and nowhere else; or may be there already."""
        is_sent = self._sender.upload is not None and self._staged.extents.has(Origin.SENT)
        return is_sent or self._sender.is_unsure

    async def detach(self) -> None:
        """Before the key changes: nothing may be on its way to the old one; sent bytes are kept."""
        await self._sender.drop()

    async def give_up(self) -> None:
        """Nobody will try to store it again: the store need not keep what was sent."""
        async with self._lock:
            await self._sender.drop()

    def rebase(self, info: ObjectInfo) -> None:
        """The stored version has another key now, maybe another ETag, and the same bytes."""
        self._staged.base = info
        if self._sender.like is not None:
            self._sender.like = info

    @property
    def is_kept(self) -> bool:
        """`keep` was called, and nothing has changed since."""
        return self._staged.is_kept

    def keep(self) -> Path | None:
        """See to it that the mount's next worker finds what the store does not have.

        Where that is; None: nothing is left. The file can be used as before, and what was kept
        goes once it is stored.

        Raises:
            SpoolFullError: there is no room for it.

        """
        if not self.is_dirty or self.is_discarded or self.is_lost or not self._spool.is_there:
            return None
        if self._is_closed:
            return None  # what there was is kept
        return self._staged.keep(replaces=self.base or self._rewrites)

    def adopt(self, file: SpoolFile, description: Description) -> None:
        """Go on with what an earlier worker kept."""
        self._staged.adopt(file, description)
        self.is_dirty = self._sender.is_adopted = True

    def cancel(self) -> None:
        """Stop sending; plain code, at the end of the mount."""
        self._sender.cancel()

    def close(self) -> None:
        """Give memory and spool back; whoever still waits to change or store it is refused."""
        self._is_closed = True
        self._staged.close()

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file as it is now, wherever they are. As `StagedFile.read`."""
        self._check_whole()
        return await self._staged.read(offset, length)
