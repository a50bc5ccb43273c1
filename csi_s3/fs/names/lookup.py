"""Finds out from S3 what a name stands for, in one round trip.

HEAD of the file, LIST of the directory and HEAD of the symbolic link's object are sent in parallel.
A directory hides a file, and a file hides a symbolic link of its name. The answers are combined
even if some failed, so a request returns its error instead of raising it.
"""

import asyncio

from csi_s3.errors import (
    AccessDeniedError,
    InvalidNameError,
    KeyTooLongError,
    NotFoundError,
    VolumeError,
)
from csi_s3.fs.base.keys import LINK_SUFFIX, MAX_NAME_BYTES, link_name
from csi_s3.fs.listings.entries import Entry, Special, SymbolicLink
from csi_s3.fs.listings.pages import first_below
from csi_s3.s3.store import MAX_KEY_BYTES, ObjectInfo, ObjectStore


class NameResolver:
    """Concurrency and cancellation: any number of callers; it has no state."""

    def __init__(self, store: ObjectStore, *, links: bool) -> None:
        self._store, self._links = store, links

    async def resolve(self, key: str, *, link_last: bool) -> Entry:
        """What the key stands for.

        link_last: it was no symbolic link before, so ask for one only if nothing else is there
            (one request less; a second round trip if it is gone).

        Raises:
            VolumeError: a request that decides has failed.

        """
        async with asyncio.TaskGroup() as all_at_once:
            head = all_at_once.create_task(self._head(key))
            early = None if link_last else all_at_once.create_task(self._head_link(key))
            is_dir = await self._has_keys(f"{key}/")
        # All are waited for: cancelling a request closes its connection.
        if is_dir is True:
            return Special.DIRECTORY
        if isinstance(is_dir, VolumeError) and not isinstance(is_dir, AccessDeniedError):
            raise is_dir  # a directory may hide the file, so HEAD alone does not decide
        may_list = is_dir is False
        file = await self._decided(key, head.result(), may_list=may_list)
        if file is not None:
            return file
        link = early.result() if early is not None else await self._head_link(key)
        target = await self._decided(f"{key}{LINK_SUFFIX}", link, may_list=may_list)
        if target is not None:
            return SymbolicLink(target)
        if isinstance(is_dir, VolumeError):
            raise is_dir
        return Special.ABSENT

    async def _decided(
        self, key: str, answer: ObjectInfo | VolumeError, *, may_list: bool
    ) -> ObjectInfo | None:
        """The object, or None: not there, or not visible (without permission to list)."""
        if isinstance(answer, ObjectInfo):
            return answer
        if isinstance(answer, NotFoundError):
            return None
        if not isinstance(answer, AccessDeniedError):
            raise answer
        if not may_list:
            return None  # without permission to list, S3 answers 403 for what is not there
        return await self._from_list(key)  # HEAD needs GetObject; LIST is permitted and decides

    async def _head(self, key: str) -> ObjectInfo | VolumeError:
        if self._links and link_name(key.rpartition("/")[2]):
            return NotFoundError(f"{key}: a symbolic link has another name")
        return await self._head_object(key)

    async def _head_link(self, key: str) -> ObjectInfo | VolumeError:
        link = f"{key}{LINK_SUFFIX}"
        too_long = (
            len(link.encode()) > MAX_KEY_BYTES
            or len(link.rpartition("/")[2].encode()) > MAX_NAME_BYTES  # MinIO answers 400 for those
        )
        if too_long or not self._links:
            return NotFoundError(f"{link}: no symbolic link")
        answer = await self._head_object(link)
        if isinstance(answer, InvalidNameError | KeyTooLongError):
            return NotFoundError(f"{link}: the store does not accept the key")
        return answer

    async def _head_object(self, key: str) -> ObjectInfo | VolumeError:
        try:
            return await self._store.head(key)
        except VolumeError as exc:
            return exc

    async def _has_keys(self, prefix: str) -> bool | VolumeError:
        try:
            return bool(await first_below(self._store, prefix, 1))
        except VolumeError as exc:
            return exc

    async def _from_list(self, key: str) -> ObjectInfo | None:
        return (await first_below(self._store, key, 1)).get(key)  # no key sorts before it
