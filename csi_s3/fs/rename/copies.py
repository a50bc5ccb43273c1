"""Copies inside the store, of any size and any number, for renames."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing

from csi_s3.errors import (
    AccessDeniedError,
    NotFoundError,
    ObjectChangedError,
    StoreRefusedError,
    StoreUnavailableError,
    VolumeError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.keys import check_key
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.listings.pages import Pages
from csi_s3.fs.rename.tree_copy import TreeCopy
from csi_s3.fs.write.extents import Extents, Origin
from csi_s3.fs.write.parallel_upload import PART_BYTES, ParallelUpload
from csi_s3.fs.write.upload_plan import plan
from csi_s3.s3.store import ObjectInfo

log = logging.getLogger(__name__)

PARALLEL_COPIES = 64
PARALLEL_BY_PARTS = 4  # copies of large objects, of 16 parts at a time each
CHANGES_FOLLOWED = 5  # concurrent changes of one object while it is copied


class Copies:
    """Concurrency: any number; one tree's copies go PARALLEL_COPIES at a time.

    Cancellation: a cancelled copy may or may not have been made.
    """

    def __init__(self, context: MountContext) -> None:
        self._context, self._store = context, context.store
        self._progress = context.progress_timeout.made_progress
        self._by_parts_slots = asyncio.Semaphore(PARALLEL_BY_PARTS)
        self._renames = context.memory.account(MemoryKind.RENAMES)

    async def one(self, source: ObjectInfo, key: str, *, if_none_match: bool = False) -> ObjectInfo:
        """Copy that version, by parts where it is too large for one request.

        Raises:
            NotFoundError, ObjectChangedError: the source is gone, or another version.
            PreconditionFailedError: if_none_match, and the key holds an object.

        """
        if source.size <= self._store.limits.max_put_bytes:
            info = await self._store.copy(source, key, if_none_match=if_none_match)
        else:
            async with self._by_parts_slots:
                info = await self._by_parts(source, key, if_none_match=if_none_match)
        self._progress()
        return info

    async def _by_parts(self, source: ObjectInfo, key: str, *, if_none_match: bool) -> ObjectInfo:
        limits = self._store.limits
        part_bytes = limits.max_copy_part_bytes
        upload = ParallelUpload(self._context, key, part_bytes=part_bytes, like=source)
        whole = Extents()
        whole.put(0, source.size, Origin.BASE)
        counted = 0
        try:
            for piece in await plan(whole, 0, part_bytes=part_bytes, limits=limits) or ():
                await upload.copy(upload.body, source, piece.size)
                self._renames.add(PART_BYTES)
                counted += PART_BYTES
            return await upload.complete(if_none_match=if_none_match)
        except BaseException:
            await upload.abort()
            raise
        finally:
            self._renames.add(-counted)

    async def tree(
        self,
        old: str,
        new: str,
        into: TreeCopy,
        *,
        pages: AsyncGenerator[Sequence[ObjectInfo], None] | None = None,
    ) -> None:
        """Copy every key under old, or those in `names.pages`, to the same place under new.

        Raises:
            VolumeError: the first refusal; no copy is under way then.

        """
        slots = asyncio.Semaphore(PARALLEL_COPIES)
        failed: list[VolumeError] = []

        async def one(source: ObjectInfo, expected: int) -> None:
            key = new + source.key[len(old) :]
            try:
                if not failed:
                    await self._newest(source, key, into)
            except VolumeError as exc:
                failed.append(exc)
                if exc.retryable:
                    into.uncertain.append(key)
            finally:
                into.release(expected)
                slots.release()

        pages = pages or self.pages(old)
        async with asyncio.TaskGroup() as copying, aclosing(pages):
            try:
                async for objects in pages:
                    _check_keys(objects, old, new)
                    for source in objects:
                        expected = into.expect(source)
                        await slots.acquire()
                        copying.create_task(one(source, expected))
                    if failed:
                        break
            except VolumeError as exc:
                failed.append(exc)
        if failed:
            raise failed[0]

    async def _newest(self, source: ObjectInfo, key: str, into: TreeCopy) -> None:
        """Copy what the source's key holds now; it may have changed since the listing."""
        for _ in range(CHANGES_FOLLOWED):
            try:
                made = await self.one(source, key)
            except ObjectChangedError:
                try:
                    source = await self._store.head(source.key)
                except NotFoundError:
                    return
            except NotFoundError:
                return  # removed by another client
            else:
                into.add(source, made)
                return
        raise ObjectChangedError(f"{source.key}: changes too often to be copied")

    async def delete(self, objects: Iterable[tuple[str, str]]) -> bool:
        """Delete those versions of keys, as `ObjectStore.delete_many`.

        Returns whether some stay, because they were modified concurrently.

        Raises:
            VolumeError: keys remain for another reason.

        """
        asked = 0

        def counted() -> Iterator[tuple[str, str]]:
            nonlocal asked
            for item in objects:  # taken as each batch begins
                asked += 1
                self._progress()
                yield item

        remain = await self._store.delete_many(counted())
        changed = remain.counts.get(ObjectChangedError, 0)
        if refused := [kind for kind in remain.first if kind is not ObjectChangedError]:
            key, why = remain.first[refused[0]]
            kinds = (AccessDeniedError, StoreUnavailableError)
            kind = next((k for k in kinds if isinstance(why, k)), StoreRefusedError)
            raise kind(
                f"{len(remain) - changed} of {asked} objects could not be deleted, the first {key}:"
                f" {why.what}",
                f"they have both names now; {why.hint}",
            )
        if changed:
            log.info(
                "%d objects stay: they were modified concurrently, the first is %s",
                changed,
                remain.first[ObjectChangedError][0],
            )
        return changed > 0

    async def unchanged(self, objects: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of these keys that hold an object with their ETag. Asks S3 for each.

        Raises:
            VolumeError: what the store answered.

        """
        found: list[tuple[str, str]] = []
        failed: list[VolumeError] = []

        async def one(key: str, etag: str) -> None:
            try:
                now = (await self._store.head(key)).etag
            except NotFoundError:
                return
            except VolumeError as exc:
                failed.append(exc)
            else:
                if etag == now:
                    found.append((key, etag))
            finally:
                slots.release()

        slots = asyncio.Semaphore(PARALLEL_COPIES)
        async with asyncio.TaskGroup() as asking:
            for key, etag in objects:
                await slots.acquire()
                if failed:
                    break
                asking.create_task(one(key, etag))
        if failed:
            raise failed[0]
        return found

    async def pages(self, prefix: str) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """Every object under prefix, a page of LIST at a time. An empty page is no progress."""
        pages = Pages(self._store, prefix, delimiter="")
        while not pages.is_over:
            page = await pages.following()
            if page.objects:
                self._progress()
                yield page.objects


def _check_keys(objects: Sequence[ObjectInfo], old: str, new: str) -> None:
    for o in objects:
        check_key(new + o.key[len(old) :])
