"""The mounter's connection: node listens, one mounter at a time is served.

After a forced deletion an old and a new mounter live side by side for seconds: the new one waits
in the socket's backlog until the old one is gone, so each mount has one master. As long as live
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

from csi_s3.errors import MounterUnavailableError
from csi_s3.link import unix_socket
from csi_s3.link.channel import Channel, Message, listen
from csi_s3.link.report import Notice, Report
from csi_s3.link.spec import VERSION, MountSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMount:
    """A mount that a mounter served before we (re)started; fd is the receiver's.

    report: what its worker said last, if anything.
    """

    spec: MountSpec
    init: bytes
    fd: int
    report: Report | None = None


class MounterListener(Protocol):
    """Who is told what mounters say."""

    async def adopt(self, held: Sequence[HeldMount]) -> None:
        """A mounter came with these mounts; it is asked for nothing until this returns."""
        ...

    def reported(self, report: Report) -> None: ...

    def noticed(self, notice: Notice) -> None: ...

    def lost(self) -> None:
        """The mounter is gone."""
        ...


class MounterLink:
    """Lifetime: `run` is the owner task; the socket is there from construction to its end.

    Cancellation of `run` (our own end) is not the mounter's: its mounts stay.
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
        """Go on only with a mounter.

        Raises:
            MounterUnavailableError: none is connected.

        """
        if self._channel is None:
            raise _unavailable()

    async def wait(self, within_s: float) -> None:
        """Wait for a mounter; it is connected and its mounts are known.

        Raises:
            MounterUnavailableError: none came in time.

        """
        try:
            async with asyncio.timeout(within_s):
                await self._connected.wait()
        except TimeoutError as exc:
            raise _unavailable() from exc

    async def send(self, type_: str, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send to the mounter that is connected.

        Raises:
            MounterUnavailableError: there is none, or it went away.

        """
        if self._channel is None:
            raise _unavailable()
        try:
            await self._channel.send(type_, body, fds)
        except ConnectionError as exc:
            raise _unavailable() from exc

    async def run(self, listener: MounterListener) -> None:
        """Serve one mounter after the other."""
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
            "user %d connected to the mounter's socket and was turned away: expected %d "
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
            for have in held:
                os.close(have.fd)
            log.warning(
                "a mounter connected and broke the protocol: %s", str(exc) or "it was silent"
            )
            return
        await listener.adopt(held)
        log.info("mounter is connected", extra={"mounts": len(held)})
        self._channel = channel
        self._connected.set()
        try:
            while (message := await channel.receive()) is not None:
                _hand_over(message, listener)
            log.warning("the mounter's connection ended; its mounts end with it")
        except ConnectionError as exc:
            log.warning("the mounter broke the protocol and was cut off: %s", exc)
        finally:
            self._channel = None
            self._connected.clear()
        listener.lost()


async def _greet(channel: Channel, held: list[HeldMount]) -> None:
    expected = {"hello"}
    while True:
        message = await channel.receive()
        if message is None:
            raise ConnectionError("it went away before it was ready")
        try:
            if message.type not in expected:
                raise ConnectionError(f"{message.type!r} in place of {sorted(expected)}")
            if message.type == "hello" and message.body.get("version") != VERSION:
                raise ConnectionError(
                    f"it speaks version {message.body.get('version')} of the link, this node plugin"
                    f" {VERSION}: delete the mounter's pod, so that it is made of the same image"
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
        said = message.body.get("report")
        report = None if said is None else Report.from_json(said)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ConnectionError(f"a 'have' message that is none: {exc!r}") from exc
    return HeldMount(spec=spec, init=init, fd=message.take_fd(), report=report)


def _hand_over(message: Message, listener: MounterListener) -> None:
    message.close_fds()
    try:
        if message.type == "report":
            tell = partial(listener.reported, Report.from_json(message.body["report"]))
        elif message.type == "notice":
            tell = partial(listener.noticed, Notice.from_json(message.body["notice"]))
        else:  # a mounter may be newer than this node
            log.info("the mounter said %r, which this version does not know", message.type)
            return
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ConnectionError(f"a {message.type!r} message that is none: {exc!r}") from exc
    tell()


def _unavailable() -> MounterUnavailableError:
    return MounterUnavailableError(
        "no mounter is connected to the node plugin",
        "is the mounter's pod running on this node? its log says more; kubelet asks again",
    )
