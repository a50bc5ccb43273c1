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
    IntegrityError,
    NotFoundError,
    NotImplementedByStoreError,
    ObjectChangedError,
    PreconditionFailedError,
    StaleError,
    StoreRefusedError,
    VolumeError,
)
from csi_s3.fs.base.budget import MemoryBudget
from csi_s3.fs.write.extents import Extents, Origin, Piece, copy_part_bytes, plan
from csi_s3.fs.write.parallel_upload import ParallelUpload
from csi_s3.fs.write.staging import StagedFile
from csi_s3.fs.write.uncertain_requests import UncertainRequests, digest_of
from csi_s3.s3.store import MAX_PARTS, MAX_PUT_BYTES, Buffer, ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

ABORT_WITHIN_S = 100.0
SPARE_NUMBERS = 500  # of parts, for what may yet change in an edited file's beginning


class FileSender:
    """Lifetime: as its writer. Concurrency: its writer's lock orders all but `drop` and `cancel`.

    upload: what was sent in parts and is not complete.
    failure: bytes were lost with an upload that failed, so the file can never be whole.
    like: whose headers, metadata and tags a new version keeps.
    exclusive: the name was created for us alone: without a base, only where there is no object.
    is_adopted: the base is what an earlier worker knew; how the store compares is not known.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: Callable[[], str],
        *,
        staged: StagedFile,
        part_bytes: int,
        budget: MemoryBudget,
        group: asyncio.TaskGroup,
        progress: Callable[[], None],
        like: ObjectInfo | None,
        exclusive: bool,
    ) -> None:
        self.upload: ParallelUpload | None = None
        self.failure: VolumeError | None = None
        self.like, self.exclusive = like, exclusive
        self.is_adopted = False
        self._uncertain = UncertainRequests(store, key)
        self._store, self._key, self._staged = store, key, staged
        staged.settle = self.settle
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
            return self.upload.tried is None and self.upload.covered == staged.tail_start
        if staged.is_in_memory:
            return True
        return staged.extents.count(Origin.BASE) == staged.tail_start and (
            staged.tail_start >= self._store.min_part_bytes
        )

    async def stream(self) -> None:
        """Let the tail leave as the next part. The base's bytes before it are copied at the end.

        Raises:
            VolumeError: the upload failed, and bytes that were in it are nowhere else.

        """
        upload = self._uploading(start=self._staged.tail_start)
        try:
            await upload.part(self._staged.take_tail())
        except VolumeError as exc:
            await self._give_up(exc)

    def _uploading(self, *, start: int = 0) -> ParallelUpload:
        """The upload; start: where a new one begins with what is sent."""
        if self.upload is None:
            copies = -(-start // copy_part_bytes(start))
            self.upload = ParallelUpload(
                self._store,
                self._key(),
                part_bytes=self._part_bytes,
                budget=self._budget,
                group=self._group,
                progress=self._progress,
                like=self.like,
                start=start,
                reserved=min(copies + SPARE_NUMBERS, MAX_PARTS // 2) if start else 0,
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
            self.failure = _of_upload(exc)
            self._staged.reset()
            raise self.failure from exc
        log.info("%s: its upload failed and begins anew: %s", self._key(), exc)

    async def drop(self) -> None:
        """Forget what was sent; the store forgets it, too."""
        upload, self.upload = self.upload, None
        if upload is None:
            return
        try:
            await finish(upload.abort, within_s=ABORT_WITHIN_S)
        except TimeoutError:
            log.warning(
                "%s: no answer to the abort of an upload: its parts are kept, and billed, until a"
                " lifecycle rule (AbortIncompleteMultipartUpload) removes them",
                self._key(),
            )

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
        for is_first in (True, False):
            base = self._staged.base
            try:
                info = await self._store_now()
            except (ExistsError, StaleError):
                if not is_first or self.failure is not None or not await self._has_settled(base):
                    raise
            except NotFoundError as exc:
                if not is_first:
                    raise _of_upload(exc) from exc
            else:
                break
        self._uncertain.clear()
        self.is_adopted = False
        return info

    @property
    def is_unsure(self) -> bool:
        """A request's answer was lost: the store may have what it does not say."""
        return bool(self._uncertain)

    async def settle(self) -> bool:
        """Go on from what such a request has made, if it has; whether it has.

        Raises:
            VolumeError: the store does not say.

        """
        info = await self._uncertain.settle()
        if info is not None:
            self._staged.base = info
        return info is not None

    async def _has_settled(self, base: ObjectInfo | None) -> bool:
        """Whether this is not the base any more, even if it was until now: a read may settle."""
        return self._staged.base is not base or await self.settle()

    async def _store_now(self) -> ObjectInfo:
        upload = self.upload
        if self.is_adopted and (there := await self._compare()) is not None:
            return there
        if upload is not None and upload.tried is not None:
            info = await self._complete_again(upload)
            self.upload = None
            if upload.is_as_tried(self._staged.size):
                return info
            self._staged.sent(info)
        return await (self._put() if await self._is_small() else self._complete())

    async def _compare(self) -> ObjectInfo | None:
        """What is there, if it is what was to be stored.

        Raises:
            ExistsError, StaleError: it is neither that, nor what it is a change of.

        """
        staged = self._staged
        base = staged.base
        try:
            there = (await self._store.head(self._key())).etag
        except NotFoundError:
            there = ""
        if there == ("" if base is None else base.etag):
            return None
        if there and not staged.extents.has(Origin.BASE):
            info = await self._uncertain.made_of([await digest_of(staged.read, staged.size)])
            if info is not None:
                return info
        raise self._exists() if base is None else self._stale(base, there or "gone")

    async def _is_small(self) -> bool:
        """Whether one PUT will do; an upload that a truncation has emptied is dropped."""
        least = self._store.min_part_bytes
        if self._staged.size > self._part_bytes or (self.upload and self.upload.parts):
            return False
        await self.drop()
        return not any(e.origin is Origin.BASE and e.size >= least for e in self._staged.extents)

    async def _put(self) -> ObjectInfo:
        staged = self._staged
        if staged.is_in_memory:
            return await self._put_bytes(staged.tail)
        data = await staged.read(0, staged.size)
        self._budget.take(len(data))
        try:
            return await self._put_bytes(data)
        finally:
            self._budget.release(len(data))

    async def _put_bytes(self, data: Buffer) -> ObjectInfo:
        put = partial(self._store.put, self._key(), data, like=self.like)
        try:
            return await self._under_condition(put)
        except VolumeError as exc:
            if exc.retryable or isinstance(exc, IntegrityError):
                self._uncertain.put(data)
            raise

    async def _under_condition(self, request: Callable[..., Awaitable[ObjectInfo]]) -> ObjectInfo:
        base = self._staged.base
        try:
            if base is not None:
                return await request(if_match=base.etag)
            if self.exclusive:
                return await request(if_none_match=True)
        except PreconditionFailedError as exc:
            if await self._has_settled(base):
                return await self._under_condition(request)
            raise (self._exists() if base is None else await self._replaced(base)) from exc
        except NotImplementedByStoreError as exc:
            log.info("%s: written without a condition: %s", self._key(), exc)
        return await request()

    def _exists(self) -> ExistsError:
        return ExistsError(
            f"{self._key()}: created exclusively here, but somebody else made it meanwhile"
        )

    async def _replaced(self, base: ObjectInfo) -> StaleError:
        try:
            now = (await self._store.head(self._key())).etag
        except VolumeError:
            now = "gone"
        return self._stale(base, now)

    def _stale(self, base: ObjectInfo, now: str) -> StaleError:
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
            layout = self._staged.layout()
            await self._send(upload, layout, limit=MAX_PARTS - upload.used)
            if upload.start:
                layout.truncate(upload.start)
                with upload.head():
                    await self._send(upload, layout, limit=upload.reserved, is_end=False)
            info = await self._under_condition(upload.complete)
        except ObjectChangedError as exc:
            base = self._staged.base
            stale = exc if base is None else await self._replaced(base)
            await self._give_up(stale)
            raise stale from exc
        except VolumeError as exc:
            if upload.tried is not None:
                self._uncertain.complete(upload)
            if upload.tried is None or isinstance(exc, IntegrityError):
                await self._give_up(exc)  # else all parts are there: it is completed again
            raise
        self.upload = None
        return info

    async def _complete_again(self, upload: ParallelUpload) -> ObjectInfo:
        """Make the object of the parts that it was tried of, unless that was done."""
        try:
            return await self._under_condition(upload.complete)
        except VolumeError as exc:
            refused = isinstance(exc, ExistsError | StaleError | NotFoundError)
            info = await upload.made() if refused else None
            if info is not None:
                return info
            if not exc.keeps_bytes:
                await self._give_up(exc)
            raise

    async def _send(
        self, upload: ParallelUpload, layout: Extents, *, limit: int, is_end: bool = True
    ) -> None:
        """Send or copy what of layout the upload does not cover yet, in so many parts at most."""
        for piece in self._pieces(upload, layout, limit=limit, is_end=is_end):
            if piece.is_copy:
                assert self._staged.base is not None  # noqa: S101 - BASE extents have one
                await upload.copy(self._staged.base, piece.size)
            else:
                data = await self._staged.read(piece.start, piece.size)
                await self._take_room(upload, len(data))
                await upload.part(data)

    def _pieces(
        self, upload: ParallelUpload, layout: Extents, *, limit: int, is_end: bool
    ) -> list[Piece]:
        """The parts to come, larger than usual only where too many of them would be needed."""
        part_bytes = upload.part_bytes
        while part_bytes <= MAX_PUT_BYTES:
            pieces = plan(
                layout,
                upload.covered,
                part_bytes=part_bytes,
                min_part_bytes=self._store.min_part_bytes,
                most=limit,
                is_end=is_end,
            )
            if len(pieces) <= limit:
                return pieces
            part_bytes *= 2
        raise FileTooLargeError(f"{self._key()}: {layout.size} bytes do not fit {MAX_PARTS} parts")

    async def _take_room(self, upload: ParallelUpload, n: int) -> None:
        """Count a part's bytes; beyond the budget by one part at most, or nobody could store."""
        if not self._budget.has_room(n):
            await upload.room()
        self._budget.take(n)


def _of_upload(exc: VolumeError) -> VolumeError:
    """An upload that is not there is not a file that is not there."""
    if not isinstance(exc, NotFoundError):
        return exc
    return StoreRefusedError(
        exc.what,
        "who aborts uploads? a lifecycle rule (AbortIncompleteMultipartUpload) must leave them as"
        " long as files are open",
        public=exc.public,
    )
