"""The real object store: one S3 bucket, by signed requests (`http`).

Least privilege: ListBucket, and Get/Put/DeleteObject; HeadBucket and GetBucketLocation are never
sent. An aiobotocore client was rejected: five times the CPU, 29 MB more memory.
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
from csi_s3.config.store_rules import StoreRules
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import IntegrityError, NotFoundError, PreconditionFailedError
from csi_s3.s3 import checksums, copy_object, get_object, list_objects, xml
from csi_s3.s3.checksums import Algorithm
from csi_s3.s3.credentials.chain import ca_bundle, chain_for, session_for
from csi_s3.s3.credentials.refresh import CredentialClock, RefreshableCredentials
from csi_s3.s3.delete_objects import Deletion
from csi_s3.s3.empty_prefixes import EmptyPrefixes
from csi_s3.s3.endpoint import configured_url, moved, region_for, resolve
from csi_s3.s3.endpoint_guard import AddressGuard, check_volume, is_foreign
from csi_s3.s3.http import Http, HttpDeadlines, RequestRecord, Response, Watch
from csi_s3.s3.multipart_upload import MultipartUpload
from csi_s3.s3.preserved_headers import PreservedHeaders
from csi_s3.s3.request_headers import RequestHeaders
from csi_s3.s3.response_headers import conditions, stored, version_of
from csi_s3.s3.signing import Request
from csi_s3.s3.store import Buffer, Chunk, Limits, ListPage, ObjectInfo, ObjectStore, Undeleted
from csi_s3.tls import tls_context

log = logging.getLogger(__name__)

MAX_UPLOAD_ID = 4096  # characters: it is part of URLs

Observer = Callable[[RequestRecord], None]


@asynccontextmanager
async def open_bucket(
    config: BucketConfig,
    *,
    observe: Observer | None = None,
    watch: Watch | None = None,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    credentials_dir: Path | None = None,
    clock: CredentialClock | None = None,
    deadlines: HttpDeadlines | None = None,
    rules: StoreRules | None = None,
) -> AsyncIterator["Bucket"]:
    """Find credentials, region and endpoint; no request is sent to the bucket yet.

    observe: called after every attempt. watch: see `http.Watch`. pause: waits between attempts.
    credentials_dir: a mounted Secret, see `credentials.static_keys`; its keys win over all others.
    rules: what the volume may name as its store; None: anything.

    Raises:
        BadOptionError: invalid options or shared files, or a store that volumes may not name.
        CredentialsError: there are none, or their source failed.
        UnsupportedError: a kind of bucket that is not supported.

    """
    session = session_for(config)
    guard = None
    if rules is not None:
        own_url = configured_url(session, "s3")
        check_volume(config, rules, own_url=own_url)
        if config.endpoint_url and is_foreign(config, own_url):
            guard = AddressGuard(config.endpoint_url, allow_loopback=rules.allow_loopback)
            guard.check_url()
    endpoint = resolve(config, session, region_for(config, session))
    identity = None
    if not config.no_sign_request:
        clock = clock or CredentialClock()
        chain = chain_for(
            config, session, credentials_dir=credentials_dir, clock=clock, pause=pause
        )
        identity = RefreshableCredentials(chain, bucket=config.bucket, clock=clock)
        await identity.open()
    headers = RequestHeaders(config)
    http = Http(
        bucket=config.bucket,
        endpoint=endpoint,
        identity=identity,
        headers=headers.every,
        move=lambda old, region: moved(old, config, session, region),
        tls=tls_context(ca_bundle(config, session), endpoint.url),
        user_agent=f"{config.user_agent_prefix} csi-s3/{__version__}".strip(),
        max_attempts=config.max_attempts,
        observe=observe,
        watch=watch,
        pause=pause,
        deadlines=deadlines,
        guard=guard,
        allow_token_over_http=rules is None or rules.allow_token_over_http,
    )
    bucket = Bucket(config, http, headers)
    try:
        yield bucket
    finally:
        await finish(bucket.close, within_s=5)


class Bucket(ObjectStore):
    """Lifetime: `open_bucket`'s. Concurrency: any number of calls at once, 64 connections.

    Cancellation: a cancelled write may or may not have taken effect, as with any lost answer.
    """

    limits = Limits()

    def __init__(self, config: BucketConfig, http: Http, headers: RequestHeaders) -> None:
        self._http, self._headers = http, headers
        self.conditional_writes = http.dialect.compares_writes
        self._preserved = PreservedHeaders(http)
        self._sums = checksums.ALGORITHMS.get(config.upload_checksums)
        self._deletion = Deletion(http)
        self._empty_prefixes = EmptyPrefixes(http)

    @override
    def __repr__(self) -> str:
        return f"<Bucket {self._http!r}>"

    @override
    async def close(self) -> None:
        await self._http.close()

    @override
    async def head(self, key: str) -> ObjectInfo:
        return await get_object.head(self._http, key)

    @override
    async def list_page(
        self, prefix: str, *, delimiter: str = "/", token: str | None = None, max_keys: int = 1000
    ) -> ListPage:
        page = await list_objects.list_page(
            self._http, prefix, delimiter=delimiter, token=token, max_keys=max_keys
        )
        return await self._empty_prefixes.without(page)

    @override
    async def read_range(
        self, key: str, start: int, length: int, *, etag: str | None = None
    ) -> Chunk:
        return await get_object.read_range(self._http, key, start, length, etag=etag)

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
        condition = conditions(if_none_match=if_none_match, if_match=if_match)
        put = partial(self._put, key, data, metadata=metadata or {}, condition=condition)
        preserved = await self._preserved.of(like.key) if like else {}
        return await self._preserved.write(preserved, put)

    async def _put(
        self,
        key: str,
        data: Buffer,
        preserved: Mapping[str, str],
        *,
        metadata: Mapping[str, str],
        condition: Mapping[str, str],
    ) -> ObjectInfo:
        def request(sums: Algorithm | None) -> Request:
            checksum = {sums.header: sums.of(data)} if sums else {}
            return Request(
                kind="PUT",
                method="PUT",
                key=key,
                headers={
                    **self._headers.new_object(key, metadata, preserved),
                    **condition,
                    **checksum,
                },
                body=data,
                check=stored(f"PUT {key!r}", checksum),
            )

        answer, sums = await self._send_checked(request)
        error = answer.error
        if error is None:
            self._headers.check_encryption(f"PUT {key!r}", answer.headers)
            etag = version_of(f"PUT {key!r}", answer.headers)
            return ObjectInfo(key=key, size=len(data), etag=etag, last_modified=0.0)
        # Of a request without either, the object may be another client's.
        is_provable = "If-Match" in condition or bool(metadata)
        if isinstance(error, PreconditionFailedError) and answer.maybe_done and is_provable:
            made = await get_object.find_made(
                self._http,
                key,
                etag=f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"',
                size=len(data),
                checksums={sums.header: sums.of(data)} if sums else {},
                metadata=metadata,
            )
            if made is not None:
                return made
        if "If-Match" in condition and isinstance(error, NotFoundError):
            raise PreconditionFailedError(error.what, "the object is gone")
        raise error

    async def _send_checked(
        self, request: Callable[[Algorithm | None], Request]
    ) -> tuple[Response, Algorithm | None]:
        """Send with the volume's checksums; without them if this store refuses them.

        From then on none are computed. Returns the answer and the algorithm that was used.
        """
        sums = self._sums
        answer = await self._http.send(request(sums))
        if (
            sums is None
            or answer.fault is None
            or not answer.fault.refuses_checksum
            or self._http.dialect.knows_checksums
        ):
            return answer, sums
        if self._sums is not None:  # no concurrent request was refused before
            log.warning(
                "the store refuses checksums, uploads go without (set `upload-checksums=off`): %s",
                answer.fault.message,
            )
        self._sums = None
        return await self._http.send(request(None)), None

    @override
    async def copy(
        self, source: ObjectInfo, key: str, *, if_none_match: bool = False
    ) -> ObjectInfo:
        if source.key.endswith("/") and source.size == 0:
            # A directory's marker: versitygw copies none. One that has bytes is no marker.
            condition = conditions(if_none_match=if_none_match)
            put = partial(self._put, key, b"", metadata={}, condition=condition)
            return await self._preserved.write(await self._preserved.of_version(source), put)
        return await self._preserved.try_tags(
            lambda tags: copy_object.copy(
                self._http, self._headers, source, key, if_none_match=if_none_match, with_tags=tags
            )
        )

    @override
    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        await self._deletion.delete(key, if_match=if_match)

    @override
    async def delete_many(self, objects: Iterable[tuple[str, str]]) -> Undeleted:
        return await self._deletion.delete_many(objects)

    @override
    async def create_upload(self, key: str, *, like: ObjectInfo | None = None) -> MultipartUpload:
        preserved = await self._preserved.of(like.key) if like else {}
        return await self._preserved.write(preserved, partial(self._create_upload, key))

    async def _create_upload(self, key: str, preserved: Mapping[str, str]) -> MultipartUpload:
        is_named = self._http.dialect.names_upload_checksum

        def request(sums: Algorithm | None) -> Request:
            headers = self._headers.new_object(key, {}, preserved)
            if sums and is_named:
                headers["x-amz-checksum-algorithm"] = sums.name
                if sums.full_object:
                    headers["x-amz-checksum-type"] = "FULL_OBJECT"
            return Request(
                kind="CREATE-UPLOAD",
                method="POST",
                key=key,
                query={"uploads": ""},
                headers=headers,
                answered_with="UploadId",  # without it a part would be the object
            )

        answer, sums = await self._send_checked(request)
        if answer.error is not None:
            raise answer.error
        if self._http.dialect.reports_encryption:
            self._headers.check_encryption(f"upload of {key!r}", answer.headers)
        upload_id = xml.fields(answer.root).get("UploadId", "")
        if not upload_id:  # an abort would delete the object
            raise IntegrityError(f"upload of {key!r}: the answer names no upload")
        if len(upload_id) > MAX_UPLOAD_ID:
            raise IntegrityError(
                f"upload of {key!r}: the upload's id has {len(upload_id)} characters",
                "report it to the store's vendor",
            )
        upload = MultipartUpload(
            self._http,
            self._headers,
            key=key,
            upload_id=upload_id,
            sums=sums,
            is_named=is_named and sums is not None,
        )
        if sums and is_named and not self._http.dialect.names_upload_checksum:
            await upload.abort()  # this first answer has shown the dialect
            return await self._create_upload(key, preserved)
        return upload
