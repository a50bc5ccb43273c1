"""Prefixes that MinIO lists although only delete markers are left below them.

In a bucket that keeps versions, or kept them once, MinIO folds keys into prefixes without a look at
whether they still exist; without a delimiter it lists no such key. So there, and nowhere else,
each prefix of a page is asked for one key. See docs/decisions/0014.
"""

import asyncio
from dataclasses import replace

from csi_s3.errors import VolumeError
from csi_s3.s3 import xml
from csi_s3.s3.http import Http
from csi_s3.s3.request_headers import RequestHeaders
from csi_s3.s3.signing import Request
from csi_s3.s3.store import ListPage, ObjectStore

PARALLEL = 16  # of 64 connections


class EmptyPrefixes:
    """Lifetime: the bucket's. Concurrency: any number of pages; the first asks for versioning."""

    def __init__(self, store: ObjectStore, http: Http, headers: RequestHeaders) -> None:
        self._store, self._http, self._headers = store, http, headers
        self._was_versioned: bool | None = None  # None: not asked yet

    async def without(self, page: ListPage) -> ListPage:
        """The page without prefixes that have no key.

        Raises:
            VolumeError: the store did not say.

        """
        if not page.prefixes or not await self._may_be():
            return page
        slots = asyncio.Semaphore(PARALLEL)

        async def has_key(prefix: str) -> bool | VolumeError:
            async with slots:
                try:
                    found = await self._store.list_page(prefix, delimiter="", max_keys=1)
                except VolumeError as exc:
                    return exc
            return bool(found.objects or found.next_token)  # more to come: not known, so shown

        async with asyncio.TaskGroup() as group:
            asked = [(p, group.create_task(has_key(p))) for p in page.prefixes]
        kept = []
        for prefix, task in asked:
            has = task.result()
            if isinstance(has, VolumeError):
                raise has
            if has:
                kept.append(prefix)
        return replace(page, prefixes=kept)

    async def _may_be(self) -> bool:
        """Whether this is MinIO, and the bucket keeps versions, or did once.

        Where the policy does not let us ask, the first answer about an object that has a version
        tells.
        """
        if not self._http.dialect.lists_deleted_prefixes:
            return False
        if self._was_versioned is None and not self._http.has_versions:
            self._was_versioned = await self._ask()
        return self._http.has_versions or bool(self._was_versioned)

    async def _ask(self) -> bool | None:
        request = Request(
            kind="GET-VERSIONING",
            method="GET",
            query={"versioning": ""},
            headers=self._headers.every,
            answered_with="VersioningConfiguration",
        )
        answer = await self._http.send(request)
        if answer.fault is not None:
            return None if answer.fault.is_retryable else False
        return "Status" in xml.fields(answer.root)
