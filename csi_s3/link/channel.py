"""One connection between two processes: JSON messages, each with its descriptors.

SOCK_SEQPACKET keeps message boundaries and ties descriptors (SCM_RIGHTS) to their message; a stream
would need framing and could attach a descriptor to the wrong message. Used between node and mounter
(a socket in the file system), keeper and worker, and mount command and worker (socketpairs).

Messages have the field "type"; `link.messages` declares them.
"""

import array
import asyncio
import json
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from csi_s3.errors import shortened
from csi_s3.link import unix_socket

MAX_MESSAGE_BYTES = 128 << 10
MAX_FDS = 253  # the kernel's SCM_MAX_FD: it would drop others in the middle of our call
MAX_TYPE_BYTES = 40  # of a message's type, which is named in errors


def close_all(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class MessageTooLargeError(ValueError):
    """A message of more than MAX_MESSAGE_BYTES: nothing was sent, and the channel is as it was."""


@dataclass(slots=True)
class Message:
    """A received message owns its descriptors: the receiver takes or closes each.

    discard: the channel's. size_bytes: as it came.
    """

    type: str
    body: dict[str, Any]
    fds: list[int] = field(default_factory=list)
    discard: Callable[..., None] = close_all
    size_bytes: int = 0

    def take_fd(self) -> int:
        """The next descriptor, now the caller's.

        Raises:
            ConnectionError: the message carries none: the peer breaks the protocol.

        """
        if not self.fds:
            raise ConnectionError(f"{self.type!r} message without its descriptor")
        return self.fds.pop(0)

    def close_fds(self) -> None:
        fds, self.fds = self.fds, []
        if fds:
            self.discard(*fds)


class Channel:
    """One end. One task receives; any task may send.

    Lifetime: `close` is plain code and idempotent; tasks that wait are woken and find the end.
    Cancellation: a cancelled `receive` has taken no message; a cancelled `send` has sent the whole
    message or nothing.
    """

    def __init__(self, sock: socket.socket, *, discard: Callable[..., None] = close_all) -> None:
        """discard: closes descriptors that were received, and the socket.

        What an untrusted peer has sent may be of a file whose close waits without end, also while
        it is still in the socket: see `kernel.descriptors`.
        """
        sock.setblocking(False)
        self._sock = sock
        self._discard = discard
        self._sending = asyncio.Lock()  # an event loop has one writer for each descriptor
        self._waiting: set[Callable[[], None]] = set()

    @classmethod
    def pair(cls, *, discard: Callable[..., None] = close_all) -> tuple[Self, socket.socket]:
        """A channel, and the socket of its other end for another process."""
        sock, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(sock, discard=discard), peer

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        for wake in list(self._waiting):
            wake()
        if self._sock.fileno() >= 0:
            with suppress(OSError):  # the peer is gone
                self._sock.shutdown(socket.SHUT_RDWR)
            self._discard(self._sock.detach())

    def peer_uid(self) -> int:
        """The uid from SO_PEERCRED, whose pid is 0 across pods."""
        raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return array.array("i", raw)[1]

    async def send(self, type_: str, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one message with duplicates of the descriptors.

        Raises:
            ConnectionError: the peer has closed its end.
            MessageTooLargeError: no peer could receive it.

        """
        data = encoded(type_, body)
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self._sock, [data], list(fds))
                except BlockingIOError:
                    await self._wait(write=True)
                except OSError as exc:
                    raise ConnectionError(f"the peer is gone: {exc.strerror}") from exc
                else:
                    return

    async def receive(self) -> Message | None:
        """The next message, or None after the peer's end.

        Raises:
            ConnectionError: what arrived is not a message.

        """
        await asyncio.sleep(0)  # a peer that sends without end must leave turns to other tasks
        while True:
            try:
                data, fds, flags = _received(self._sock)
            except BlockingIOError:
                await self._wait(write=False)
                continue
            except OSError:
                return None
            break
        if not data:
            self._discard(*fds)
            return None
        try:
            return Message(*_parsed(data, flags), fds, self._discard, len(data))
        except BaseException:
            self._discard(*fds)
            raise

    async def _wait(self, *, write: bool) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        fd = self._sock.fileno()

        def wake() -> None:
            if wake in self._waiting:  # else another file may have the number by now
                self._waiting.remove(wake)
                (loop.remove_writer if write else loop.remove_reader)(fd)
            if not ready.done():
                ready.set_result(None)

        (loop.add_writer if write else loop.add_reader)(fd, wake)
        self._waiting.add(wake)
        try:
            await ready
        finally:
            wake()


def encoded(type_: str, body: dict[str, Any]) -> bytes:
    """A message as it is sent.

    Raises:
        MessageTooLargeError: no peer could receive it.

    """
    data = json.dumps({"type": type_, **body}, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLargeError(
            f"message {type_!r} of {len(data)} bytes, at most {MAX_MESSAGE_BYTES}"
        )
    return data


def _received(sock: socket.socket) -> tuple[bytes, list[int], int]:
    """One datagram, its descriptors, and the flags of recvmsg(2)."""
    fds = array.array("i")
    room = socket.CMSG_LEN(MAX_FDS * fds.itemsize)
    data, control, flags, _ = sock.recvmsg(MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds), flags


def _parsed(data: bytes, flags: int) -> tuple[str, dict[str, Any]]:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ConnectionError("a message or its descriptors were truncated")
    try:
        body = json.loads(data.decode())  # loads alone would also take UTF-16 and UTF-32
    except (ValueError, RecursionError) as exc:
        raise ConnectionError("not a message of this protocol") from exc
    if not isinstance(body, dict) or not isinstance(type_ := body.pop("type", None), str):
        raise ConnectionError("not a message of this protocol")
    return shortened(type_, MAX_TYPE_BYTES), body


def listen(path: Path, *, mode: int = 0o660, gid: int | None = None) -> socket.socket:
    """Listen at path; see `link.unix_socket`. Its directory must exist."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        unix_socket.bind(path, sock.bind, mode=mode, gid=gid)
    except BaseException:
        sock.close()
        raise
    sock.listen()
    sock.setblocking(False)
    return sock


def connect(path: Path) -> Channel:
    """Connect to a socket made by `listen`.

    Raises:
        OSError: no process listens there (ENOENT, ECONNREFUSED), or permission is denied (EACCES).

    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{path.name}")
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    return Channel(sock)
