"""The mounter's connection: node listens, and serves one mounter at a time.

Everything that a mounter sends is treated as an attacker's: see docs/security.md.

After a forced deletion an old and a new mounter run at the same time for seconds: the new one waits
in the socket's backlog until the old one is gone, so each mount has one owner. As long as live
mounts are not taken over, the end of a connection is the end of its mounts.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from csi_s3.aio import Pace
from csi_s3.errors import BadOptionError, MounterUnavailableError
from csi_s3.kernel.descriptors import are_few_closing, discard, is_fuse_device
from csi_s3.link import messages, unix_socket
from csi_s3.link.channel import (
    MAX_MESSAGE_BYTES,
    Channel,
    MessageTooLargeError,
    close_all,
    listen,
)
from csi_s3.link.report import Notice, Report
from csi_s3.link.spec import VERSION, MountSpec

MAX_GREETING = 1000  # messages before `ready`: one for each mount that is held, and two
MAX_GREETING_BYTES = 16 << 20  # one message has some 2 KiB
MESSAGES_PER_S = 1000
PAUSE_S = 1.0  # after a mounter that was disconnected

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMount:
    """A mount that a mounter served before node (re)started. The receiver owns fd.

    spec: what the mounter says of it; only its id has been checked.
    fd: a descriptor of /dev/fuse, of whichever connection.
    report: the last one of its worker, if any.
    """

    spec: MountSpec
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
        """Serve one mounter after the other; nothing that one of them sends ends it."""
        loop = asyncio.get_running_loop()
        is_logged = False
        with self._socket:
            while True:
                if not are_few_closing():  # what earlier ones have sent
                    if not is_logged:
                        log.error(
                            "no mounter can connect: descriptors that mounters have sent do not"
                            " close; delete the mounter's pod, and see which file system hangs"
                        )
                    is_logged = True
                    await asyncio.sleep(PAUSE_S)
                    continue
                is_logged = False
                try:
                    peer, _ = await loop.sock_accept(self._socket)
                except OSError as exc:  # EMFILE
                    log.error("no mounter can connect: %s", exc.strerror)  # noqa: TRY400
                    await asyncio.sleep(PAUSE_S)
                    continue
                with contextlib.closing(Channel(peer, discard=discard)) as channel:
                    is_orderly = self._is_trusted(channel) and await self._serve(channel, listener)
                if not is_orderly:
                    await asyncio.sleep(PAUSE_S)

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

    async def _serve(self, channel: Channel, listener: MounterListener) -> bool:
        """Serve a mounter until its connection ends. False: it was disconnected."""
        try:
            held = await _greeted(channel, self._hello_s)
        except ConnectionError as exc:
            log.warning("a mounter connected and violated the protocol: %s", exc)
            return False
        except Exception:
            log.exception("internal error; a mounter is refused", extra={"code": "internal"})
            return False
        is_orderly = await self._serve_adopted(channel, held, listener)
        _lose(listener)
        return is_orderly

    async def _serve_adopted(
        self, channel: Channel, held: Sequence[HeldMount], listener: MounterListener
    ) -> bool:
        try:
            await listener.adopt(held)
            log.info("mounter is connected", extra={"mounts": len(held)})
            self._channel = channel
            self._connected.set()
            await _dispatch(channel, listener)
            log.warning("the mounter's connection ended; its mounts end with it")
        except ConnectionError as exc:
            log.warning("the mounter violated the protocol and was disconnected: %s", exc)
            return False
        except Exception:  # what one mounter causes must not end the node plugin
            log.exception("internal error; the mounter is disconnected", extra={"code": "internal"})
            return False
        finally:
            self._channel = None
            self._connected.clear()
        return True


def _lose(listener: MounterListener) -> None:
    try:
        listener.lost()
    except Exception:
        log.exception("internal error at the end of a mounter", extra={"code": "internal"})


async def _greeted(channel: Channel, within_s: float) -> list[HeldMount]:
    """Take a mounter's messages up to and with `ready`.

    Raises:
        ConnectionError: it violates the protocol. Nothing is held.

    """
    held: dict[str, HeldMount] = {}
    try:
        async with asyncio.timeout(within_s):
            await _greet(channel, held)
    except BaseException as exc:
        close_all(*(mount.fd for mount in held.values()))
        if isinstance(exc, TimeoutError):
            raise ConnectionError(f"no `ready` within {within_s:.0f} s") from exc
        raise
    return list(held.values())


async def _greet(channel: Channel, held: dict[str, HeldMount]) -> None:
    expected, size_bytes = {"hello"}, 0
    for _ in range(MAX_GREETING):
        message = await channel.receive()
        if message is None:
            raise ConnectionError("it disconnected before it was ready")
        try:
            size_bytes += message.size_bytes
            if size_bytes > MAX_GREETING_BYTES:
                raise ConnectionError(f"more than {MAX_GREETING_BYTES >> 20} MiB before `ready`")
            if message.type not in expected:
                raise ConnectionError(f"{message.type!r} instead of {sorted(expected)}")
            body = messages.read(message, messages.GREETING)
            if isinstance(body, messages.Ready):
                return
            if isinstance(body, messages.Hello):
                _check_version(body)
            if isinstance(body, messages.Have):
                mount_id = body.spec.mount_id
                if mount_id in held:
                    raise ConnectionError(f"mount {mount_id} twice")
                if not is_fuse_device(message.fds[0]):
                    raise ConnectionError(f"the descriptor of mount {mount_id} is not /dev/fuse")
                fd = message.take_fd()
                held[mount_id] = HeldMount(spec=body.spec, fd=fd, report=body.report)
            expected = {"have", "ready"}
        finally:
            message.close_fds()
    raise ConnectionError(f"no `ready` among its first {MAX_GREETING} messages")


def _check_version(hello: messages.Hello) -> None:
    if hello.version != VERSION:
        raise ConnectionError(
            f"its version of the link is {hello.version}, that of this node"
            f" plugin {VERSION}: delete the mounter's pod so that it gets the same image"
        )


async def _dispatch(channel: Channel, listener: MounterListener) -> None:
    pace, is_logged = Pace(MESSAGES_PER_S), False
    while (message := await channel.receive()) is not None:
        try:
            await pace.turn()
            body = messages.read(message, messages.FROM_MOUNTER)
        finally:
            message.close_fds()
        if isinstance(body, messages.ReportBody):
            listener.reported(body.report)
        elif isinstance(body, messages.NoticeBody):
            listener.noticed(body.notice)
        elif not is_logged:  # a mounter may be newer than this node
            log.info("the mounter sent %r, which this version does not know", message.type)
            is_logged = True


def _unavailable() -> MounterUnavailableError:
    return MounterUnavailableError(
        "no mounter is connected to the node plugin",
        "is the mounter's pod running on this node? see its log; kubelet repeats the request",
    )
