"""Takes the bytes of a write that waits, or of a copy inside the store, into a file.

Those at its end go to the tail, where there is memory; else the tail leaves before, by upload or to
the spool. docs/concurrency.md (Memory) has the order and the reasons.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from csi_s3.errors import SpoolFullError, VolumeError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.write.file_sender import FileSender
from csi_s3.fs.write.pending_write import PendingWrite
from csi_s3.fs.write.remote_object import RemoteObject
from csi_s3.fs.write.staging import StagedFile
from csi_s3.s3.store import ObjectInfo


class WriteAcceptance:
    """A strategy without state.

    Concurrency: the file's lock orders calls. Cancellation: `PendingWrite.accepted` says how many
    bytes are in the file.

    changed: is called when bytes are accepted. may_send: False of a file without a name.
    fail_if_lost: is called with why a part was not sent; it raises that if bytes are lost with it.
    """

    __slots__ = (
        "_changed",
        "_context",
        "_fail_if_lost",
        "_may_send",
        "_remote",
        "_sender",
        "_staged",
    )

    def __init__(
        self,
        context: MountContext,
        remote: RemoteObject,
        staged: StagedFile,
        *,
        changed: Callable[[], None],
        may_send: bool,
        fail_if_lost: Callable[[VolumeError], None],
    ) -> None:
        self._context, self._remote, self._staged = context, remote, staged
        self._sender = FileSender(context, remote, staged)
        self._changed, self._may_send, self._fail_if_lost = changed, may_send, fail_if_lost

    async def write(self, write: PendingWrite) -> None:
        """Accept all, unless a rename is under way."""
        if not write.rest_bytes:
            return
        await self._staged.load_small(is_append=write.offset == self._staged.size)
        if write.offset != self._staged.size:
            await self._staged.fetch.make_map_room()
        size = self._staged.size
        try:
            if write.offset > size:
                await self._staged.grow(write.offset)
            self._changed()
            there = max(0, min(write.rest_bytes, self._staged.size - write.offset))
            await self._staged.fetch.copied(write.offset, write.offset + there)
            self._staged.overwrite(write.offset, write.next(there))
            write.accepted += there
            while write.rest_bytes and await self._accept(write):
                pass
        except asyncio.CancelledError:
            if self._staged.size > size and not write.accepted:
                with suppress(SpoolFullError):
                    self._staged.cut(size)  # nothing is behind the hole
            raise

    async def _accept(self, write: PendingWrite) -> bool:
        """Take what fits into the tail, once there is room; False: a rename is in the way."""
        tail_bytes, limit = len(self._staged.tail), self._sender.part_bytes
        if tail_bytes >= limit:
            return await self._empty_tail(write)
        n = min(write.rest_bytes, limit - tail_bytes)
        if not self._staged.try_reserve(n):
            return await self._accept_without_room(write, n)
        self._append(write, n)
        return True

    def _append(self, write: PendingWrite, n: int) -> None:
        """The memory for them is reserved."""
        self._staged.append(write.next(n))
        write.accepted += n

    async def _accept_without_room(self, write: PendingWrite, n: int) -> bool:
        """As `_accept`, where all memory is in use.

        What can leave by upload does, and waits for memory while any is leaving. Anything else goes
        to the spool at once. Only what the spool does not take waits for others.
        """
        staged, least = self._staged, self._context.store.limits.min_part_bytes
        if self._can_stream() and len(staged.tail) >= least:
            # not a full part yet, but its memory comes back even if all writers wait
            return await self._empty_tail(write)
        if self._remote.upload is not None and self._can_stream():
            with suppress(TimeoutError):
                if await staged.reserve(n, until_stuck=True):
                    self._append(write, n)
                    return True
        full = self._append_to_spool(write.next(n))
        if full is None:
            write.accepted += n
            await self._send_spooled(write)
        else:
            try:
                await staged.reserve(n)
            except TimeoutError:
                raise full from None
            self._append(write, n)
        return True

    def _append_to_spool(self, data: memoryview) -> SpoolFullError | None:
        """Returns why the spool does not take them; a wait must not hold what was raised."""
        try:
            self._staged.append_to_spool(data)
        except SpoolFullError as exc:
            return exc.again()
        return None

    def _can_stream(self) -> bool:
        """Whether the tail can leave as a part, with what is in the spool before it."""
        start = self._part_start()
        return start is not None and self._staged.tail_start - start <= self._sender.part_bytes

    def _part_start(self) -> int | None:
        return self._sender.part_start if self._may_send else None

    async def _empty_tail(self, write: PendingWrite) -> bool:
        """Move the tail to the upload, as its next part, or into the spool.

        Returns False if a rename is under way, after which the upload will be another one.
        """
        if not self._can_stream():
            self._staged.spill()
            await self._send_spooled(write)
            return True
        with self._context.key_lock.change_at_once(lambda: self._remote.key) as is_our_turn:
            if not is_our_turn:
                return False
            with write.sending():
                error = await self._sender.send_tail()
                if error is not None:
                    self._fail_if_lost(error)
        return True

    async def _send_spooled(self, write: PendingWrite) -> None:
        """Let what the spool has leave in parts, if it can and no rename is under way."""
        start = self._part_start()
        if start is None or self._staged.tail_start - start < self._sender.part_bytes:
            return
        with self._context.key_lock.change_at_once(lambda: self._remote.key) as is_our_turn:
            if not is_our_turn:
                return
            with write.sending():
                error = await self._sender.send_spooled(start)
                if error is not None:
                    self._fail_if_lost(error)

    async def copy(
        self, write: PendingWrite, source: ObjectInfo, start: int, length: int
    ) -> tuple[int, VolumeError | None]:
        """Let bytes of another object follow; what is before them leaves first.

        Returns how many follow, and why there are not more, if the store does not copy them.
        """
        size = self._staged.size
        if self._part_start() != size and not await self._empty_tail(write):
            return 0, None
        if self._part_start() != size:
            return 0, None  # it could not be sent
        with self._context.key_lock.change_at_once(lambda: self._remote.key) as is_our_turn:
            if not is_our_turn:
                return 0, None
            return await self._sender.copy(source, start, length)
