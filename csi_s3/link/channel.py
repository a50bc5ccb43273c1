"""One connection between two processes: JSON messages, each with its descriptors.

SOCK_SEQPACKET keeps message boundaries and ties descriptors (SCM_RIGHTS) to their message; a stream
would need framing and could attach a descriptor to the wrong message. Used between node and mounter
(a socket in the file system), keeper and worker, and mount command and worker (socketpairs).

Messages (field "type"):
    node -> mounter, mount command -> worker
        serve   {spec: MountSpec, init: hex of the kernel's INIT request}  + [fuse fd]
        stop    {mount_id}      upload open files, end; answered by a report ENDED
        usage   {mount_id}      answered by a report
    mounter -> node
        hello   {version, pid}                    first message of a connection
        have    {spec, init, report: Report|null} + [fuse fd]     one for each mount that is held
        ready   {}                                after the last `have`
        report  {report: Report}                  when a mount's state changes, and as an answer
        notice  {notice: Notice}                  a failure to publish on the pods of a mount
    keeper -> worker
        serve   as from node, with memory_bytes: the budget for buffers, in place of the spec's,
                and credentials_dir: the mounter's, if the spec has none
        metrics {mount_id}      answered by one, and by another after the worker's last report
        requests {mount_id}     log the kernel's requests that are not answered
    worker -> keeper
        metrics {families: {metric: [[label, ..., value], ...]}}    see obs.metrics.samples
"""

import array
import asyncio
import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from csi_s3.link import unix_socket

MAX_MESSAGE_BYTES = 128 << 10
MAX_FDS = 8


class MessageTooLargeError(ValueError):
    """A message of more than MAX_MESSAGE_BYTES: nothing was sent, and the channel is as it was."""


@dataclass(slots=True)
class Message:
    """A received message owns its descriptors: the receiver takes or closes each."""

    type: str
    body: dict[str, Any]
    fds: list[int] = field(default_factory=list)

    def take_fd(self) -> int:
        """The next descriptor, now the caller's.

        Raises:
            ConnectionError: the message carries none: the peer breaks the protocol.

        """
        if not self.fds:
            raise ConnectionError(f"{self.type!r} message without its descriptor")
        return self.fds.pop(0)

    def close_fds(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


class Channel:
    """One end. One task receives; any task may send.

    Lifetime: `close` is plain code and idempotent; tasks that wait are woken and find the end.
    Cancellation: a cancelled `receive` has taken no message; a cancelled `send` has sent the whole
    message or nothing.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._sending = asyncio.Lock()  # an event loop has one writer for each descriptor
        self._waiting: set[Callable[[], None]] = set()

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """A channel, and the socket of its other end for another process."""
        sock, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(sock), peer

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        for wake in list(self._waiting):
            wake()
        self._sock.close()

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
        data = json.dumps({"type": type_, **body}, separators=(",", ":")).encode()
        if len(data) > MAX_MESSAGE_BYTES:
            raise MessageTooLargeError(
                f"message {type_!r} of {len(data)} bytes, at most {MAX_MESSAGE_BYTES}"
            )
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
        while True:
            try:
                data, fds, flags, _ = socket.recv_fds(self._sock, MAX_MESSAGE_BYTES, MAX_FDS)
            except BlockingIOError:
                await self._wait(write=False)
                continue
            except OSError:
                return None
            break
        if not data:
            _close(fds)
            return None
        try:
            return _message(data, flags, fds)
        except BaseException:
            _close(fds)
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


def _message(data: bytes, flags: int, fds: list[int]) -> Message:
    for fd in fds:
        os.set_inheritable(fd, False)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ConnectionError("a message or its descriptors were truncated")
    try:
        body = json.loads(data)
        return Message(body.pop("type"), body, list(fds))
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ConnectionError("not a message of this protocol") from exc


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


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
