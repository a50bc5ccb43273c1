"""Exclusive create (O_EXCL) with one winner among all mounts of a bucket.

An empty object is put under the condition that there is none. If the answer is lost, a random
token in its metadata decides (`s3.bucket` compares it), so the winner always knows that it won. The
content follows under the condition that the empty object is still there.

Not every store supports conditional writes, and some ignore them silently. So on stores other than
AWS the first claim is put twice, and the second put must fail. No probe keys are made.
"""

import asyncio
import logging
import secrets

from csi_s3.errors import ExistsError, NotImplementedByStoreError, PreconditionFailedError
from csi_s3.s3.store import Buffer, ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

TOKEN = "csi-s3-token"  # noqa: S105 - the name of a metadata entry, no secret


class ExclusiveCreate:
    """Concurrency: any number of claims; the first one finds out whether the store can do it."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._is_able = store.conditional_writes  # None: not known yet
        self._first_lock = asyncio.Lock()

    async def claim(self, key: str) -> ObjectInfo | None:
        """Make the empty object. None: this store cannot decide on a winner; nothing was made.

        Raises:
            ExistsError: the key holds an object.

        """
        if self._is_able is None:
            async with self._first_lock:
                if self._is_able is None:
                    return await self._first(key)
        return await self._put(key) if self._is_able else None

    async def _first(self, key: str) -> ObjectInfo | None:
        info = await self._put(key)
        if info is not None:
            try:
                info = await put_new(self._store, key, b"")
            except ExistsError:
                self._is_able = True
            else:
                self._lacks("it replaced an object in spite of If-None-Match")
        return info

    async def _put(self, key: str) -> ObjectInfo | None:
        try:
            return await put_new(self._store, key, b"")
        except NotImplementedByStoreError as exc:
            self._lacks(str(exc))
            return None

    def _lacks(self, why: str) -> None:
        """Remember and log that several mounts may win."""
        self._is_able = False
        log.warning(
            "the store does not know conditional writes (%s): O_EXCL has one winner on each mount,"
            " not one among all mounts",
            why,
        )


async def put_new(store: ObjectStore, key: str, data: Buffer) -> ObjectInfo:
    """Put an object where there is none. A lost answer is settled: the winner knows that it won.

    Raises:
        ExistsError: the key holds an object.
        NotImplementedByStoreError: the store does not know the condition.

    """
    token = {TOKEN: secrets.token_hex(8)}
    try:
        return await store.put(key, data, if_none_match=True, metadata=token)
    except PreconditionFailedError as exc:
        raise ExistsError(f"{key}: exists") from exc


async def put_new_if_possible(store: ObjectStore, key: str, data: Buffer) -> ObjectInfo:
    """As `put_new`; without the condition in a store that does not know it."""
    try:
        return await put_new(store, key, data)
    except NotImplementedByStoreError:
        return await store.put(key, data)
