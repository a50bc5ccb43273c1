"""An object store in memory that implements all of `s3.store`, for tests of its callers.

It passes the same contract suite as the real servers. It counts requests as S3 bills them, and
`gate` lets a test fail, delay or cancel any of them.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from typing_extensions import override

from csi_s3.errors import (
    ArchivedError,
    NotFoundError,
    ObjectChangedError,
    PreconditionFailedError,
    StoreRefusedError,
)
from csi_s3.s3.store import (
    MAX_KEY_BYTES,
    Buffer,
    Chunk,
    Limits,
    ListPage,
    ObjectInfo,
    ObjectStore,
    Part,
    Undeleted,
    Upload,
)

Gate = Callable[[str, str], Awaitable[None]]
_AFTER_NOTHING = "\0empty page\0"  # begins the token that an empty page names


@dataclass(slots=True)
class StoredObject:
    info: ObjectInfo
    data: bytes
    metadata: dict[str, str] = field(default_factory=dict)


async def _open(_operation: str, _key: str) -> None:
    """The gate that does nothing."""


class MemoryStore(ObjectStore):
    """One bucket. Every call takes effect at one moment, after `gate`.

    requests: the number of calls of each kind, by their S3 names.
    gate: awaited before a call takes effect; it may raise one of `errors`.
    limits: S3's, or less in tests that want many parts of few bytes.
    is_sparse: each page of a listing follows an empty one, as S3's do after many delete markers.
    after: awaited between a call's effect and its answer; a failure there is a lost answer.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = lambda: 1_000_000.0,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.conditional_writes: bool | None = True
        self.is_sparse = False
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, MemoryUpload] = {}
        self.requests: Counter[str] = Counter()
        self.gate: Gate = _open
        self.after: Gate = _open
        self._clock = clock
        self._numbers = itertools.count(1)

    # Changes by another client, made by tests: no gate, no request counted.

    def put_now(
        self,
        key: str,
        data: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        *,
        archived: bool = False,
        etag: str | None = None,
    ) -> ObjectInfo:
        """Store an object; each has an ETag of its own, also for the same bytes."""
        unique = f"{next(self._numbers)}:".encode()
        info = ObjectInfo(
            key=key,
            size=len(data),
            etag=etag or f'"{hashlib.md5(unique + data, usedforsecurity=False).hexdigest()}"',
            last_modified=float(int(self._clock())),
            storage_class="GLACIER" if archived else "",
            archived=archived,
        )
        self.objects[key] = StoredObject(info, bytes(data), dict(metadata or {}))
        return info

    def delete_now(self, key: str) -> None:
        self.objects.pop(key, None)

    # ObjectStore

    @override
    async def head(self, key: str) -> ObjectInfo:
        async with self.call("HEAD", key):
            return self._find(key).info

    @override
    async def list_page(
        self, prefix: str, *, delimiter: str = "/", token: str | None = None, max_keys: int = 1000
    ) -> ListPage:
        await self._enter("LIST", prefix)
        if self.is_sparse and not (token or "").startswith(_AFTER_NOTHING):
            return ListPage(objects=[], prefixes=[], next_token=_AFTER_NOTHING + (token or ""))
        after = _position((token or "").removeprefix(_AFTER_NOTHING))
        names: dict[str, ObjectInfo | None] = {}  # None: a prefix
        for key in sorted((k for k in self.objects if k.startswith(prefix)), key=_position):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key if cut < 0 else key[: cut + len(delimiter)]
            if _position(name) > after:
                names[name] = self.objects[key].info if cut < 0 else None
        page = dict(itertools.islice(names.items(), max_keys))
        await self.after("LIST", prefix)
        return ListPage(
            objects=[info for info in page.values() if info is not None],
            prefixes=[name for name, info in page.items() if info is None],
            next_token=max(page, key=_position) if len(names) > len(page) else None,
        )

    @override
    async def read_range(
        self, key: str, start: int, length: int, *, etag: str | None = None
    ) -> Chunk:
        async with self.call("GET", key):
            stored = self._find(key)
            if etag is not None and stored.info.etag != etag:
                raise ObjectChangedError(f"GET {key}: now {stored.info.etag}, asked for {etag}")
            if stored.info.archived:
                raise ArchivedError(f"GET {key}: archived", "restore the object first")
            return Chunk(info=stored.info, data=stored.data[start : start + length])

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
        merged = await self._metadata_like(like, metadata)
        async with self.call("PUT", key):
            self._check(key, if_none_match=if_none_match, if_match=if_match)
            return self.put_now(key, bytes(data), merged)

    @override
    async def copy(
        self, source: ObjectInfo, key: str, *, if_none_match: bool = False
    ) -> ObjectInfo:
        marker = None
        if source.key.endswith("/") and source.size == 0:
            await self._enter("HEAD", source.key)
            marker = self._version(source)
        async with self.call("PUT" if marker else "COPY", key):
            present = marker or self._version(source)
            self._check(key, if_none_match=if_none_match, if_match=None)
            return self.put_now(key, present.data, present.metadata)

    def _version(self, source: ObjectInfo) -> StoredObject:
        present = self._find(source.key)
        if present.info.etag != source.etag:
            raise ObjectChangedError(f"COPY {source.key}: now {present.info.etag}")
        return present

    @override
    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        async with self.call("DELETE", key):
            self._delete(key, if_match or "")

    def _delete(self, key: str, etag: str) -> None:
        present = self.objects.get(key)
        if etag and present is not None and present.info.etag != etag:
            raise ObjectChangedError(f"DELETE {key}: now {present.info.etag}")
        self.objects.pop(key, None)

    @override
    async def delete_many(self, objects: Iterable[tuple[str, str]]) -> Undeleted:
        remain = Undeleted()
        rest = iter(objects)
        while batch := tuple(itertools.islice(rest, 1000)):
            async with self.call("DELETE_MANY", batch[0][0]):
                for key, etag in batch:
                    try:
                        self._delete(key, etag)
                    except ObjectChangedError as exc:
                        remain.add(key, exc)
        return remain

    @override
    async def create_upload(self, key: str, *, like: ObjectInfo | None = None) -> Upload:
        merged = await self._metadata_like(like, None)
        async with self.call("CREATE_UPLOAD", key):
            _check_key(key)
            upload_id = f"upload-{next(self._numbers)}"
            upload = self.uploads[upload_id] = MemoryUpload(self, key, upload_id, merged)
            return upload

    @override
    async def close(self) -> None:
        """Nothing to end."""

    async def _metadata_like(
        self, like: ObjectInfo | None, metadata: Mapping[str, str] | None
    ) -> dict[str, str]:
        """The metadata of a new version: the old one's, with the new ones."""
        if like is None:
            return dict(metadata or {})
        await self._enter("HEAD", like.key)
        present = self.objects.get(like.key)
        return {**(present.metadata if present else {}), **(metadata or {})}

    @asynccontextmanager
    async def call(self, operation: str, key: str) -> AsyncIterator[None]:
        """Around the effect of a call, whose answer is lost if `after` fails."""
        await self._enter(operation, key)
        yield
        await self.after(operation, key)

    async def _enter(self, operation: str, key: str) -> None:
        self.requests[operation] += 1
        await self.gate(operation, key)

    def _find(self, key: str) -> StoredObject:
        present = self.objects.get(key)
        if present is None:
            raise NotFoundError(f"no object {key!r}")
        return present

    def _check(self, key: str, *, if_none_match: bool, if_match: str | None) -> None:
        _check_key(key)
        present = self.objects.get(key)
        if if_none_match and present is not None:
            raise PreconditionFailedError(f"PUT {key}: it exists")
        if if_match is not None and (present is None or present.info.etag != if_match):
            raise PreconditionFailedError(f"PUT {key}: it is not {if_match}")


def _position(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def _check_key(key: str) -> None:
    if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
        raise StoreRefusedError(f"key of {len(key.encode())} bytes", "1 to 1024 bytes of UTF-8")


class MemoryUpload(Upload):
    def __init__(
        self, store: MemoryStore, key: str, upload_id: str, metadata: dict[str, str]
    ) -> None:
        self._store, self._key, self._id, self._metadata = store, key, upload_id, metadata
        self._parts: dict[int, tuple[Part, bytes]] = {}
        self._made: ObjectInfo | None = None

    @override
    async def part(self, number: int, data: Buffer) -> Part:
        async with self._store.call("UPLOAD_PART", self._key):
            return self._keep(number, bytes(data))

    @override
    async def part_from(self, number: int, source: ObjectInfo, start: int, length: int) -> Part:
        async with self._store.call("UPLOAD_PART_COPY", self._key):
            present = self._store.objects.get(source.key)
            if present is None or present.info.etag != source.etag:
                raise ObjectChangedError(f"UPLOAD_PART_COPY from {source.key}: changed or gone")
            return self._keep(number, present.data[start : start + length])

    def _keep(self, number: int, data: bytes) -> Part:
        if self._id not in self._store.uploads:
            raise NotFoundError(f"no upload {self._id}")
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        part = Part(number=number, etag=etag, size=len(data))
        self._parts[number] = (part, data)
        return part

    @override
    async def complete(
        self, parts: Sequence[Part], *, if_none_match: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        async with self._store.call("COMPLETE_UPLOAD", self._key):
            if self._id not in self._store.uploads:
                raise NotFoundError(f"no upload {self._id}")
            numbers = [p.number for p in parts]
            parts_and_data = [self._parts.get(n) for n in numbers]
            if (
                not parts
                or numbers != sorted(set(numbers))
                or any(k is None for k in parts_and_data)
            ):
                raise StoreRefusedError("InvalidPart or InvalidPartOrder")
            if any(p.size < self._store.limits.min_part_bytes for p in parts[:-1]):
                raise StoreRefusedError("EntityTooSmall")
            self._store._check(self._key, if_none_match=if_none_match, if_match=if_match)  # noqa: SLF001
            data = b"".join(k[1] for k in parts_and_data if k is not None)
            del self._store.uploads[self._id]
            self._made = self._store.put_now(self._key, data, self._metadata)
            return self._made

    @override
    async def made(self, parts: Sequence[Part]) -> ObjectInfo | None:
        try:
            info = await self._store.head(self._key)
        except NotFoundError:
            return None
        return info if info == self._made else None

    @override
    async def abort(self) -> None:
        await self._store._enter("ABORT_UPLOAD", self._key)  # noqa: SLF001 - one unit with its store
        self._store.uploads.pop(self._id, None)
