"""The mounter's connection: node listens, and serves one mounter at a time.

After a forced deletion an old and a new mounter run at the same time for seconds: the new one waits
in the socket's backlog until the old one is gone, so each mount has one owner. As long as live
mounts are not taken over, the end of a connection is the end of its mounts.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from csi_s3.errors import BadOptionError, MounterUnavailableError
from csi_s3.link import unix_socket
from csi_s3.link.channel import (
    MAX_MESSAGE_BYTES,
    Channel,
    Message,
    MessageTooLargeError,
    listen,
)
from csi_s3.link.report import Notice, Report
from csi_s3.link.spec import VERSION, MountSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMount:
    """A mount that a mounter served before node (re)started. The receiver owns fd.

    report: the last one of its worker, if any.
    """

    spec: MountSpec
    init: bytes
    fd: int
    report: Report | None = None


class MounterListener(Protocol):
    async def adopt(self, held: Sequence[HeldMount]) -> None:
        """A mounter connected with these mounts; no request is sent to it until this returns."""
        ...

    def reported(self, report: Report) -> None: ...

    def noticed(self, notice: Notice) -> None: ...

    def lost(self) -> None: ...


class MounterLink:
    """Lifetime: `run` is the owner task; the socket exists from construction to the end of `run`.

    Cancellation of `run` (the end of node) is not the end of the mounter: its mounts stay.
    """

    def __init__(self, path: Path, *, uid: int, hello_s: float) -> None:
        """hello_s: from a mounter's connection to its `ready`."""
        self._uid, self._path, self._hello_s = uid, path, hello_s
        self._socket = listen(path, mode=0o660, gid=uid or None)
        self._inode = path.lstat().st_ino
        self._channel: Channel | None = None
        self._connected = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        return self._channel is not None

    def remove(self) -> None:
        """Remove the socket's name, unless another process has it by now."""
        unix_socket.remove(self._path, self._inode)

    def require(self) -> None:
        """Check that a mounter is connected.

        Raises:
            MounterUnavailableError: none is.

        """
        if self._channel is None:
            raise _unavailable()

    async def wait(self, within_s: float) -> None:
        """Wait until a mounter is connected and its mounts are known.

        Raises:
            MounterUnavailableError: none connected in time.

        """
        try:
            async with asyncio.timeout(within_s):
                await self._connected.wait()
        except TimeoutError as exc:
            raise _unavailable() from exc

    async def send(self, type_: str, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send to the connected mounter.

        Raises:
            MounterUnavailableError: none is connected, or it disconnected.
            BadOptionError: the message, with a volume's options in it, is too large.

        """
        if self._channel is None:
            raise _unavailable()
        try:
            await self._channel.send(type_, body, fds)
        except ConnectionError as exc:
            raise _unavailable() from exc
        except MessageTooLargeError as exc:
            raise BadOptionError(
                f"the volume's options do not fit into {MAX_MESSAGE_BYTES >> 10} KiB",
                "shorten its mountOptions, volumeAttributes and volumeHandle",
            ) from exc

    async def run(self, listener: MounterListener) -> None:
        loop = asyncio.get_running_loop()
        with self._socket:
            while True:
                peer, _ = await loop.sock_accept(self._socket)
                with contextlib.closing(Channel(peer)) as channel:
                    if self._is_trusted(channel):
                        await self._serve(channel, listener)

    def _is_trusted(self, channel: Channel) -> bool:
        uid = channel.peer_uid()
        if uid in {0, self._uid}:
            return True
        log.warning(
            "user %d connected to the mounter's socket and was rejected: expected %d "
            "(--mounter-uid)",
            uid,
            self._uid,
        )
        return False

    async def _serve(self, channel: Channel, listener: MounterListener) -> None:
        held: list[HeldMount] = []
        try:
            async with asyncio.timeout(self._hello_s):
                await _greet(channel, held)
        except (ConnectionError, TimeoutError) as exc:
            for mount in held:
                os.close(mount.fd)
            reason = str(exc) or f"no `ready` within {self._hello_s:.0f} s"
            log.warning("a mounter connected and violated the protocol: %s", reason)
            return
        await listener.adopt(held)
        log.info("mounter is connected", extra={"mounts": len(held)})
        self._channel = channel
        self._connected.set()
        try:
            while (message := await channel.receive()) is not None:
                _dispatch(message, listener)
            log.warning("the mounter's connection ended; its mounts end with it")
        except ConnectionError as exc:
            log.warning("the mounter violated the protocol and was disconnected: %s", exc)
        finally:
            self._channel = None
            self._connected.clear()
        listener.lost()


async def _greet(channel: Channel, held: list[HeldMount]) -> None:
    expected = {"hello"}
    while True:
        message = await channel.receive()
        if message is None:
            raise ConnectionError("it disconnected before it was ready")
        try:
            if message.type not in expected:
                raise ConnectionError(f"{message.type!r} instead of {sorted(expected)}")
            if message.type == "hello" and message.body.get("version") != VERSION:
                raise ConnectionError(
                    f"its version of the link is {message.body.get('version')}, that of this node"
                    f" plugin {VERSION}: delete the mounter's pod so that it gets the same image"
                )
            if message.type == "ready":
                return
            if message.type == "have":
                held.append(_have(message))
            expected = {"have", "ready"}
        finally:
            message.close_fds()


def _have(message: Message) -> HeldMount:
    try:
        spec = MountSpec.from_json(message.body["spec"])
        init = bytes.fromhex(message.body["init"])
        data = message.body.get("report")
        report = None if data is None else Report.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ConnectionError(f"an invalid 'have' message: {exc!r}") from exc
    return HeldMount(spec=spec, init=init, fd=message.take_fd(), report=report)


def _dispatch(message: Message, listener: MounterListener) -> None:
    message.close_fds()
    try:
        if message.type == "report":
            call = partial(listener.reported, Report.from_json(message.body["report"]))
        elif message.type == "notice":
            call = partial(listener.noticed, Notice.from_json(message.body["notice"]))
        else:  # a mounter may be newer than this node
            log.info("the mounter sent %r, which this version does not know", message.type)
            return
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ConnectionError(f"an invalid {message.type!r} message: {exc!r}") from exc
    call()


def _unavailable() -> MounterUnavailableError:
    return MounterUnavailableError(
        "no mounter is connected to the node plugin",
        "is the mounter's pod running on this node? see its log; kubelet repeats the request",
    )
