"""How the bytes of a file being changed reach the store: one PUT, or the parts of one upload.

Up to one part a file is one PUT. Above, what is written in order leaves in parts while it is
written; of anything else only changed ranges are sent, and the store copies the rest.
"""

import asyncio
import logging
from dataclasses import replace
from functools import partial

from csi_s3.errors import (
    FileTooLargeError,
    NotFoundError,
    PreconditionFailedError,
    StaleError,
    StoreRefusedError,
    VolumeError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.write.extents import Origin
from csi_s3.fs.write.parallel_upload import ParallelUpload, PartRun
from csi_s3.fs.write.remote_object import RemoteObject, digest_of
from csi_s3.fs.write.staging import StagedFile
from csi_s3.fs.write.store_steps import STEPS, Answer, Outcome, Step, StoreRequest, answer_of
from csi_s3.fs.write.upload_plan import plan
from csi_s3.s3.store import ObjectInfo

log = logging.getLogger(__name__)


class FileSender:
    """A strategy without state: it sends what `staged` has, and returns what became of it.

    Concurrency: the file's lock orders calls. Cancellation: the outcome is unknown.
    """

    __slots__ = ("_budget", "_part_bytes", "_remote", "_staged", "_store")

    def __init__(self, context: MountContext, remote: RemoteObject, staged: StagedFile) -> None:
        self._store, self._budget = context.store, context.memory.buffers
        self._part_bytes = context.config.write_part_bytes
        self._remote, self._staged = remote, staged

    # what can be sent in order

    @property
    def part_bytes(self) -> int:
        """How long the tail may become before it leaves."""
        upload = self._remote.upload
        return self._part_bytes if upload is None else upload.part_bytes(upload.body)

    @property
    def part_start(self) -> int | None:
        """Where the next part can begin: the spool has all from there to the tail, if not the tail.

        None: the file cannot be sent in order. Parts are sent when it is stored.
        """
        staged, upload = self._staged, self._remote.upload
        start, end = 0, staged.tail_start
        if upload is not None:
            start = upload.body.covered
            if upload.tried is not None or start > end:
                return None
        elif end > 0:
            base = staged.extents.next_of(Origin.BASE, 0)
            if base is not None and base.start == 0:
                start = base.end
                if start < self._store.limits.min_part_bytes:
                    return None
        is_whole = start == end or staged.extents.next_of(Origin.SPOOL, start) == (
            start,
            end,
            Origin.SPOOL,
        )
        return start if is_whole else None

    def missing_for_copy(self) -> int | None:
        """How many bytes must follow before a copy may: what is before it must be a part.

        None: no copy can follow.
        """
        staged, start, size = self._staged, self.part_start, self._staged.size
        if start is None or staged.tail_start - start > self.part_bytes:
            return None
        if staged.mapped.copies.is_full:
            return None
        return 0 if start == size else max(0, self._store.limits.min_part_bytes - (size - start))

    # requests

    async def send_tail(self) -> VolumeError | None:
        """Let the tail leave as the next part, with what the spool has before it: `part_start`.

        The base's bytes before that are copied at the end.
        """
        staged, start = self._staged, self.part_start
        if start is None:
            start = staged.tail_start
        upload = self._remote.begin_upload(start=start)
        try:
            if start == staged.tail_start:
                await upload.part(upload.body, staged.take_tail())
            else:
                front = await self._read_to_send(start, staged.tail_start - start)
                await upload.part(upload.body, front + staged.take_tail())
        except VolumeError as exc:
            await self._give_up_upload(exc)
            return _of_upload(exc)
        return None

    async def send_spooled(self, start: int) -> VolumeError | None:
        """Send whole parts of what the spool has from there to the tail."""
        upload = self._remote.begin_upload(start=start)
        run = upload.body
        try:
            while self._staged.tail_start - run.covered >= (n := upload.part_bytes(run)):
                await upload.part(run, await self._read_to_send(run.covered, n))
        except VolumeError as exc:
            await self._give_up_upload(exc)
            return _of_upload(exc)
        return None

    async def copy(
        self, source: ObjectInfo, start: int, length: int
    ) -> tuple[int, VolumeError | None]:
        """Let bytes of another object follow, copied inside S3; all that is before them is sent.

        Returns how many there are, and why there are not more.
        """
        upload = self._remote.begin_upload(start=self._staged.size)
        copied, error = await upload.copy_range(source, start, length)
        if copied:
            self._staged.mapped.add_copied(source, start, copied)
        elif not upload.parts:
            await self._remote.drop_upload()
        return copied, error

    async def _read_to_send(self, start: int, n: int) -> bytes:
        """Bytes that leave at once: they are counted as `leaving`."""
        await self._budget.reserve_to_send(n)
        try:
            return await self._staged.read(start, n)
        except BaseException:
            self._budget.left(n)
            raise

    async def send_file(self) -> ObjectInfo | VolumeError:
        """Make requests, and follow `STEPS`, until the store has the file as it is now."""
        try:
            return await self._adopted() or await self._send_file()
        except VolumeError as exc:
            return exc

    async def _send_file(self) -> ObjectInfo:
        is_resent, request = False, await self._first_request()
        while True:
            base, outcome = self._remote.base, await self._make(request)
            step = STEPS[request, outcome.answer]
            if outcome.info is not None:
                if step is Step.DONE:
                    return outcome.info
                self._remote.replace_by_upload(outcome.info)
                self._staged.mapped.mark_sent_stored()
            elif outcome.error is not None:
                step = Step.FAIL if is_resent and step is Step.RESEND_ONCE else step
                await self._after_failure(step, outcome, outcome.error, base)
                is_resent = is_resent or step is Step.RESEND_ONCE
            is_sent = step is Step.COMPLETE
            request = StoreRequest.COMPLETE if is_sent else await self._first_request()

    async def _first_request(self) -> StoreRequest:
        """What is to be sent next, if all is well."""
        staged, upload = self._staged, self._remote.upload
        if upload is not None and upload.tried is not None:
            return StoreRequest.COMPLETE
        if staged.size <= self._part_bytes and not (upload and upload.parts):
            await self._remote.drop_upload()  # a truncation has emptied it
            least = self._store.limits.min_part_bytes
            if not staged.extents.large(Origin.BASE, 0, least_bytes=least):
                return StoreRequest.PUT
        return StoreRequest.PARTS

    async def _after_failure(
        self, step: Step, outcome: Outcome, cause: VolumeError, base: ObjectInfo | None
    ) -> None:
        """Returns if another request is to be made, else raises. base: what was expected."""
        remote, error = self._remote, _of_upload(cause)
        if step is Step.SETTLE and await remote.is_settled_since(base):
            return
        if step in (Step.SETTLE, Step.RESEND_IF_SETTLED) and not isinstance(error, StaleError):
            error = await remote.conflict()
        if step in (Step.REMEMBER, Step.REMEMBER_AND_FAIL):
            remote.remember(outcome.sent)
        if step is not Step.REMEMBER:
            await self._give_up_upload(error)
        if not self._staged.mapped.has_lost_bytes:
            if step is Step.RESEND_ONCE:
                return
            if step is Step.RESEND_IF_SETTLED and await remote.is_settled_since(base):
                return
        raise error from (None if error is cause else cause)

    async def _give_up_upload(self, error: VolumeError) -> None:
        if self._remote.upload is not None:
            log.info("%s: an upload failed, and is given up: %s", self._remote.key, error)
        await self._remote.drop_upload()

    async def _make(self, request: StoreRequest) -> Outcome:
        """Make a request; its failure is an outcome."""
        if request is StoreRequest.PUT:
            return await self._put()
        upload = self._remote.begin_upload()
        try:
            if request is StoreRequest.COMPLETE:
                return await self._complete(upload)
            await self._send_parts(upload)
        except VolumeError as exc:
            return Outcome(answer_of(request, exc), error=exc)
        return Outcome(Answer.STORED)

    async def _put(self) -> Outcome:
        remote, staged, data = self._remote, self._staged, None
        n, is_in_memory = staged.size, staged.is_in_memory
        if is_in_memory:
            self._budget.leave(n)
        else:
            await self._budget.reserve_to_send(n)
        try:
            data = staged.tail if is_in_memory else await staged.read(0, n)
            put = partial(self._store.put, remote.key, data, like=remote.like)
            return Outcome(Answer.STORED, info=await remote.conditional(put))
        except VolumeError as exc:
            return Outcome(answer_of(StoreRequest.PUT, exc), error=exc, sent=data)
        finally:
            if is_in_memory:
                self._budget.stay(n)
            else:
                self._budget.left(n)

    async def _complete(self, upload: ParallelUpload) -> Outcome:
        """Make the object of the parts, unless a request whose answer was lost has made it."""
        try:
            info = await self._remote.conditional(upload.complete)
        except (PreconditionFailedError, NotFoundError):
            made = await upload.made()
            if made is None:
                raise
            info = made
        is_whole = upload.is_whole(self._staged.size)
        return Outcome(Answer.STORED if is_whole else Answer.STORED_EARLIER, info=info)

    async def _send_parts(self, upload: ParallelUpload) -> None:
        """Send or copy what the upload does not have yet, and wait until all has arrived."""
        staged = self._staged
        for stale in [p for p in upload.parts if p.is_stale]:
            for sent in upload.split(stale):
                data = await self._read_to_send(sent.start, sent.end - sent.start)
                await upload.replace(sent, data)
        if upload.body.covered == staged.tail_start and staged.tail:
            await upload.part(upload.body, staged.take_tail())  # no second copy of it in memory
        await self._fill(upload, upload.body, staged.size)
        if upload.has_gap:
            await self._fill(upload, upload.head, upload.body.start)
        await upload.arrived()

    async def _fill(self, upload: ParallelUpload, run: PartRun, end: int) -> None:
        """Send or copy the rest of a run of parts: larger ones where they would be too many."""
        layout = self._staged.layout()
        layout.truncate(end)
        part_bytes, limits = upload.part_bytes(run), self._store.limits
        left, is_end = replace(limits, max_parts=run.max_number - run.last), run is upload.body
        while True:
            pieces = await plan(
                layout, run.covered, part_bytes=part_bytes, limits=left, is_end=is_end
            )
            if pieces is not None:
                break
            await asyncio.sleep(0)
            part_bytes *= 2
            if part_bytes > limits.max_put_bytes:
                raise FileTooLargeError(
                    f"{upload.key}: {end} bytes do not fit {limits.max_parts} parts"
                )
        for piece in pieces:
            if piece.is_copy:
                assert self._remote.base is not None  # noqa: S101 - BASE extents have one
                await upload.copy(run, self._remote.base, piece.size)
            else:
                data = await self._read_to_send(piece.start, piece.size)
                await upload.part(run, data)

    async def _adopted(self) -> ObjectInfo | None:
        """Of a file that an earlier worker kept: what is there, if it is what was to be stored.

        None: it is what the file is a change of. Anything else is a conflict.
        """
        remote, staged = self._remote, self._staged
        if not remote.is_adopted:
            return None
        try:
            etag = (await self._store.head(remote.key)).etag
        except NotFoundError:
            etag = ""
        if etag == ("" if remote.base is None else remote.base.etag):
            return None
        if etag and not staged.extents.has(Origin.BASE):
            info = await remote.made_of([await digest_of(staged.read, staged.size)])
            if info is not None:
                return info
        raise await remote.conflict()


def _of_upload(error: VolumeError) -> VolumeError:
    """An upload that is not there is not a file that is not there."""
    if not isinstance(error, NotFoundError):
        return error
    return StoreRefusedError(
        error.what,
        "check who aborts uploads: a lifecycle rule (AbortIncompleteMultipartUpload) must leave"
        " them as long as files are open",
        public=error.public,
    )
