"""Brings bytes of a file being changed to the spool: from the store, or to make its map shorter."""

import asyncio

from csi_s3.errors import OutOfMemoryError, SpoolFullError, StaleError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.write.extents import STEP_EXTENTS, Origin
from csi_s3.fs.write.mapped_bytes import MappedBytes
from csi_s3.fs.write.remote_object import RemoteObject

COPY_BYTES = 1 << 20  # read at a time
JOINED_SHARE = 16  # of a map's extents: as many fewer there are once they are joined


class SpoolFetch:
    """A strategy without state.

    Concurrency: the file's lock orders calls. Cancellation: only where bytes are has changed.

    All raise SpoolFullError, and StaleError if another client has replaced or removed the base.
    """

    __slots__ = ("_context", "_mapped", "_remote")

    def __init__(self, context: MountContext, remote: RemoteObject, mapped: MappedBytes) -> None:
        self._context, self._remote, self._mapped = context, remote, mapped

    async def copied(self, start: int, end: int) -> None:
        """Bring bytes that were copied inside S3 to the spool before some of a range change.

        Their part is to be sent then, so it must be here whole.

        Raises:
            SpoolFullError: there is no room, or the source is not what it was.

        """
        for part in self._mapped.copied_parts(start, end):
            await self._fetch(part.start, part.end)

    async def copied_before(self, size: int) -> None:
        """As `copied`, before the file is cut within a part."""
        for part in self._mapped.copied_parts(size, size + 1):
            await self._fetch(part.start, min(part.end, size))

    async def _fetch(self, start: int, end: int) -> None:
        for e in self._mapped.extents.within(start, end):
            at = e.start
            while e.origin is Origin.SENT and at < e.end:
                try:
                    data = await self._read(at, min(e.end - at, COPY_BYTES))
                except StaleError as exc:
                    raise SpoolFullError(
                        f"{self._remote.key}: a change of bytes that were copied inside S3, and"
                        " what they were copied from has changed",
                        "close the file first",
                    ) from exc
                self._mapped.put_in_spool(at, data)
                at += len(data)
                self._remote.progress.made()

    async def _read(self, start: int, length: int) -> bytes:
        found, _ = self._mapped.find(start, start + length)
        return b"".join([await self._mapped.fetch(f) for f in found])

    async def all_stored(self, limit_bytes: int) -> None:
        """Copy what only S3 has to the spool, up to limit_bytes, before the object is deleted."""
        mapped = self._mapped
        copied = sum(r.size for r in mapped.copies.ranges)
        if mapped.extents.count(Origin.BASE) + copied > limit_bytes:
            raise SpoolFullError(
                f"{self._remote.key}: more than {limit_bytes} bytes are in S3 only",
                "raise unlinked-open-limit",
            )
        at = 0
        while (e := mapped.extents.next_of(Origin.BASE, at)) is not None:
            data = await self._remote.read(e.start, min(e.size, COPY_BYTES))
            mapped.put_in_spool(e.start, data)
            at = e.start + len(data)
            self._context.progress_timeout.made_progress()
        for r in mapped.copies.ranges:
            await self._fetch(r.start, r.end)

    async def make_map_room(self) -> None:
        """Have room in the map for one more change: what is between changes goes to the spool.

        The smallest gaps go first. They would have to be read and sent in any case.

        Raises:
            OutOfMemoryError: the volume's memory for such maps is in use.

        """
        mapped = self._mapped
        if mapped.has_room:
            return
        for start, end in await self._smallest_gaps(max(2, len(mapped.extents) // JOINED_SHARE)):
            at = start
            while at < end:
                data = await self._read(at, min(end - at, COPY_BYTES))
                mapped.put_in_spool(at, data)
                at += len(data)
            await asyncio.sleep(0)
            self._remote.progress.made()
        if not mapped.has_room:
            raise OutOfMemoryError(
                f"{self._remote.key}: the volume's memory for maps of changed files is in use",
                "close files that are being changed, or give the volume a larger memory-target",
            )

    async def _smallest_gaps(self, most: int) -> list[tuple[int, int]]:
        """Up to so many extents that lie between two of the spool, in their order."""
        gaps: list[tuple[int, int]] = []
        at, end = 0, self._mapped.extents.size
        while at < end:
            some = self._mapped.extents.within(at, end, most=STEP_EXTENTS)
            gaps += [(e.start, e.end) for e in some if e.origin in (Origin.BASE, Origin.ZERO)]
            at = some[-1].end
            await asyncio.sleep(0)
        inner = [g for g in gaps if g[0] > 0 and g[1] < end]
        if not inner:
            return []
        sizes = sorted(g[1] - g[0] for g in inner)
        largest = sizes[min(most, len(sizes)) - 1]
        return [g for g in inner if g[1] - g[0] <= largest][:most]
