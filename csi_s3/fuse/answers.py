"""Requests that are answered without pyfuse3, and replies of pyfuse3 that are changed on their way.

Both ways call the same operations (`fuse.bridge`), so the file system is not here.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from errno import E2BIG, ENOSYS
from functools import partial
from typing import Any

from pyfuse3 import FUSEError

from csi_s3.fs.base.progress_timeout import WAIT_BYTES
from csi_s3.fs.write.waiting_bytes import WaitingBytes
from csi_s3.fuse.bridge import NO_INODE, Bridge
from csi_s3.fuse.interrupts import interrupt
from csi_s3.fuse.protocol import (
    OUT_HEADER,
    WRITE_DATA_AT,
    Opcode,
    build_copy_file_range_reply,
    build_error,
    build_header,
    build_lseek_reply,
    build_write_reply,
    limit_readdir,
    parse_batch_forget,
    parse_closer,
    parse_copy_file_range,
    parse_fallocate,
    parse_forget,
    parse_interrupt,
    parse_lseek,
    parse_range,
    unlink_entries,
)
from csi_s3.fuse.relay import LARGEST_MESSAGE_BYTES, Relay
from csi_s3.fuse.reply_threads import ReplyThreads
from csi_s3.fuse.request_loop import BUFFER_BYTES, RequestHandler, RequestLoop
from csi_s3.fuse.requests import KernelRequest
from csi_s3.fuse.routes import Way, way

log = logging.getLogger(__name__)

# An estimate: a thread costs the loop's some 20 µs, as much as a copy of 128 KiB into the kernel.
THREAD_FROM_BYTES = 256 << 10
NOT_BEGUN_S = 0.1  # at most: an interrupt of a request that no task has begun is tried again
READDIR_BYTES = LARGEST_MESSAGE_BYTES - OUT_HEADER.size
GIVEN_AWAY_SHARE = 0.75  # of a buffer: a write that waits keeps it. Smaller ones are copied


class Answers:
    """Lifetime: as the session. Concurrency: plain code in the event loop, but for its tasks."""

    def __init__(self, loop: RequestLoop, relay: Relay, operations: Bridge) -> None:
        self._loop, self._relay, self._operations = loop, relay, operations
        self._threads = ReplyThreads(loop.reply)
        self._starting_bytes = 0  # of writes that are to wait, and are not counted yet
        self._own: dict[int, RequestHandler] = {
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
        self._edits: dict[int, Callable[[bytearray], None]] = {
            Opcode.READDIRPLUS: partial(unlink_entries, generation=NO_INODE),
        }

    def handlers(self) -> Sequence[RequestHandler]:
        """By opcode, as `RequestLoop.serve` takes them."""
        by_way = {Way.PYFUSE3: self._pass_on, Way.NOT_SUPPORTED: self._refuse}
        return [by_way.get(way(n)) or self._own[n] for n in range(max(Opcode) + 2)]

    def close(self) -> None:
        """Wait for replies that are being written."""
        self._threads.close()

    # over pyfuse3

    def _pass_on(self, request: KernelRequest, message: memoryview) -> None:
        if request.opcode in (Opcode.READDIRPLUS, Opcode.READDIR):
            limit_readdir(message, READDIR_BYTES)
        elif len(message) > LARGEST_MESSAGE_BYTES:
            self._loop.reply_error(request, E2BIG)
            return
        if request.opcode == Opcode.FLUSH:
            request.closer = parse_closer(message)
        self._loop.in_flight.add(request)
        self._relay.add(request, bytes(message))

    def pass_back(self, request: KernelRequest, reply: bytearray) -> None:
        """Write pyfuse3's reply. This is where OPEN's could get flags and a backing file."""
        edit = self._edits.get(request.opcode)
        if edit is not None and len(reply) > OUT_HEADER.size:
            edit(reply)
        self._loop.reply(request, [reply])

    def _refuse(self, request: KernelRequest, _message: memoryview) -> None:
        self._loop.reply_error(request, ENOSYS)

    # without a reply

    def _drop(self, request: KernelRequest, message: memoryview) -> None:
        pass

    def _forget(self, _request: KernelRequest, message: memoryview) -> None:
        self._operations.forget_now(*parse_forget(message))

    def _batch_forget(self, request: KernelRequest, message: memoryview) -> None:
        self._start(request, self._forget_many(request, parse_batch_forget(bytes(message))))

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
        self._start(request, self._answer_read(request, fh, offset, size))

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
        self._answer(request, written, partial(build_write_reply, request.unique))
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
        self._answer(request, self._operations.fallocate(fh, mode, offset, length))

    def _lseek(self, request: KernelRequest, message: memoryview) -> None:
        found = self._operations.lseek(*parse_lseek(message))
        self._answer(request, found, partial(build_lseek_reply, request.unique))

    def _copy_file_range(self, request: KernelRequest, message: memoryview) -> None:
        copied = self._operations.copy_file_range(*parse_copy_file_range(message))
        build = partial(build_copy_file_range_reply, request.unique, opcode=request.opcode)
        self._answer(request, copied, build)

    def _syncfs(self, request: KernelRequest, _message: memoryview) -> None:
        self._answer(request, self._operations.syncfs())

    # tasks

    def _answer(
        self,
        request: KernelRequest,
        operation: Coroutine[Any, Any, Any],
        build: Callable[[Any], bytes] | None = None,
    ) -> None:
        """Answer with the operation's result; without build it has none."""

        async def answering() -> None:
            result = await operation
            reply = build_error(request.unique, 0) if build is None else build(result)
            self._loop.reply(request, [reply])

        self._start(request, answering())

    def _start(self, request: KernelRequest, answering: Coroutine[Any, Any, None]) -> None:
        self._loop.in_flight.add(request)
        request.task = self._relay.tasks.start(self._run(request, answering), request.name)

    async def _run(self, request: KernelRequest, answering: Coroutine[Any, Any, None]) -> None:
        """Answer also where that fails."""
        try:
            await answering
        except FUSEError as exc:
            self._loop.reply_error(request, exc.errno)
        except Exception as exc:  # noqa: BLE001 - its caller would wait for ever
            self._loop.fail(request, exc)
