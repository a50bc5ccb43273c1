"""A mounter for tests: speaks the link with a real node, and does as a test tells it."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csi_s3.errors import VolumeError
from csi_s3.link import channel
from csi_s3.link.report import Notice, Report, State, Usage
from csi_s3.link.spec import VERSION, MountSpec
from tests.rpc.fake_fuse import FakeFuse


class Served:
    def __init__(self, spec: MountSpec, init: bytes, fd: int) -> None:
        self.spec, self.init = spec, init
        self.fd = fd  # the keeper's duplicate
        self.fuse: FakeFuse | None = None


class FakeMounter:
    """Used as an async context manager; `die` is the end of the process with all its workers.

    refuse: what to answer to `serve`, by bucket. wrong: what is wrong when asked, by bucket. gate:
    while clear, `serve` waits. mute: mounts are taken and never answered for.
    link: FakeFuse's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mounts: dict[str, Served] = {}
        self.messages: list[tuple[str, Any]] = []
        self.refuse: dict[str, VolumeError] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.mute = False
        self.link = b""
        self.usage = Usage(open_files=1, inodes=7)
        self.wrong: dict[str, VolumeError] = {}
        self.last_words: VolumeError | None = None  # of workers that end by themselves
        self._channel: channel.Channel | None = None
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self):
        await self.connect()
        return self

    async def __aexit__(self, *_):
        await self.die()

    def count(self, type_: str) -> int:
        return sum(1 for name, _ in self.messages if name == type_)

    def by_bucket(self, bucket: str) -> Served:
        (found,) = [s for s in self.mounts.values() if s.spec.volume.bucket.bucket == bucket]
        return found

    async def connect(self) -> None:
        """Say hello and what is served already."""
        self._channel = channel.connect(self.path)
        await self._channel.send("hello", {"version": VERSION, "pid": os.getpid()})
        for served in self.mounts.values():
            report = self._serving(served.spec.mount_id)
            await self._channel.send(
                "have",
                {
                    "spec": served.spec.to_json(),
                    "init": served.init.hex(),
                    "report": report.to_json(),
                },
                [served.fd],
            )
        await self._channel.send("ready", {})
        self._start(self._listen(self._channel))

    async def reconnect(self) -> None:
        """As after node's restart: the workers live on."""
        assert self._channel is not None
        self._channel.close()
        await until(self.path.exists)
        while True:
            try:
                await self.connect()
            except OSError:
                await asyncio.sleep(0.02)
            else:
                return

    async def die(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._channel is not None:
            self._channel.close()
        for served in list(self.mounts.values()):
            self._close(served)

    async def kill_worker(self, bucket: str, error: VolumeError | None) -> None:
        """One worker's process ends, and the keeper says so."""
        served = self.by_bucket(bucket)
        self._close(served)
        state = State.ENDED if error is None else State.FAILED
        await self.report(Report(mount_id=served.spec.mount_id, state=state, error=error))

    def _serving(self, mount_id: str) -> Report:
        served = self.mounts.get(mount_id)
        wrong = served and self.wrong.get(served.spec.volume.bucket.bucket)
        return Report(mount_id=mount_id, state=State.SERVING, usage=self.usage, error=wrong)

    async def notice(self, notice: Notice) -> None:
        assert self._channel is not None
        await self._channel.send("notice", {"notice": notice.to_json()})

    async def report(self, report: Report) -> None:
        assert self._channel is not None
        with contextlib.suppress(ConnectionError):  # as the keeper: the node is gone
            await self._channel.send("report", {"report": report.to_json()})

    def _close(self, served: Served) -> None:
        if self.mounts.get(served.spec.mount_id) is served:
            del self.mounts[served.spec.mount_id]
            os.close(served.fd)
            if served.fuse is not None:
                served.fuse.close()

    def _start(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, connection: channel.Channel) -> None:
        while (message := await connection.receive()) is not None:
            self.messages.append((message.type, message.body))
            if message.type == "serve":
                served = Served(
                    MountSpec.from_json(message.body["spec"]),
                    bytes.fromhex(message.body["init"]),
                    message.take_fd(),
                )
                self.mounts[served.spec.mount_id] = served
                self._start(self._serve(served))
            elif message.type == "usage" and not self.mute:
                mount_id = message.body["mount_id"]
                await self.report(self._serving(mount_id))

    async def _serve(self, served: Served) -> None:
        await self.gate.wait()
        mount_id = served.spec.mount_id
        error = self.refuse.get(served.spec.volume.bucket.bucket)
        if error is not None:
            self._close(served)
            await self.report(Report(mount_id=mount_id, state=State.FAILED, error=error))
            return
        if self.mute:
            return
        served.fuse = FakeFuse(os.dup(served.fd), served.init, link=self.link)
        await self.report(Report(mount_id=mount_id, state=State.SERVING))
        await until(served.fuse.over.is_set, within_s=3600)
        if self.mounts.get(mount_id) is served:
            self._close(served)
            error = self.last_words
            await self.report(Report(mount_id=mount_id, state=State.ENDED, error=error))


async def until(condition: Callable[[], object], within_s: float = 20) -> None:
    """Wait for something that another process does and does not announce."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)
