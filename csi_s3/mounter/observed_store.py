"""An object store whose every outcome is told to a `BucketHealth`; it changes nothing else."""

from collections.abc import Iterable, Mapping, Sequence

from typing_extensions import override

from csi_s3.errors import VolumeError
from csi_s3.mounter.bucket_health import BucketHealth
from csi_s3.s3.store import Buffer, Chunk, ListPage, ObjectInfo, ObjectStore, Part, Upload


class ObservedStore(ObjectStore):
    """Lifetime, concurrency, cancellation: as the store's, which the caller closes."""

    def __init__(self, store: ObjectStore, health: BucketHealth) -> None:
        self._store, self._health = store, health
        self.min_part_bytes = store.min_part_bytes
        self.conditional_writes = store.conditional_writes

    @override
    async def head(self, key: str) -> ObjectInfo:
        with self._health.watching():
            return await self._store.head(key)

    @override
    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        token: str | None = None,
        max_keys: int = 1000,
    ) -> ListPage:
        with self._health.watching(listed=prefix):
            return await self._store.list_page(
                prefix,
                delimiter=delimiter,
                token=token,
                max_keys=max_keys,
            )

    @override
    async def read_range(
        self, key: str, start: int, length: int, *, etag: str | None = None
    ) -> Chunk:
        with self._health.watching():
            return await self._store.read_range(key, start, length, etag=etag)

    @override
    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
        like: ObjectInfo | None = None,
    ) -> ObjectInfo:
        with self._health.watching():
            return await self._store.put(
                key,
                data,
                if_none_match=if_none_match,
                if_match=if_match,
                metadata=metadata,
                like=like,
            )

    @override
    async def copy(
        self, source: ObjectInfo, key: str, *, if_none_match: bool = False
    ) -> ObjectInfo:
        with self._health.watching():
            return await self._store.copy(source, key, if_none_match=if_none_match)

    @override
    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        with self._health.watching():
            await self._store.delete(key, if_match=if_match)

    @override
    async def delete_many(self, objects: Iterable[tuple[str, str]]) -> Mapping[str, VolumeError]:
        with self._health.watching():
            return await self._store.delete_many(objects)

    @override
    async def create_upload(self, key: str, *, like: ObjectInfo | None = None) -> Upload:
        with self._health.watching():
            upload = await self._store.create_upload(key, like=like)
        return _ObservedUpload(upload, self._health)

    @override
    async def close(self) -> None:
        await self._store.close()


class _ObservedUpload(Upload):
    def __init__(self, upload: Upload, health: BucketHealth) -> None:
        self._upload, self._health = upload, health

    @override
    async def part(self, number: int, data: Buffer) -> Part:
        with self._health.watching():
            return await self._upload.part(number, data)

    @override
    async def part_from(self, number: int, source: ObjectInfo, start: int, length: int) -> Part:
        with self._health.watching():
            return await self._upload.part_from(number, source, start, length)

    @override
    async def complete(
        self, parts: Sequence[Part], *, if_none_match: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        with self._health.watching():
            return await self._upload.complete(
                parts, if_none_match=if_none_match, if_match=if_match
            )

    @override
    async def made(self, parts: Sequence[Part]) -> ObjectInfo | None:
        with self._health.watching():
            return await self._upload.made(parts)

    @override
    async def abort(self) -> None:
        await self._upload.abort()  # it never fails, whatever the store said
