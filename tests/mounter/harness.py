"""A keeper under test with the node it talks to: real sockets, real processes, fake volumes."""

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from csi_s3.config.volume import BucketConfig, TreeConfig, VolumeConfig
from csi_s3.link.channel import Channel, Message, listen
from csi_s3.link.report import Report
from csi_s3.link.spec import MountSpec
from csi_s3.mounter.keeper import Keeper
from csi_s3.mounter.memory_shares import MemoryShares
from csi_s3.mounter.mounter_deadlines import MounterDeadlines
from csi_s3.mounter.zygote_client import ZygoteClient

ZYGOTE = (sys.executable, str(Path(__file__).with_name("zygote_double.py")))
INIT = "68000000"
WITHIN_S = 20


def spec(handle: str = "obedient", mount_id: str = "a" * 32, **more: str) -> MountSpec:
    tree = TreeConfig(drain_timeout_s=0.0)
    volume = VolumeConfig(bucket=BucketConfig(bucket="b"), tree=tree)
    return MountSpec(mount_id=mount_id, volume_handle=handle, volume=volume, **more)


class Node:
    """The side that listens: accepts the keeper's connections and says what node says."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sock = listen(path)
        self.channel: Channel | None = None

    async def accept(self) -> list[Message]:
        """Wait for a connection; return its messages up to and with `ready`."""
        async with asyncio.timeout(WITHIN_S):
            sock, _ = await asyncio.get_running_loop().sock_accept(self._sock)
            self.channel = Channel(sock)
            messages = [await self.channel.receive()]
            while messages[-1].type != "ready":
                messages.append(await self.channel.receive())
        return messages

    def hang_up(self) -> None:
        self.channel.close()
        self.channel = None

    def go_away(self) -> None:
        self._sock.close()
        self.hang_up()

    def come_back(self) -> None:
        self._sock = listen(self._path)

    async def serve(self, handle: str = "obedient", mount_id: str = "a" * 32, **more: str) -> int:
        """Ask for a mount; returns the read end of what stands for its fuse descriptor."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        body = {"spec": spec(handle, mount_id, **more).to_json(), "init": INIT}
        await self.channel.send("serve", body, [write])
        os.close(write)
        return read

    async def say(self, type_: str, mount_id: str = "a" * 32) -> None:
        await self.channel.send(type_, {"mount_id": mount_id})

    async def report(self) -> Report:
        async with asyncio.timeout(WITHIN_S):
            message = await self.channel.receive()
        assert message is not None, "the keeper ended the connection"
        assert message.type == "report", message
        return Report.from_json(message.body["report"])

    async def end(self) -> None:
        """The keeper closes its side, and says nothing more before."""
        async with asyncio.timeout(WITHIN_S):
            assert await self.channel.receive() is None

    def close(self) -> None:
        if self.channel is not None:
            self.channel.close()
        self._sock.close()


class Mounter:
    def __init__(self, node: Node, keeper: Keeper) -> None:
        self.node, self.keeper, self.stop = node, keeper, asyncio.Event()
        self.task: asyncio.Task[None] | None = None


@asynccontextmanager
async def mounter(
    path: Path,
    *zygote_args: str,
    shares: MemoryShares | None = None,
    credentials_dir: Path | None = None,
    **deadlines_s: float,
):
    """A keeper that is connected to a node; leaving stops it and waits for its end."""
    node = Node(path)
    zygote_client = ZygoteClient([*ZYGOTE, *zygote_args])
    deadlines = MounterDeadlines(**deadlines_s)
    keeper = Keeper(path, zygote_client, shares, deadlines, credentials_dir=credentials_dir)
    found = Mounter(node, keeper)
    found.task = asyncio.create_task(found.keeper.run(found.stop))
    try:
        messages = await node.accept()
        assert [m.type for m in messages] == ["hello", "ready"]
        yield found
    finally:
        found.stop.set()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait({found.task})
        node.close()
    found.task.result()


async def line(fd: int) -> str:
    """What the worker wrote into its descriptor; "" when every writer has closed it."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(WITHIN_S):
            await ready.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 100).decode().strip()


@pytest.fixture
async def running(tmp_path):
    async with mounter(tmp_path / "node.sock") as found:
        yield found


@pytest.fixture
def node(running):
    return running.node
