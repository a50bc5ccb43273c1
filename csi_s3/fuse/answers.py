"""Requests that are answered without pyfuse3: what they say, and which operation answers them.

Both ways call the same operations (`fuse.bridge`), so the file system is not here.
"""

import asyncio
from collections.abc import Iterator, Sequence
from errno import EACCES, ENOSYS
from functools import partial

from pyfuse3 import FUSEError

from csi_s3.fs.base.progress_timeout import WAIT_BYTES
from csi_s3.fs.names.attributes import Attributes
from csi_s3.fs.write.waiting_bytes import WaitingBytes
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.interrupts import interrupt
from csi_s3.fuse.operation_tasks import OperationTasks
from csi_s3.fuse.protocol import WRITE_DATA_AT, Opcode, OpenFlag
from csi_s3.fuse.relay import Relay
from csi_s3.fuse.reply_messages import (
    build_attr_reply,
    build_bytes_reply,
    build_copy_file_range_reply,
    build_create_reply,
    build_entry_reply,
    build_header,
    build_lseek_reply,
    build_open_reply,
    build_write_reply,
)
from csi_s3.fuse.reply_threads import ReplyThreads
from csi_s3.fuse.request_loop import BUFFER_BYTES, RequestHandler, RequestLoop
from csi_s3.fuse.request_messages import (
    parse_batch_forget,
    parse_closer,
    parse_copy_file_range,
    parse_create,
    parse_fallocate,
    parse_forget,
    parse_handle,
    parse_interrupt,
    parse_lseek,
    parse_mkdir,
    parse_mknod,
    parse_name,
    parse_open,
    parse_range,
    parse_setattr,
    parse_symlink,
)
from csi_s3.fuse.requests import KernelRequest
from csi_s3.fuse.routes import Way, way

# A thread takes work from the event loop, and more CPU in all. Seconds of CPU for a GB of direct
# reads of that size: the loop's, where it writes the replies; the loop's and all, where threads do
# (the least of 18 windows, two busy cores):
#              64 KiB           128 KiB          256 KiB          512 KiB          1 MiB
#   1 reader   0.36  0.26 0.55  0.25  0.14 0.32  0.17  0.08 0.22  0.18  0.09 0.25  0.25  0.06 0.22
#   4 readers  0.38  0.21 0.41  0.23  0.14 0.35  0.22  0.08 0.22  0.20  0.06 0.24  0.21  0.06 0.24
# GB/s, the best, by the loop and by threads:
#   1 reader   2.0 1.5          3.2 2.4          4.4 3.9          4.7 3.6          3.3 3.8
#   4 readers  2.1 1.9          2.9 2.3          3.3 3.2          4.0 3.3          3.4 3.2
# From 256 KiB on it halves the loop's part and adds less than a third.
THREAD_FROM_BYTES = 256 << 10
NOT_BEGUN_S = 0.1  # at most: an interrupt of a request that no task has begun is tried again
READDIR_BYTES = 160 << 10  # 1,000 names of 10 bytes: more would hold up other requests
GIVEN_AWAY_SHARE = 0.75  # of a buffer: a write that waits keeps it. Smaller ones are copied
# They name an inode or a directory; others, a handle that was opened, or nothing.
_BY_INODE = frozenset(
    {
        Opcode.LOOKUP,
        Opcode.GETATTR,
        Opcode.SETATTR,
        Opcode.READLINK,
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.LINK,
        Opcode.OPEN,
        Opcode.OPENDIR,
        Opcode.CREATE,
        Opcode.STATFS,
    }
)


class Answers:
    """Lifetime: as the session. Concurrency: plain code in the event loop, but for its tasks."""

    def __init__(
        self, loop: RequestLoop, relay: Relay, operations: Bridge, *, only_uid: int | None = None
    ) -> None:
        """only_uid: all users but this one and root are answered with EACCES."""
        self._loop, self._relay, self._operations = loop, relay, operations
        self._only_uid = only_uid
        self._tasks = OperationTasks(loop, relay.tasks)
        self._threads = ReplyThreads(loop.reply)
        self._starting_bytes = 0  # of writes that are to wait, and are not counted yet
        self._own: dict[int, RequestHandler] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._setattr,
            Opcode.MKNOD: self._mknod,
            Opcode.MKDIR: self._mkdir,
            Opcode.SYMLINK: self._symlink,
            Opcode.UNLINK: self._unlink,
            Opcode.RMDIR: self._rmdir,
            Opcode.OPEN: self._open,
            Opcode.CREATE: self._create,
            Opcode.FLUSH: self._flush,
            Opcode.FSYNC: self._fsync,
            Opcode.RELEASE: self._release,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._releasedir,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._batch_forget,
            Opcode.INTERRUPT: self._interrupt,
            Opcode.NOTIFY_REPLY: self._drop,
            Opcode.FALLOCATE: self._fallocate,
            Opcode.LSEEK: self._lseek,
            Opcode.COPY_FILE_RANGE: self._copy_file_range,
            Opcode.COPY_FILE_RANGE_64: self._copy_file_range,
            Opcode.SYNCFS: self._syncfs,
            Opcode.INIT: self._refuse,
        }

    def handlers(self) -> Sequence[RequestHandler]:
        """By opcode, as `RequestLoop.serve` takes them."""
        return [self._handler(opcode) for opcode in range(max(Opcode) + 2)]

    def _handler(self, opcode: int) -> RequestHandler:
        by_way = {Way.PYFUSE3: self._pass_on, Way.NOT_SUPPORTED: self._refuse}
        handler = by_way.get(way(opcode)) or self._own[opcode]
        if self._only_uid is None or opcode not in _BY_INODE:
            return handler
        return partial(self._check_user, handler)

    def _check_user(
        self, handler: RequestHandler, request: KernelRequest, message: memoryview
    ) -> None:
        if request.uid in (0, self._only_uid):
            handler(request, message)
        else:
            self._loop.reply_error(request, EACCES)

    def end(self) -> None:
        """Begin no operation any more: the session ends."""
        self._tasks.close()

    def close(self) -> None:
        """Wait for replies that are being written."""
        self._threads.close()

    def _pass_on(self, request: KernelRequest, message: memoryview) -> None:
        """Have pyfuse3 answer."""
        self._loop.in_flight.add(request)
        self._relay.add(request, bytes(message))

    def _refuse(self, request: KernelRequest, _message: memoryview) -> None:
        self._loop.reply_error(request, ENOSYS)

    # names and attributes

    def _lookup(self, request: KernelRequest, message: memoryview) -> None:
        self._operations.note_user(request.uid, request.gid)
        found = self._operations.lookup(request.nodeid, parse_name(message))
        self._tasks.start(request, found, build_entry_reply)

    def _getattr(self, request: KernelRequest, _message: memoryview) -> None:
        shown = self._operations.getattr(request.nodeid)
        self._tasks.start(request, shown, build_attr_reply)

    def _setattr(self, request: KernelRequest, message: memoryview) -> None:
        size, mtime_ns, atime_ns = parse_setattr(message)
        changed = self._operations.setattr(
            request.nodeid, size=size, mtime_ns=mtime_ns, atime_ns=atime_ns
        )
        self._tasks.start(request, changed, build_attr_reply)

    def _mknod(self, request: KernelRequest, message: memoryview) -> None:
        made = self._operations.mknod(request.nodeid, *parse_mknod(message))
        self._tasks.start(request, made, build_entry_reply)

    def _mkdir(self, request: KernelRequest, message: memoryview) -> None:
        made = self._operations.mkdir(request.nodeid, parse_mkdir(message))
        self._tasks.start(request, made, build_entry_reply)

    def _symlink(self, request: KernelRequest, message: memoryview) -> None:
        made = self._operations.symlink(request.nodeid, *parse_symlink(message))
        self._tasks.start(request, made, build_entry_reply)

    def _unlink(self, request: KernelRequest, message: memoryview) -> None:
        self._tasks.start(request, self._operations.unlink(request.nodeid, parse_name(message)))

    def _rmdir(self, request: KernelRequest, message: memoryview) -> None:
        self._tasks.start(request, self._operations.rmdir(request.nodeid, parse_name(message)))

    # handles

    def _open(self, request: KernelRequest, message: memoryview) -> None:
        """The first request for a file that is mounted by subPath.

        The reply could have the kernel read a file of this machine: see `build_open_reply`.
        """
        self._operations.note_user(request.uid, request.gid)
        opened = self._operations.open(request.nodeid, parse_open(message))
        self._tasks.start(request, opened, _build_file_reply)

    def _create(self, request: KernelRequest, message: memoryview) -> None:
        made = self._operations.create(request.nodeid, *parse_create(message))
        self._tasks.start(request, made, _build_created_reply)

    def _flush(self, request: KernelRequest, message: memoryview) -> None:
        request.closer = parse_closer(message)
        self._tasks.start(request, self._operations.flush(parse_handle(message)))

    def _fsync(self, request: KernelRequest, message: memoryview) -> None:
        self._tasks.start(request, self._operations.fsync(parse_handle(message)))

    def _release(self, request: KernelRequest, message: memoryview) -> None:
        self._tasks.start(request, self._operations.release(parse_handle(message)))

    def _opendir(self, request: KernelRequest, _message: memoryview) -> None:
        self._operations.note_user(request.uid, request.gid)
        self._tasks.start(request, self._operations.opendir(request.nodeid), build_open_reply)

    def _readdirplus(self, request: KernelRequest, message: memoryview) -> None:
        fh, position, size = parse_range(message)
        names = self._operations.readdir(fh, position, min(size, READDIR_BYTES))
        self._tasks.start(request, names, build_bytes_reply)

    def _releasedir(self, request: KernelRequest, message: memoryview) -> None:
        self._tasks.start(request, self._operations.releasedir(parse_handle(message)))

    # without a reply

    def _drop(self, request: KernelRequest, message: memoryview) -> None:
        pass

    def _forget(self, _request: KernelRequest, message: memoryview) -> None:
        self._operations.forget_now(*parse_forget(message))

    def _batch_forget(self, request: KernelRequest, message: memoryview) -> None:
        forgetting = self._forget_many(request, parse_batch_forget(bytes(message)))
        self._tasks.start_at_once(request, forgetting, None)

    async def _forget_many(self, request: KernelRequest, pairs: Iterator[tuple[int, int]]) -> None:
        await self._operations.forget(pairs)
        self._loop.in_flight.end(request)

    def _interrupt(self, _request: KernelRequest, message: memoryview) -> None:
        """One that comes after its request's reply is of no use; before its request none comes."""
        interrupted = self._loop.in_flight.get(parse_interrupt(message))
        if interrupted is not None:
            self._pass_interrupt(interrupted)

    def _pass_interrupt(self, request: KernelRequest, again_after_s: float = 0.001) -> None:
        """Have the task that answers a request know of it; later, if that has not begun."""
        if request.task is not None and interrupt(request.task, request.closer):
            return
        if self._loop.in_flight.get(request.unique) is request:
            later = asyncio.get_running_loop().call_later
            next_s = min(again_after_s * 2, NOT_BEGUN_S)
            later(again_after_s, self._pass_interrupt, request, next_s)

    # bytes of files

    def _read(self, request: KernelRequest, message: memoryview) -> None:
        fh, offset, size = parse_range(message)
        self._tasks.start(request, self._answer_read(request, fh, offset, size), None)

    async def _answer_read(self, request: KernelRequest, fh: int, offset: int, size: int) -> None:
        buffers = await self._operations.read(fh, offset, size)
        n = sum(map(len, buffers))
        reply = [build_header(request.unique, n), *buffers]
        if n < THREAD_FROM_BYTES:
            self._loop.reply(request, reply)
        else:
            self._threads.reply(request, reply)

    def _write(self, request: KernelRequest, message: memoryview) -> None:
        fh, offset, size = parse_range(message)
        data = message[WRITE_DATA_AT : WRITE_DATA_AT + size]
        besides_bytes = self._starting_bytes
        try:
            held = self._operations.write_now(fh, offset, data, besides_bytes=besides_bytes)
        except FUSEError as exc:
            self._loop.reply_error(request, exc.errno)
            return
        if held is True:
            self._loop.reply(request, [build_write_reply(request.unique, size)])
            return
        if held is not None:
            pass
        elif size >= BUFFER_BYTES * GIVEN_AWAY_SHARE:
            self._loop.take_buffer()
        else:
            data = memoryview(bytes(data))
        in_memory_bytes = size if held is None else 0
        written = self._write_later(fh, offset, held or data, in_memory_bytes)
        self._tasks.start_at_once(request, written, build_write_reply)
        self._starting_bytes += in_memory_bytes + WAIT_BYTES

    async def _write_later(
        self, fh: int, offset: int, data: memoryview | WaitingBytes, in_memory_bytes: int
    ) -> int:
        """Count the bytes until the operation does, which is in this task's first step."""
        self._starting_bytes -= in_memory_bytes + WAIT_BYTES
        return await self._operations.write(fh, offset, data)

    # what pyfuse3 lacks

    def _fallocate(self, request: KernelRequest, message: memoryview) -> None:
        fh, offset, length, mode = parse_fallocate(message)
        self._tasks.start(request, self._operations.fallocate(fh, mode, offset, length))

    def _lseek(self, request: KernelRequest, message: memoryview) -> None:
        found = self._operations.lseek(*parse_lseek(message))
        self._tasks.start(request, found, build_lseek_reply)

    def _copy_file_range(self, request: KernelRequest, message: memoryview) -> None:
        copied = self._operations.copy_file_range(*parse_copy_file_range(message))
        build = partial(build_copy_file_range_reply, opcode=request.opcode)
        self._tasks.start(request, copied, build)

    def _syncfs(self, request: KernelRequest, _message: memoryview) -> None:
        self._tasks.start(request, self._operations.syncfs())


def _build_file_reply(unique: int, fh: int) -> bytes:
    return build_open_reply(unique, fh, flags=OpenFlag.KEEP_CACHE)


def _build_created_reply(unique: int, made: tuple[int, Attributes]) -> bytes:
    return build_create_reply(unique, *made, flags=OpenFlag.KEEP_CACHE)
