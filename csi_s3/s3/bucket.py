"""The real object store: one S3 bucket, asked in signed requests (`http`).

Least privilege: ListBucket, and Get/Put/DeleteObject; HeadBucket and GetBucketLocation are never
sent. An aiobotocore client was rejected for all of this: five times the CPU, 29 MB more memory.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from typing_extensions import override

from csi_s3 import __version__
from csi_s3.aio import finish
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import (
    AccessDeniedError,
    IntegrityError,
    NotFoundError,
    NotImplementedByStoreError,
    PreconditionFailedError,
    VolumeError,
)
from csi_s3.s3 import checksums, get_object, list_objects, xml
from csi_s3.s3.copy_object import Copier
from csi_s3.s3.credentials.chain import ca_bundle, chain_for, session_for
from csi_s3.s3.credentials.refresh import CredentialClock, RefreshableCredentials
from csi_s3.s3.delete_objects import Deletion
from csi_s3.s3.empty_prefixes import EmptyPrefixes
from csi_s3.s3.endpoint import moved, region_for, resolve
from csi_s3.s3.faults import Fault
from csi_s3.s3.http import Http, RequestRecord
from csi_s3.s3.multipart_upload import MultipartUpload
from csi_s3.s3.preserved_headers import PreservedHeaders
from csi_s3.s3.request_headers import RequestHeaders
from csi_s3.s3.response_headers import conditions, describe, stored, version_of
from csi_s3.s3.signing import Request
from csi_s3.s3.store import (
    MIN_PART_BYTES,
    Buffer,
    Chunk,
    ListPage,
    ObjectInfo,
    ObjectStore,
)
from csi_s3.s3.tls import tls_context

log = logging.getLogger(__name__)

Observer = Callable[[RequestRecord], None]


@asynccontextmanager
async def open_bucket(
    config: BucketConfig,
    *,
    observe: Observer | None = None,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    credentials_dir: Path | None = None,
    clock: CredentialClock | None = None,
) -> AsyncIterator["Bucket"]:
    """Find credentials, region and endpoint; nothing is asked of the bucket yet.

    observe: told of every attempt. pause: waits between attempts (tests pass their own).
    credentials_dir: a mounted Secret, see `credentials.static_keys`; its keys win over all others.

    Raises:
        BadOptionError: options or shared files that cannot be.
        CredentialsError: none found, or their source failed.
        UnsupportedError: a kind of bucket that is not built yet.

    """
    session = session_for(config)
    endpoint = resolve(config, session, region_for(config, session))
    identity = None
    if not config.no_sign_request:
        clock = clock or CredentialClock()
        chain = chain_for(config, session, credentials_dir=credentials_dir, clock=clock)
        identity = RefreshableCredentials(chain, bucket=config.bucket, clock=clock)
        await identity.open()
    http = Http(
        bucket=config.bucket,
        endpoint=endpoint,
        identity=identity,
        move=lambda old, region: moved(old, config, session, region),
        tls=tls_context(ca_bundle(config, session), endpoint.url),
        user_agent=f"{config.user_agent_prefix} csi-s3/{__version__}".strip(),
        max_attempts=config.max_attempts,
        observe=observe,
        pause=pause,
    )
    bucket = Bucket(config, http)
    try:
        yield bucket
    finally:
        await finish(bucket.close, within_s=5)


class Bucket(ObjectStore):
    """Lifetime: `open_bucket`'s. Concurrency: any number of calls at once, 64 connections.

    Cancellation: a cancelled write may or may not have taken effect, as with any lost answer.
    """

    min_part_bytes = MIN_PART_BYTES

    def __init__(self, config: BucketConfig, http: Http) -> None:
        self._http, self._headers = http, RequestHeaders(config)
        self.conditional_writes = http.dialect.compares_writes
        self._preserved_headers = PreservedHeaders(http, self._headers)
        self._sums = checksums.algorithm(config.upload_checksums)
        self._copier = Copier(http, self._headers)
        self._deletion = Deletion(self, http, self._headers)
        self._empty_prefixes = EmptyPrefixes(self, http, self._headers)

    @override
    def __repr__(self) -> str:
        return f"<Bucket {self._http!r}>"

    @override
    async def close(self) -> None:
        await self._http.close()

    @override
    async def head(self, key: str) -> ObjectInfo:
        return await get_object.head(self._http, self._headers, key)

    @override
    async def list_page(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        token: str | None = None,
        start_after: str = "",
        max_keys: int = 1000,
    ) -> ListPage:
        restores = {"x-amz-optional-object-attributes": "RestoreStatus"}
        extra = restores if self._http.dialect.reports_restores else {}
        request = Request(
            kind="LIST",
            method="GET",
            query=list_objects.query(
                prefix,
                delimiter=delimiter,
                token=token,
                start_after=start_after,
                max_keys=max_keys,
            ),
            headers={**self._headers.every, **extra},
            answered_with="ListBucketResult",
        )
        root = (await self._http.done(request)).root
        assert root is not None  # noqa: S101 - for the type checker: answered_with
        return await self._empty_prefixes.without(list_objects.page_of(root))

    @override
    async def read_range(
        self, key: str, start: int, length: int, *, etag: str | None = None
    ) -> Chunk:
        return await get_object.read_range(self._http, self._headers, key, start, length, etag=etag)

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
        kept = await self._preserved_headers.kept(like.key) if like else {}
        request = partial(
            self._put, key, data, metadata=metadata, if_none_match=if_none_match, if_match=if_match
        )
        return await self._put_preserved_headers(request, kept)

    async def _put_preserved_headers(
        self, request: Callable[..., Awaitable[ObjectInfo]], kept: dict[str, str]
    ) -> ObjectInfo:
        try:
            return await request(kept=kept)
        except AccessDeniedError as exc:
            if "x-amz-tagging" not in kept:
                raise
            del kept["x-amz-tagging"]  # it may be what was refused: PutObjectTagging
            info = await request(kept=kept)
            self._preserved_headers.leave_tags(exc)
            return info

    async def _put(
        self,
        key: str,
        data: Buffer,
        *,
        kept: Mapping[str, str],
        metadata: Mapping[str, str] | None,
        if_none_match: bool,
        if_match: str | None,
    ) -> ObjectInfo:
        sums = self._sums
        checksum = sums.of(data) if sums else ""
        request = Request(
            kind="PUT",
            method="PUT",
            key=key,
            headers={
                **self._headers.every,
                **self._headers.new_object(key, metadata, kept),
                **conditions(if_none_match=if_none_match, if_match=if_match),
                **({sums.header: checksum} if sums else {}),
            },
            body=data,
            check=stored(f"PUT {key!r}", sums, checksum),
        )
        answer = await self._http.send(request)
        if answer.fault is None:
            self._headers.check_encryption(f"PUT {key!r}", answer.headers)
            etag = version_of(f"PUT {key!r}", answer.headers)
            return ObjectInfo(key=key, size=len(data), etag=etag, last_modified=0.0)
        if sums and self._goes_without_checksums(answer.fault):
            return await self._put(
                key,
                data,
                kept=kept,
                metadata=metadata,
                if_none_match=if_none_match,
                if_match=if_match,
            )
        error = self._http.error(request, answer.fault)
        if isinstance(error, PreconditionFailedError) and answer.maybe_done:
            settled = await self._put_before(request, metadata=metadata, if_match=if_match)
            if settled is not None:
                return settled
        if if_match and isinstance(error, NotFoundError):
            raise PreconditionFailedError(error.what, "the object is gone")
        raise error

    async def _put_before(
        self, put: Request, *, metadata: Mapping[str, str] | None, if_match: str | None
    ) -> ObjectInfo | None:
        """The object, if a PUT of ours whose answer was lost had made it: same bytes, metadata.

        Without a version that it replaced nor metadata of ours, it may be somebody else's.
        """
        if not (if_match or metadata):
            return None
        headers = {**self._headers.every, "x-amz-checksum-mode": "ENABLED"}
        head = Request(kind="HEAD", method="HEAD", key=put.key, headers=headers)
        found = await self._http.send(head)
        if found.fault is not None:
            return None
        info = describe(put.key, found.headers)
        same = all(found.headers.get(f"x-amz-meta-{k}") == v for k, v in (metadata or {}).items())
        md5 = f'"{hashlib.md5(put.body, usedforsecurity=False).hexdigest()}"'  # not so with KMS
        sums = [name for name in put.headers if name.startswith("x-amz-checksum-")]
        ours = info.etag == md5 or any(found.headers.get(n) == put.headers[n] for n in sums)
        return info if same and ours and info.size == len(put.body) else None

    @override
    async def copy(
        self, source: ObjectInfo, key: str, *, if_none_match: bool = False
    ) -> ObjectInfo:
        if not (source.key.endswith("/") and source.size == 0):
            return await self._copier.copy(source, key, if_none_match=if_none_match)
        # A directory's marker: versitygw copies none. One that has bytes is no marker.
        kept = await self._preserved_headers.kept_of(source)
        request = partial(
            self._put, key, b"", metadata=None, if_none_match=if_none_match, if_match=None
        )
        return await self._put_preserved_headers(request, kept)

    @override
    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        request = Request(
            kind="DELETE",
            method="DELETE",
            key=key,
            headers={**self._headers.every, **conditions(if_match=if_match)},
        )
        try:
            await self._http.done(request)
        except NotFoundError:
            return
        except PreconditionFailedError as exc:
            raise get_object.changed(key, if_match) from exc
        except NotImplementedByStoreError:
            if if_match is None:
                raise
            await self.delete(key)  # this store cannot compare

    @override
    async def delete_many(self, objects: Iterable[tuple[str, str]]) -> Mapping[str, VolumeError]:
        return await self._deletion.delete_many(objects)

    @override
    async def create_upload(
        self,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        like: ObjectInfo | None = None,
    ) -> MultipartUpload:
        kept = await self._preserved_headers.kept(like.key) if like else {}
        try:
            return await self._create_upload(key, kept, metadata)
        except AccessDeniedError as exc:
            if "x-amz-tagging" not in kept:
                raise
            del kept["x-amz-tagging"]
            upload = await self._create_upload(key, kept, metadata)
            self._preserved_headers.leave_tags(exc)
            return upload

    async def _create_upload(
        self, key: str, kept: Mapping[str, str], metadata: Mapping[str, str] | None
    ) -> MultipartUpload:
        sums = self._sums
        dialect = self._http.dialect
        named = sums if dialect.names_upload_checksum else None
        request = Request(
            kind="CREATE-UPLOAD",
            method="POST",
            key=key,
            query={"uploads": ""},
            headers={
                **self._headers.every,
                **self._headers.new_object(key, metadata, kept),
                **({"x-amz-checksum-algorithm": named.name} if named else {}),
                **({"x-amz-checksum-type": "FULL_OBJECT"} if named and named.full_object else {}),
            },
            answered_with="UploadId",  # without it a part would be the object
        )
        answer = await self._http.send(request)
        if answer.fault is not None:
            if sums and self._goes_without_checksums(answer.fault):
                return await self._create_upload(key, kept, metadata)
            raise self._http.error(request, answer.fault)
        if self._http.dialect.reports_encryption:
            self._headers.check_encryption(f"upload of {key!r}", answer.headers)
        upload_id = xml.fields(answer.root).get("UploadId", "")
        if not upload_id:  # an abort would delete the object
            raise IntegrityError(f"upload of {key!r}: the answer names no upload")
        upload = MultipartUpload(
            self._http,
            self._headers,
            key=key,
            upload_id=upload_id,
            sums=sums,
            is_named=named is not None,
        )
        if named and not self._http.dialect.names_upload_checksum:  # as this first answer shows
            await upload.abort()
            return await self._create_upload(key, kept, metadata)
        return upload

    def _goes_without_checksums(self, fault: Fault) -> bool:
        """Whether this store refused the checksum that was sent; from then on none is."""
        if not fault.refuses_checksum or self._http.dialect.knows_checksums:
            return False
        if self._sums is not None:  # else another request has met this meanwhile
            log.warning(
                "the store refuses checksums, uploads go without (set `upload-checksums=off`): %s",
                fault.message,
            )
        self._sums = None
        return True
