"""The store's side of a file that is being changed, as far as this mount knows it.

A change is made to one version of the object (`base`), and replaces that version only. Where the
answer to a request was lost, the store may hold a version that this mount made and does not know.
The next request is refused then, because the version that it expects is not there. So that this is
not taken for a concurrent modification, the object is compared with what was sent: bytes that were
put by their digest, uploads by what the store says of their parts. Nothing is asked of the store
before it has refused a request.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from csi_s3.aio import finish
from csi_s3.errors import (
    ExistsError,
    NotFoundError,
    NotImplementedByStoreError,
    ObjectChangedError,
    StaleError,
    VolumeError,
)
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.key_range_lock import KeyOf
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.base.progress_timeout import FileProgress
from csi_s3.fs.read.reader import Reader
from csi_s3.fs.write.parallel_upload import PART_BYTES, ParallelUpload
from csi_s3.s3.store import Buffer, ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

COMPARED_BYTES = 1 << 20  # at a time
MOST_PUTS, MOST_UPLOADS = 100, 3  # are remembered: 150 bytes each, 11 MB each at most

Digest = tuple[int, bytes]  # size, and hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a change is made to.

    base: the version that is edited; None: the file begins empty.
    rewrites: without a base, the version that was there when the file was truncated.
    is_exclusive: created with O_EXCL: without a base, it is stored only where there is no object.
    is_adopted: base is what an earlier worker knew, and the store may not compare versions.
    """

    base: ObjectInfo | None = None
    rewrites: ObjectInfo | None = None
    is_exclusive: bool = False
    is_adopted: bool = False


class RemoteObject:
    """Lifetime: as its `DirtyFile`; `close` gives memory back.

    Concurrency: the file's lock orders all but `read`, `rebase`, `drop_upload` and `close`.

    key_of: gives the file's key, which a rename changes.
    progress: of the file's bytes.
    upload: what was sent in parts and is not complete. The records of its parts are counted when
        they have arrived.
    """

    __slots__ = (
        "_basis",
        "_context",
        "_counted_parts",
        "_is_closed",
        "_key_of",
        "_puts",
        "_reader",
        "_uploads",
        "base",
        "is_adopted",
        "progress",
        "upload",
    )

    def __init__(self, context: MountContext, key_of: KeyOf, basis: Basis) -> None:
        self.base, self.is_adopted = basis.base, basis.is_adopted
        self.upload: ParallelUpload | None = None
        self.progress = FileProgress(context.clock)
        self._context = context
        self._key_of, self._basis = key_of, basis
        self._reader: Reader | None = None  # of the base
        self._puts: Sequence[Digest] = ()  # of PUTs whose outcome is unknown
        self._uploads: Sequence[ParallelUpload] = ()  # whose completion has an unknown outcome
        self._counted_parts, self._is_closed = 0, False

    @property
    def _store(self) -> ObjectStore:
        return self._context.store

    @property
    def key(self) -> str:
        return self._key_of()

    @property
    def replaces(self) -> ObjectInfo | None:
        """The version in whose place the file may be put, even by another process."""
        return self.base or self._basis.rewrites

    @property
    def like(self) -> ObjectInfo | None:
        """The object whose headers, metadata and tags a new version keeps."""
        is_edit = self._basis.base is not None and not self._basis.is_exclusive
        return self.base if is_edit else None

    async def conditional(self, request: Callable[..., Awaitable[ObjectInfo]]) -> ObjectInfo:
        """Make a request that takes effect only where the store holds what is expected."""
        try:
            if self.base is not None:
                return await request(if_match=self.base.etag)
            if self._basis.is_exclusive:
                return await request(if_none_match=True)
        except NotImplementedByStoreError as exc:
            log.info("%s: written without a condition: %s", self.key, exc)
        return await request()

    def replace(self, info: ObjectInfo) -> None:
        """Take over the version that the store holds now; nothing about it is uncertain."""
        self.base, self.upload, self.is_adopted = info, None, False
        self._forget_requests()

    def rebase(self, info: ObjectInfo) -> None:
        """Take over another key, and maybe ETag, of the base; its bytes are the same."""
        self.base = info

    def replace_by_upload(self, info: ObjectInfo) -> None:
        """Take over the version that the upload has made."""
        self.base, self.upload = info, None
        self._count_parts()

    # the upload

    def _part_arrived(self) -> None:
        self.progress.made()
        self._count_parts()

    def _count_parts(self) -> None:
        """Count the records of all parts that are remembered now."""
        uploads = self._uploads
        if self.upload is not None and self.upload not in uploads:
            uploads = (*uploads, self.upload)
        n = 0 if self._is_closed else sum(upload.n_parts for upload in uploads)
        account = self._context.memory.account(MemoryKind.DIRTY_FILES)
        account.add((n - self._counted_parts) * PART_BYTES)
        self._counted_parts = n

    def begin_upload(self, *, start: int = 0) -> ParallelUpload:
        """The upload; start: where a new one begins with what is sent."""
        if self.upload is None:
            part_bytes = self._context.config.write_part_bytes
            self.upload = ParallelUpload(
                self._context,
                self.key,
                part_bytes=part_bytes,
                like=self.like,
                start=start,
                progress=self._part_arrived,
            )
        return self.upload

    async def drop_upload(self) -> None:
        """Forget what was sent, and have the store forget it."""
        upload, self.upload = self.upload, None
        if upload is None:
            return
        self._count_parts()
        try:
            await finish(upload.abort, within_s=self._context.abort_within_s)
        except TimeoutError:
            log.warning(
                "%s: no answer to the abort of an upload: its parts are kept, and billed, until a"
                " lifecycle rule (AbortIncompleteMultipartUpload) removes them",
                upload.key,
            )

    # requests whose answers were lost

    @property
    def is_uncertain(self) -> bool:
        """The store may hold a version that this mount made and does not know."""
        return bool(self._puts or self._uploads)

    def remember(self, sent: Buffer | None) -> None:
        """Remember that a PUT of these bytes, or else the upload's completion, may take effect.

        The last ones are remembered. What an earlier one makes after all is a conflict.
        """
        if sent is not None:
            digest = len(sent), hashlib.sha256(sent).digest()
            others = [d for d in self._puts if d != digest]
            self._puts = (*others, digest)[-MOST_PUTS:]
        elif self.upload is not None and self.upload not in self._uploads:
            self._uploads = (*self._uploads, self.upload)[-MOST_UPLOADS:]
            self._count_parts()

    def _forget_requests(self) -> None:
        self._puts = self._uploads = ()
        self._count_parts()

    async def settle(self) -> None:
        """Take over what such a request has made, if any; raises if the store does not answer."""
        info = await self.made_of(self._puts) if self._puts else None
        for upload in self._uploads[::-1]:
            info = info or await upload.made()
        if info is not None:
            self.base = info
            self._forget_requests()

    async def is_settled_since(self, base: ObjectInfo | None) -> bool:
        """Whether `settle` or a concurrent read has replaced this base. Raises as `settle`."""
        if self.base is base:
            await self.settle()
        return self.base is not base

    async def made_of(self, digests: Collection[Digest]) -> ObjectInfo | None:
        """The object, if its bytes have one of these digests."""
        try:
            info = await self._store.head(self.key)
            if all(size != info.size for size, _ in digests):
                return None

            async def read(at: int, length: int) -> Buffer:
                return (await self._store.read_range(info.key, at, length, etag=info.etag)).data

            return info if await digest_of(read, info.size) in digests else None
        except (NotFoundError, ObjectChangedError):
            return None

    async def conflict(self) -> VolumeError:
        """The error that says what is there in place of what was expected."""
        if self.base is None:
            return ExistsError(f"{self.key}: created exclusively here, and by another client first")
        try:
            now = (await self._store.head(self.key)).etag
        except VolumeError:
            now = "no object"
        return StaleError(
            f"{self.key}: concurrent modification: expected ETag {self.base.etag}, found {now}",
            "copy what you have to another name, and compare",
        )

    async def read(self, start: int, length: int) -> Buffer:
        """Bytes of the base; StaleError if it was replaced or removed, and not by this mount."""
        base = self.base
        if base is None:
            raise StaleError(f"{self.key}: its stored bytes are gone")
        try:
            pieces = await self._reader_of(base).read(start, length)
        except (NotFoundError, ObjectChangedError, StaleError) as exc:
            if not await self.is_settled_since(base):
                raise StaleError(f"{base.key}: replaced or deleted while it was changed") from exc
            return await self.read(start, length)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(data) != length:
            raise StaleError(f"{base.key}: shorter than what was written")
        return data

    def _reader_of(self, base: ObjectInfo) -> Reader:
        if self._reader is None or self._reader.info is not base:
            self._close_reader()
            self._reader = Reader(self._context, base)
        return self._reader

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        if self.upload is not None:  # at the end of the mount: what was sent of it stays
            self.upload.cancel()
        self._is_closed = True
        self._count_parts()
        self._close_reader()


async def digest_of(read: Callable[[int, int], Awaitable[Buffer]], size: int) -> Digest:
    sha256 = hashlib.sha256()
    for at in range(0, size, COMPARED_BYTES):
        sha256.update(await read(at, min(COMPARED_BYTES, size - at)))
    return size, sha256.digest()
