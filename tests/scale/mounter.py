"""A real mounter (`csi-s3 mounter`) and the node's side of its socket, for a suite's volumes.

As node does, it mounts /dev/fuse, reads INIT and hands the descriptor over. It never touches a
mount, so that it goes on when one hangs.
"""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from csi_s3.config.volume import BucketConfig, TreeConfig, VolumeConfig
from csi_s3.kernel import fusectl, mount, tuning
from csi_s3.kernel.mountinfo import mount_at
from csi_s3.link.channel import Channel, listen
from csi_s3.link.report import Report, State
from csi_s3.link.spec import MountSpec
from tests import slow_steps
from tests.scraping import Scrape, free_port, scrape

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
ADDRESS_SPACE_BYTES = 6 << 30  # of each process: a bug must not take the machine
START_WITHIN_S = 60
END_WITHIN_S = 90
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}


class Volume:
    """One mounted volume.

    pid: its worker's. fd: a duplicate of the connection's descriptor. is_aborted: by `abort`.
    """

    def __init__(self, name: str, path: Path, fd: int, minor: int) -> None:
        self.name, self.path, self.fd, self.minor = name, path, fd, minor
        self.pid = 0
        self.is_aborted = False
        self.reports: asyncio.Queue[Report] = asyncio.Queue()

    def abort(self) -> None:
        """Kill the worker, and free every process that waits in the mount."""
        self.is_aborted = True
        with suppress(ProcessLookupError):
            if self.pid:  # else all of this process's group
                os.kill(self.pid, signal.SIGKILL)
        fusectl.abort(self.minor, fd=self.fd)


class Mounter:
    """Lifetime: `running`. Concurrency: one task uses it; one reads what the keeper sends."""

    def __init__(self, base: Path, channel: Channel, pid: int, http_port: int) -> None:
        self.base, self.pid = base, pid
        self._channel, self._http_port = channel, http_port
        self._volumes: dict[str, Volume] = {}
        self._numbers = iter(range(1, 1 << 20))

    async def receive(self) -> None:
        """Read reports until the connection ends."""
        while (message := await self._channel.receive()) is not None:
            message.close_fds()
            if message.type == "report":
                report = Report.from_json(message.body["report"])
                if (volume := self._volumes.get(report.mount_id)) is not None:
                    volume.reports.put_nowait(report)

    async def mount(
        self, name: str, endpoint: str, tree: TreeConfig, *, max_attempts: int = 3
    ) -> Volume:
        """Mount a volume; of the same name: with the same state directory, as a successor."""
        path, state = self.base / f"{next(self._numbers):032x}", self.state_dir(name)
        path.mkdir()
        state.mkdir(parents=True, exist_ok=True)
        bucket = BucketConfig(
            bucket="bucket",
            endpoint_url=endpoint,
            force_path_style=True,
            region="us-east-1",
            max_attempts=max_attempts,
        )
        spec = MountSpec(
            mount_id=_mount_id(path),
            volume_handle=name,
            volume=VolumeConfig(bucket=bucket, tree=tree),
            state_dir=str(state),
        )
        fd = mount.open_fuse()
        mount.mount_fuse(fd, path, source_name="scale")
        entry = mount_at(str(path))
        volume = self._volumes[spec.mount_id] = Volume(name, path, fd, entry.minor)
        init = mount.read_init(fd, START_WITHIN_S)
        before = self.workers()
        await self._channel.send("serve", {"spec": spec.to_json(), "init": init.hex()}, [fd])
        report = await self._report(volume, START_WITHIN_S)
        if report.state is not State.SERVING:
            raise RuntimeError(f"volume {name} is not served: {report.error}")
        tuning.set_read_ahead(entry.device)
        (volume.pid,) = self.workers() - before
        return volume

    def state_dir(self, name: str) -> Path:
        return self.base / "state" / name

    async def unmount(self, volume: Volume) -> Report:
        """Returns the last report, of an orderly end or of a worker that died."""
        mount.umount(volume.path)
        os.close(volume.fd)
        report = await self._report(volume, END_WITHIN_S)
        while report.state is State.SERVING:
            report = await self._report(volume, END_WITHIN_S)
        del self._volumes[_mount_id(volume.path)]
        return report

    async def _report(self, volume: Volume, within_s: float) -> Report:
        async with asyncio.timeout(within_s):
            return await volume.reports.get()

    def workers(self) -> set[int]:
        """The processes below the zygote."""
        return {pid for zygote in children(self.pid) for pid in children(zygote)}

    async def scrape(self) -> Scrape:
        return await asyncio.to_thread(scrape, self._http_port)

    async def end(self) -> None:
        for volume in list(self._volumes.values()):
            volume.abort()
            mount.umount(volume.path)
            os.close(volume.fd)
        self._channel.close()


def children(pid: int) -> set[int]:
    found: set[int] = set()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


@asynccontextmanager
async def running(base: Path) -> AsyncIterator[Mounter]:
    """Start a mounter that logs to base/mounter.log, and wait until it has connected."""
    sock, http_port = base / "node.sock", free_port()
    listening = listen(sock)
    words = [sys.executable, "-m", "csi_s3", "mounter", "--socket", str(sock)]
    words += ["--http-address", f"127.0.0.1:{http_port}"]
    with (base / "mounter.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *("prlimit", f"--as={ADDRESS_SPACE_BYTES}", "setpriv", "--pdeathsig", "KILL", *words),
            env={
                "PATH": "/usr/bin:/bin",
                **slow_steps.environment(slow_steps.PROMISED_S),
                "CSI_S3_ALLOW_LOOPBACK": "on",
                **KEYS,
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    try:
        async with asyncio.timeout(START_WITHIN_S):
            accepted, _ = await asyncio.get_running_loop().sock_accept(listening)
            channel = Channel(accepted)
            while (message := await channel.receive()).type != "ready":
                message.close_fds()
        mounter = Mounter(base, channel, process.pid, http_port)
        receiving = asyncio.create_task(mounter.receive())
        try:
            yield mounter
        finally:
            await mounter.end()
            receiving.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        listening.close()


def _mount_id(path: Path) -> str:
    return hashlib.sha256(path.name.encode()).hexdigest()[:32]
