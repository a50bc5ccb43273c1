"""Prefixes that MinIO lists although only delete markers are left below them.

In a bucket that keeps versions, or once did, MinIO groups keys into prefixes without checking that
they still exist; without a delimiter it does not list such keys. So there, and nowhere else, each
prefix of a page is asked for one key. See docs/decisions/0014.
"""

import asyncio
from dataclasses import replace

from csi_s3.errors import VolumeError
from csi_s3.s3 import list_objects, xml
from csi_s3.s3.http import Http
from csi_s3.s3.signing import Request
from csi_s3.s3.store import ListPage

PARALLEL = 16  # of 64 connections


class EmptyPrefixes:
    """Lifetime: the bucket's. Concurrency: any number of pages; the first asks for versioning."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._was_versioned: bool | None = None  # None: not asked yet

    async def without(self, page: ListPage) -> ListPage:
        """The page without prefixes that have no key.

        Raises:
            VolumeError: a prefix could not be listed.

        """
        if not page.prefixes or not await self._are_possible():
            return page
        slots = asyncio.Semaphore(PARALLEL)

        async def has_key(prefix: str) -> bool | VolumeError:
            async with slots:
                try:
                    below = await list_objects.list_page(self._http, prefix, max_keys=1)
                except VolumeError as exc:
                    return exc
            return bool(below.objects or below.next_token)  # more pages: not known, so shown

        async with asyncio.TaskGroup() as group:
            tasks = [(p, group.create_task(has_key(p))) for p in page.prefixes]
        prefixes = []
        for prefix, task in tasks:
            has = task.result()
            if isinstance(has, VolumeError):
                raise has
            if has:
                prefixes.append(prefix)
        return replace(page, prefixes=prefixes)

    async def _are_possible(self) -> bool:
        """Whether this store lists them, and the bucket keeps versions or once did.

        Where the policy refuses the question, the first answer with a version id decides.
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
            answered_with="VersioningConfiguration",
        )
        answer = await self._http.send(request)
        if answer.fault is not None:
            return None if answer.fault.is_retryable else False
        return "Status" in xml.fields(answer.root)
