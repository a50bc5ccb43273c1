"""Making a name that nobody has: the one winner among all mounts of a bucket.

An empty object is put under the condition that there is none. A lost answer is settled by a random
token in its metadata (`s3.bucket` compares it), so the winner always learns that it won; the
content follows under the condition that the empty object is still there.

Not every store knows conditional writes, and some ignore them silently, so away from AWS the first
claim is put a second time, which must fail. No probe keys: the object is one that was wanted.
"""

import asyncio
import logging
import secrets

from csi_s3.errors import ExistsError, NotImplementedByStoreError, PreconditionFailedError
from csi_s3.s3.store import Buffer, ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

TOKEN = "csi-s3-token"  # noqa: S105 - the name of a metadata entry, no secret


class ExclusiveCreate:
    """Concurrency: any number of claims; the first one finds out what the store can."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._is_able = store.conditional_writes  # None: not known yet
        self._finding_out = asyncio.Lock()

    async def claim(self, key: str) -> ObjectInfo | None:
        """Make the empty object. None: this store cannot tell a winner; nothing was made.

        Raises:
            ExistsError: the key holds an object.

        """
        if self._is_able is None:
            async with self._finding_out:
                if self._is_able is None:
                    return await self._first(key)
        if not self._is_able:
            return None
        try:
            return await self._put(key)
        except NotImplementedByStoreError as exc:
            self._lacks(str(exc))
            return None

    async def _first(self, key: str) -> ObjectInfo | None:
        try:
            info = await self._put(key)
        except NotImplementedByStoreError as exc:
            self._lacks(str(exc))
            return None
        try:
            info = await self._put(key)
        except ExistsError:
            self._is_able = True
        else:
            self._lacks("it put an object again that must not have existed")
        return info

    def _lacks(self, why: str) -> None:
        """Remember, and say once, that there is no winner among mounts."""
        self._is_able = False
        log.warning(
            "the store does not know conditional writes (%s): O_EXCL has one winner on this mount,"
            " not among several",
            why,
        )

    async def _put(self, key: str) -> ObjectInfo:
        return await put_new(self._store, key, b"")


async def put_new(store: ObjectStore, key: str, data: Buffer) -> ObjectInfo:
    """Put an object where there is none. Whoever made it knows, even if the answer was lost.

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
