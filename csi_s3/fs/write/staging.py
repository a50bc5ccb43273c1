"""The bytes of a file being changed: a tail in memory, and a map of where all before it are.

The tail is the last bytes of the file. What is written in order fills it and leaves from there, as
parts of an upload or for the spool; a file that fits into it may be changed anywhere. Bytes before
it are those of the stored version (`RemoteObject.base`), of the spool's file, or zeros; so a change
costs what was changed, and not the file.
"""

from pathlib import Path

from csi_s3.errors import FileTooLargeError, SpoolFullError, UnsupportedError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.write.extents import Extent, Extents, Origin
from csi_s3.fs.write.parallel_upload import largest_part_bytes
from csi_s3.fs.write.remote_object import RemoteObject
from csi_s3.fs.write.spool import Spool, SpoolFile
from csi_s3.fs.write.spool_description import Description
from csi_s3.s3.store import Buffer

GRANULE_BYTES = 256 << 10  # memory is reserved in such pieces as the tail grows
COPY_BYTES = 1 << 20  # read from the base at a time, when its bytes are brought here


class StagedFile:
    """Lifetime: as its `DirtyFile`; `close` gives memory and spool back.

    Concurrency: the file's lock orders changes; `read` may run beside them.
    Cancellation: a cancelled call has changed nothing, or only where bytes are.

    Methods that put bytes in the spool raise SpoolFullError, and the bytes stay where they are.
    Methods that read the base raise StaleError if another client has replaced or removed it.
    """

    def __init__(self, context: MountContext, remote: RemoteObject, spool: Spool) -> None:
        self.tail = bytearray()
        self._reserved = 0  # of the memory budget, for the tail
        self.extents = Extents()  # from 0 to where the tail starts
        self._remote, self._spool, self._context = remote, spool, context
        self._part_bytes = context.config.write_part_bytes
        self._limits = context.store.limits
        self._file: SpoolFile | None = None
        self._is_unlinked = False  # no other process may find it
        if remote.base is not None:
            self.extents.put(0, remote.base.size, Origin.BASE)

    @property
    def size(self) -> int:
        """Of the file."""
        return self.extents.size + len(self.tail)

    @property
    def tail_start(self) -> int:
        return self.extents.size

    @property
    def is_in_memory(self) -> bool:
        """The whole file is the tail."""
        return self.extents.size == 0

    @property
    def is_kept(self) -> bool:
        """The spool has it for the mount's next worker, as it is now; see `keep`."""
        return self._file is not None and self._file.description.is_whole

    @property
    def has_lost_bytes(self) -> bool:
        """Bytes were in parts of an upload alone, and the upload is gone."""
        return self._remote.upload is None and self.extents.has(Origin.SENT)

    @property
    def part_bytes(self) -> int:
        """How long the tail may become before it leaves."""
        upload = self._remote.upload
        return self._part_bytes if upload is None else upload.part_bytes(upload.body)

    def can_be_part(self) -> bool:
        """Whether the tail can be the upload's next part."""
        upload = self._remote.upload
        if upload is not None:
            return upload.tried is None and upload.body.covered == self.tail_start
        is_base = self.extents.count(Origin.BASE) == self.tail_start
        return self.is_in_memory or (is_base and self.tail_start >= self._limits.min_part_bytes)

    def layout(self) -> Extents:
        """The map of the whole file; the tail counts as spooled."""
        whole = Extents()
        for e in self.extents:
            whole.put(e.start, e.end, e.origin)
        whole.put(whole.size, self.size, Origin.SPOOL)
        return whole

    # memory

    def try_append(self, offset: int, data: Buffer) -> bool:
        """Add bytes at the end, if they belong there and nothing is to be waited for."""
        start, tail_bytes = self.extents.size, len(self.tail)
        if offset != start + tail_bytes or tail_bytes + len(data) > self._part_bytes:
            return False
        if 0 < start < self._limits.min_part_bytes and self._remote.upload is None:
            return False  # the file is brought into memory first
        if self.missing_for(len(data)) > 0:
            return False
        self.append(data)
        return True

    def missing_for(self, n: int) -> int:
        """How much `reserve` takes from the budget for n more bytes of the tail."""
        missing = len(self.tail) + n - self._reserved
        return -(-missing // GRANULE_BYTES) * GRANULE_BYTES if missing > 0 else 0

    async def reserve(self, n: int) -> None:
        """Wait for the memory for n more bytes of the tail."""
        missing = self.missing_for(n)
        await self._context.memory.buffers.reserve(missing)
        self._reserved += missing

    def append(self, data: Buffer) -> None:
        """Let the tail grow; the memory for it is reserved."""
        self._mark_changed()
        try:
            self.tail += data
        except BufferError:  # the view that an ended request has of it is not collected yet
            self.tail = self.tail + data

    def take_tail(self) -> bytearray:
        """Hand over the tail and its reserved memory; the spool keeps a copy if it has room."""
        start, end = self.tail_start, self.size
        try:
            self._put_in_spool(start, self.tail)
        except SpoolFullError:
            self.extents.put(start, end, Origin.SENT)
        tail, self.tail = self.tail, bytearray()
        spare, self._reserved = self._reserved - len(tail), 0
        self._context.memory.buffers.release(spare)
        return tail

    def spill(self) -> None:
        self._put_in_spool(self.tail_start, self.tail)
        self._drop_tail()

    def _drop_tail(self) -> None:
        self.tail = bytearray()  # a request may still have a view of the old one
        self._context.memory.buffers.release(self._reserved)
        self._reserved = 0

    def _put_in_spool(self, start: int, data: Buffer) -> None:
        if not data:
            return
        end = start + len(data)
        self._mark_changed()
        if self._file is None:
            self._file = self._new_file()
        self._file.write(start, data, self.extents)
        self.extents.put(start, end, Origin.SPOOL)

    def _new_file(self) -> SpoolFile:
        file = self._spool.create(self._remote.key)
        if self._is_unlinked:
            file.unlink()
        return file

    # changes

    def _mark_changed(self) -> None:
        """Note that the copy for the next worker is out of date, if there is one."""
        if self._file is not None and self._file.description.is_whole:
            self._file.describe(Description(key=self._remote.key))

    def overwrite(self, offset: int, data: memoryview) -> None:
        """Change bytes that are there, all of them before the file's end."""
        if not data:
            return
        end = offset + len(data)
        self._check_not_sent(offset, end)
        if self._remote.upload is not None:  # first: a full disk may take some of it
            self._remote.upload.mark_changed(offset, end)
        self._mark_changed()
        in_front = max(0, min(len(data), self.tail_start - offset))
        self._put_in_spool(offset, data[:in_front])
        if in_front < len(data):
            at = offset + in_front - self.tail_start
            self.tail[at : at + len(data) - in_front] = data[in_front:]

    def _check_not_sent(self, start: int, end: int) -> None:
        """Bytes that are in parts only cannot be sent again in another part."""
        if any(e.origin is Origin.SENT for e in self.extents.within(start, end)):
            raise SpoolFullError(
                f"{self._remote.key}: a change of bytes that are only in parts of an upload",
                "give the volume a larger spool-size",
            )

    async def grow(self, size: int) -> None:
        """Let zeros follow: in memory as long as the file fits one part, else as a hole."""
        zeros = size - self.size
        largest = self._limits.max_parts * largest_part_bytes(self._context, self._part_bytes)
        if zeros > largest:
            raise FileTooLargeError(
                f"{self._remote.key}: a hole up to {size}, and holes are sent as zeros",
                f"at most {largest} bytes; a larger write-part-size or memory-target allows more",
            )
        fits = self.is_in_memory and size <= self._part_bytes
        if fits and self._context.memory.buffers.has_room(self.missing_for(zeros)):
            await self.reserve(zeros)
            self.append(bytes(zeros))
            return
        self._mark_changed()
        if self.tail:
            self.spill()
        self.extents.put(self.tail_start, size, Origin.ZERO)

    def cut(self, size: int) -> None:
        """Make the file shorter; SpoolFullError if a part that has the only copy would be cut."""
        upload = self._remote.upload
        for part in upload.parts if upload is not None else ():
            if part.start < size < part.end:
                self._check_not_sent(part.start, size)
        self._mark_changed()
        if size >= self.tail_start:
            self.tail = self.tail[: size - self.tail_start]  # as in `_drop_tail`, a new one
        else:
            if self._file is not None:
                self._file.cut(size, self.extents)
            self._drop_tail()
            self.extents.truncate(size)
        if upload is not None:
            upload.cut(size)

    async def load_small(self, *, is_append: bool) -> None:
        """Bring a small stored file into memory whole, before it is changed."""
        is_copied = self.extents.has(Origin.BASE) and (is_append or self._spool.is_there)
        most = self._limits.min_part_bytes - 1 if is_copied else self._part_bytes
        is_sent = self._remote.upload is not None or self.extents.has(Origin.SENT)
        if self.is_in_memory or self.size > most or is_sent:
            return
        await self.reserve(self.size)
        data = bytearray(await self.read(0, self.size))
        self.extents.truncate(0)
        self._close_file()
        self.tail = data

    async def localise(self, limit_bytes: int) -> None:
        """Copy the base's bytes to the spool, up to limit_bytes, before the object is deleted."""
        if self.extents.count(Origin.BASE) > limit_bytes:
            raise SpoolFullError(
                f"{self._remote.key}: more than {limit_bytes} bytes are in S3 only",
                "raise unlinked-open-limit",
            )
        for e in self.extents:
            at = e.start
            while e.origin is Origin.BASE and at < e.end:
                data = await self._remote.read(at, min(e.end - at, COPY_BYTES))
                self._put_in_spool(at, data)
                at += len(data)
                self._context.progress_timeout.made_progress()

    def mark_stored(self, size: int) -> None:
        """Take all bytes from the base, which has this size; a file in memory stays there."""
        self._close_file()
        if not self.is_in_memory:
            self._drop_tail()
            self.extents.truncate(0)
            self.extents.put(0, size, Origin.BASE)

    def mark_sent_stored(self) -> None:
        """Take bytes that were only in the upload from the base, which it has made."""
        for e in self.extents:
            if e.origin is Origin.SENT:
                self.extents.put(e.start, e.end, Origin.BASE)

    def _close_file(self, *, keep: bool = False) -> None:
        if self._file is not None:
            self._file.close(keep=keep)
            self._file = None

    # reading

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file as it is now, cut at its end.

        Raises:
            UnsupportedError: some are only in parts of an upload.

        """
        end, start = min(offset + length, self.size), self.tail_start
        pieces: list[Buffer | Extent] = []  # of one moment; the base's follow
        for e in self.extents.within(offset, min(end, start)):
            if e.origin is Origin.BASE:
                pieces.append(e)
            elif e.origin is Origin.ZERO:
                pieces.append(bytes(e.size))
            elif e.origin is Origin.SPOOL and self._file is not None:
                pieces.append(self._file.read(e.start, e.size))
            else:
                raise UnsupportedError(
                    f"{self._remote.key}: read of bytes that are in an upload not yet complete",
                    "close the file first, or give the volume a larger spool-size",
                )
        if end > start:
            pieces.append(bytes(self.tail[max(0, offset - start) : end - start]))
        return b"".join(
            [
                await self._remote.read(p.start, p.size) if isinstance(p, Extent) else p
                for p in pieces
            ]
        )

    # the end

    def keep(self) -> Path:
        """Have all bytes that are only here in the spool, for the mount's next worker."""
        if self.extents.has(Origin.SENT):
            raise SpoolFullError(
                f"{self._remote.key}: some of it is only in parts of an upload and cannot be kept",
                "give the volume a larger spool-size",
            )
        self.spill()
        if self._file is None:  # nothing but zeros and base
            self._file = self._new_file()
        remote = self._remote
        self._file.describe(Description.whole(remote.key, remote.replaces, self.extents))
        return self._file.path

    def unlink(self) -> None:
        """Leave nothing for a next worker: the file has no name any more."""
        self._is_unlinked = True
        if self._file is not None:
            self._file.unlink()

    def adopt(self, file: SpoolFile, description: Description) -> None:
        """Go on with what an earlier worker kept: changes of the base."""
        self.extents, self._file = description.map(), file

    def reset(self) -> None:
        self._drop_tail()
        self.extents.truncate(0)
        self._close_file()

    def close(self) -> None:
        """Give memory and spool back; what is kept stays in the spool."""
        self._drop_tail()
        self._close_file(keep=self.is_kept)
