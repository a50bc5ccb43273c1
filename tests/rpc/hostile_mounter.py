"""A mounter that says to a node what its test makes up, byte by byte, with any descriptors."""

import asyncio
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from csi_s3.config.volume import BucketConfig, VolumeConfig
from csi_s3.link.report import Report, State
from csi_s3.link.spec import VERSION, MountSpec

WITHIN_S = 30


def spec(mount_id: str = "a" * 32, handle: str = "pv") -> dict[str, Any]:
    volume = VolumeConfig(bucket=BucketConfig(bucket="bucket"))
    return {
        **MountSpec(mount_id="", volume_handle=handle, volume=volume).to_json(),
        "mount_id": mount_id,
    }


def have(mount_id: str = "a" * 32, **changes: object) -> dict[str, Any]:
    return {"type": "have", "spec": spec(mount_id), "init": "00", "report": None, **changes}


def report(mount_id: str = "a" * 32, state: State = State.SERVING) -> dict[str, Any]:
    return {
        "type": "report",
        "report": {**Report(mount_id="", state=state).to_json(), "mount_id": mount_id},
    }


class HostileMounter:
    """Used as a context manager: one connection."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.connect(str(path))
        self._sock.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    async def say(self, message: object, fds: Sequence[int] = ()) -> None:
        """Send a message: bytes as they are, else as JSON. ConnectionError: it was cut off."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    socket.send_fds(self._sock, [data], list(fds))
                except BlockingIOError:
                    await asyncio.sleep(0.01)
                else:
                    return

    async def greet(self) -> None:
        await self.say({"type": "hello", "version": VERSION, "pid": 1})

    async def connect(self) -> None:
        await self.greet()
        await self.say({"type": "ready"})

    def end(self) -> None:
        """Say that nothing more comes."""
        self._sock.shutdown(socket.SHUT_WR)

    async def is_cut_off(self) -> bool:
        """Wait until node closes the connection; what it says before is skipped."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    data = await asyncio.get_running_loop().sock_recv(self._sock, 1 << 18)
                except ConnectionError:
                    return True
                if not data:
                    return True
