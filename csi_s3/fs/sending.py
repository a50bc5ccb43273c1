"""How the bytes of a file being changed reach the store: one PUT, or the parts of one upload.

Up to one part a file is one PUT. Above, what is written in order leaves in parts while it is
written; of anything else only changed ranges are sent, and the store copies the rest.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from csi_s3.aio import finish
from csi_s3.errors import (
    ExistsError,
    FileTooLargeError,
    NotImplementedByStoreError,
    ObjectChangedError,
    PreconditionFailedError,
    StaleError,
    VolumeError,
)
from csi_s3.fs.budget import MemoryBudget
from csi_s3.fs.extents import Extents, Origin, Piece, plan
from csi_s3.fs.staging import Staged
from csi_s3.fs.upload import PartUpload
from csi_s3.s3.store import MAX_PARTS, MAX_PUT_BYTES, ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

ABORT_WITHIN_S = 100.0
COMPARED_BYTES = 1 << 20  # at a time, with what may be our own


class Sending:
    """Lifetime: as its writer. Concurrency: its writer's lock orders all but `drop` and `cancel`.

    upload: what was sent in parts and is not complete.
    failure: bytes were lost with an upload that failed, so the file can never be whole.
    like: whose headers, metadata and tags a new version keeps.
    exclusive: the name was created for us alone: without a base, only where there is no object.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: Callable[[], str],
        *,
        staged: Staged,
        part_bytes: int,
        budget: MemoryBudget,
        group: asyncio.TaskGroup,
        progress: Callable[[], None],
        like: ObjectInfo | None,
        exclusive: bool,
    ) -> None:
        self.upload: PartUpload | None = None
        self.failure: VolumeError | None = None
        self.like, self.exclusive = like, exclusive
        self._is_unsure = False  # a request's answer was lost, and it may have made the object
        self._store, self._key, self._staged = store, key, staged
        self._part_bytes, self._budget = part_bytes, budget
        self._group, self._progress = group, progress

    @property
    def part_bytes(self) -> int:
        """Of the next part."""
        return self._part_bytes if self.upload is None else self.upload.part_bytes

    def can_stream(self) -> bool:
        """Whether the tail can be the upload's next part."""
        staged = self._staged
        if self.upload is not None:
            return self.upload.covered == staged.tail_start
        if staged.is_in_memory:
            return True
        return staged.extents.count(Origin.BASE) == staged.tail_start and (
            staged.tail_start >= self._store.min_part_bytes
        )

    async def stream(self) -> None:
        """Let the tail leave as the next part.

        Raises:
            VolumeError: the upload failed, and bytes that were in it are nowhere else.

        """
        upload = self._uploading()
        try:
            if upload.covered < self._staged.tail_start:
                await self._send(upload, self._staged.extents)  # all of it is the base's
            await upload.part(self._staged.take_tail())
        except VolumeError as exc:
            await self._give_up(exc)

    def _uploading(self) -> PartUpload:
        if self.upload is None:
            self.upload = PartUpload(
                self._store,
                self._key(),
                part_bytes=self._part_bytes,
                budget=self._budget,
                group=self._group,
                progress=self._progress,
                like=self.like,
            )
        return self.upload

    async def _give_up(self, exc: VolumeError) -> None:
        """The upload failed. What the spool has is sent anew at the next store.

        Raises:
            VolumeError: bytes are here no more, so the file can never be whole.

        """
        upload, self.upload = self.upload, None
        if upload is not None:
            await upload.abort()
        if self._staged.extents.has(Origin.SENT):
            self.failure = exc
            self._staged.reset()
            raise exc
        log.info("%s: its upload failed and begins anew: %s", self._key(), exc)

    async def drop(self) -> None:
        """Forget what was sent; the store forgets it, too."""
        upload, self.upload = self.upload, None
        if upload is not None:
            await finish(upload.abort, within_s=ABORT_WITHIN_S)

    def cancel(self) -> None:
        """Stop sending; plain code, at the end of the mount."""
        if self.upload is not None:
            self.upload.cancel()

    # the whole file

    async def store(self) -> ObjectInfo:
        """Make the object, where the store still holds what we began with.

        Raises:
            ExistsError: created exclusively, and somebody else made the object meanwhile.
            StaleError: the object that is changed was replaced or removed by somebody else.
            VolumeError: what the store answered; it may be tried again unless `failure` is set.

        """
        info = await (self._put() if await self._is_small() else self._complete())
        self._is_unsure = False
        return info

    async def _is_small(self) -> bool:
        """Whether one PUT will do; an upload that a truncation has emptied is dropped."""
        if self._staged.size > self._part_bytes:
            return False
        if self.upload is not None and self.upload.parts:
            return False
        await self.drop()
        return True

    async def _put(self) -> ObjectInfo:
        staged = self._staged
        put, key = self._store.put, self._key()
        if staged.is_in_memory:
            return await self._under_condition(partial(put, key, staged.tail, like=self.like))
        data = await staged.read(0, staged.size)
        self._budget.take(len(data))
        try:
            return await self._under_condition(partial(put, key, data, like=self.like))
        finally:
            self._budget.release(len(data))

    async def _under_condition(self, request: Callable[..., Awaitable[ObjectInfo]]) -> ObjectInfo:
        base = self._staged.base
        try:
            if base is not None:
                return await request(if_match=base.etag)
            if self.exclusive:
                return await request(if_none_match=True)
        except PreconditionFailedError as exc:
            ours = await self._made_before() if self._is_unsure else None
            if ours is not None:
                return ours
            if base is None:
                raise ExistsError(
                    f"{self._key()}: created exclusively here, but somebody else made it meanwhile"
                ) from exc
            raise await self._replaced(base) from exc
        except NotImplementedByStoreError as exc:
            log.info("%s: written without a condition: %s", self._key(), exc)
        except VolumeError as exc:
            self._is_unsure = self._is_unsure or exc.retryable
            raise
        return await request()

    async def _made_before(self) -> ObjectInfo | None:
        """The object, if an earlier try whose answer was lost had made it: it has our bytes.

        Not where some of ours are those of the version that was changed, which is gone then.
        """
        staged = self._staged
        if staged.extents.has(Origin.BASE) or staged.extents.has(Origin.SENT):
            return None
        try:
            info = await self._store.head(self._key())
            if info.size != staged.size:
                return None
            for at in range(0, info.size, COMPARED_BYTES):
                chunk = await self._store.read_range(info.key, at, COMPARED_BYTES, etag=info.etag)
                if chunk.data != await staged.read(at, COMPARED_BYTES):
                    return None
        except VolumeError:
            return None
        return info

    async def _replaced(self, base: ObjectInfo) -> StaleError:
        try:
            now = (await self._store.head(self._key())).etag
        except VolumeError:
            now = "gone"
        return StaleError(
            f"{self._key()}: somebody else replaced {base.etag}, which was changed here; now {now}",
            "copy what you have to another name, and compare",
        )

    async def _complete(self) -> ObjectInfo:
        upload = self._uploading()
        try:
            for sent in [p for p in upload.parts if p.is_stale]:
                data = await self._staged.read(sent.start, sent.end - sent.start)
                await self._take_room(upload, len(data))
                await upload.replace(sent, data)
            if upload.covered == self._staged.tail_start and self._staged.tail:
                await upload.part(self._staged.take_tail())  # no second copy of it in memory
            await self._send(upload, self._staged.layout())
            info = await self._under_condition(upload.complete)
        except ObjectChangedError as exc:
            await self.drop()
            base = self._staged.base
            raise (exc if base is None else await self._replaced(base)) from exc
        except VolumeError as exc:
            await self._give_up(exc)
            raise
        self.upload = None
        return info

    async def _send(self, upload: PartUpload, layout: Extents) -> None:
        """Send or copy what of layout the upload does not cover yet."""
        for piece in self._pieces(upload, layout):
            if piece.is_copy:
                assert self._staged.base is not None  # noqa: S101 - BASE extents have one
                await upload.copy(self._staged.base, piece.size)
            else:
                data = await self._staged.read(piece.start, piece.size)
                await self._take_room(upload, len(data))
                await upload.part(data)

    def _pieces(self, upload: PartUpload, layout: Extents) -> list[Piece]:
        """The parts to come, larger than usual only where too many of them would be needed."""
        part_bytes = upload.part_bytes
        while part_bytes <= MAX_PUT_BYTES:
            pieces = plan(
                layout,
                upload.covered,
                part_bytes=part_bytes,
                min_part_bytes=self._store.min_part_bytes,
            )
            if len(pieces) <= MAX_PARTS - upload.used:
                return pieces
            part_bytes *= 2
        raise FileTooLargeError(f"{self._key()}: {layout.size} bytes do not fit {MAX_PARTS} parts")

    async def _take_room(self, upload: PartUpload, n: int) -> None:
        """Count a part's bytes; beyond the budget by one part at most, or nobody could store."""
        if not self._budget.has_room(n):
            await upload.room()
        self._budget.take(n)
