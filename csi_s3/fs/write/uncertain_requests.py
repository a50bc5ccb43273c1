"""Requests whose answers were lost: what they may have made is ours.

The next try is refused then, because the version that it expects is there no more. That must not
be taken for somebody else's change, so the object is compared with what was tried: bytes that were
put by their digest, uploads by what the store says of their parts. Nothing is asked of the store
before it has refused a try.
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection

from csi_s3.errors import NotFoundError, ObjectChangedError
from csi_s3.fs.write.parallel_upload import ParallelUpload
from csi_s3.s3.store import Buffer, ObjectInfo, ObjectStore

COMPARED_BYTES = 1 << 20  # at a time

Digest = tuple[int, bytes]  # size, and hash


class UncertainRequests:
    """Lifetime: as its writer's; cleared by a store that succeeds. Concurrency: as `FileSender`."""

    def __init__(self, store: ObjectStore, key: Callable[[], str]) -> None:
        self._store, self._key = store, key
        self._puts: set[Digest] = set()
        self._uploads: list[ParallelUpload] = []

    def __bool__(self) -> bool:
        return bool(self._puts or self._uploads)

    def put(self, data: Buffer) -> None:
        """A PUT of these bytes."""
        self._puts.add((len(data), hashlib.sha256(data).digest()))

    def complete(self, upload: ParallelUpload) -> None:
        """The completion of this upload."""
        self._uploads.append(upload)

    def clear(self) -> None:
        self._puts.clear()
        self._uploads.clear()

    async def settle(self) -> ObjectInfo | None:
        """The object that is there, if one of them has made it.

        Raises:
            VolumeError: the store does not say.

        """
        info = await self.made_of(self._puts) if self._puts else None
        for upload in reversed(self._uploads):
            info = info or await upload.made()
        if info is not None:
            self.clear()
        return info

    async def made_of(self, digests: Collection[Digest]) -> ObjectInfo | None:
        """The object, if its bytes have one of these digests."""
        try:
            info = await self._store.head(self._key())
            if all(size != info.size for size, _ in digests):
                return None

            async def read(at: int, length: int) -> Buffer:
                return (await self._store.read_range(info.key, at, length, etag=info.etag)).data

            return info if await digest_of(read, info.size) in digests else None
        except (NotFoundError, ObjectChangedError):
            return None


async def digest_of(read: Callable[[int, int], Awaitable[Buffer]], size: int) -> Digest:
    """Of bytes that are read piece by piece."""
    found = hashlib.sha256()
    for at in range(0, size, COMPARED_BYTES):
        found.update(await read(at, min(COMPARED_BYTES, size - at)))
    return size, found.digest()
