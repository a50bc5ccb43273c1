"""A node plugin in a process of its own, called over its real socket as kubelet calls it."""

import asyncio
import contextlib
import ctypes
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import grpc
import pytest

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc
from csi_s3.kernel import syscalls
from csi_s3.kernel.mountinfo import MountEntry, mounts_at, parse_mountinfo
from tests import slow_steps
from tests.rpc.fake_mounter import FakeMounter, until

MS_SHARED = 1 << 20
ROOT = Path(__file__).parents[2]
RWX = csi.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER


def mounts_of(pid: int | str = "self") -> list[MountEntry]:
    return list(parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_bytes()))


def capability(flags: Sequence[str] = (), *, mode: int = RWX, group: str = ""):
    mount = csi.VolumeCapability.MountVolume(mount_flags=flags, volume_mount_group=group)
    return csi.VolumeCapability(mount=mount, access_mode=csi.VolumeCapability.AccessMode(mode=mode))


def pod_info(name: str) -> dict[str, str]:
    """What kubelet adds for a CSIDriver with podInfoOnMount."""
    at = "csi.storage.k8s.io/"
    return {
        f"{at}pod.name": name,
        f"{at}pod.namespace": "science",
        f"{at}pod.uid": f"uid-of-{name}",
        f"{at}serviceAccount.name": "default",
        f"{at}ephemeral": "false",
    }


class NodeUnderTest:
    """Directories on a shared mount (as a node's are), the process, and a client."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.kubelet = base / "kubelet"
        self.state = self.kubelet / "plugins" / "s3.csi.aws.com" / "state"  # as the chart has it
        self.socket, self.mounter_socket = base / "csi.sock", base / "sock" / "node.sock"
        for directory in (self.kubelet, self.state, self.mounter_socket.parent):
            directory.mkdir(parents=True)
        self.log = base / "node.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.aio.Channel | None = None
        self._others: list[subprocess.Popen[bytes]] = []

    async def start(self, *flags: str, patience_s: float = 30, within: Sequence[str] = ()) -> None:
        """within: a program that starts it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*within, sys.executable, "-m", "tests.rpc.run_node", str(patience_s)),
                    *("--endpoint", f"unix://{self.socket}", "--node-id", "node-1"),
                    *("--state-dir", str(self.state), "--kubelet-dir", str(self.kubelet)),
                    *("--mounter", str(self.mounter_socket), *flags),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        ups = sum(1 for line in self.lines() if line["message"] == "node plugin is up")
        await until(
            lambda: (
                self.process.poll() is not None
                or sum(1 for line in self.lines() if line["message"] == "node plugin is up") > ups
            )
        )
        assert self.process.poll() is None, self.log.read_text()
        self.connect()

    def connect(self) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{self.socket}")
        self.identity = csi_pb2_grpc.IdentityStub(self._channel)
        self.rpc = csi_pb2_grpc.NodeStub(self._channel)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        await self._channel.close()
        self.process.send_signal(number)
        await until(lambda: self.process.poll() is not None)
        return self.process.returncode

    async def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            await self.stop(signal.SIGKILL)
        for other in self._others:
            other.kill()
            other.wait(10)

    def target(self, name: str) -> Path:
        """A target path as kubelet makes it: with its parent."""
        path = self.kubelet.joinpath("pods", name, "volumes", "kubernetes.io~csi", "pv", "mount")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    async def publish(
        self, target: Path | str, *flags: str, timeout: float = 60, **more: object
    ) -> None:
        """Parameters: `publish_request`'s."""
        request = self.publish_request(target, *flags, **more)
        await self.rpc.NodePublishVolume(request, timeout=timeout)

    def publish_request(
        self,
        target: Path | str,
        *flags: str,
        handle: str = "pv",
        bucket: str = "bucket",
        readonly: bool = False,
        mode: int = RWX,
        group: str = "",
        context: Mapping[str, str] | None = None,
        pod: str = "",
        **more: object,
    ) -> csi.NodePublishVolumeRequest:
        return csi.NodePublishVolumeRequest(
            volume_id=handle,
            target_path=str(target),
            volume_capability=capability(flags, mode=mode, group=group),
            readonly=readonly,
            volume_context={
                **({"bucketName": bucket} if context is None else context),
                **(pod_info(pod) if pod else {}),
            },
            **more,
        )

    async def unpublish(self, target: Path | str, *, handle: str = "pv") -> None:
        request = csi.NodeUnpublishVolumeRequest(volume_id=handle, target_path=str(target))
        await self.rpc.NodeUnpublishVolume(request, timeout=10)

    async def stats(self, target: Path | str, *, handle: str = "pv"):
        request = csi.NodeGetVolumeStatsRequest(volume_id=handle, volume_path=str(target))
        return await self.rpc.NodeGetVolumeStats(request, timeout=20)

    def fuse_mounts(self, pid: int | str = "self") -> dict[str, MountEntry]:
        """Of this node, by mount point."""
        return {
            e.mount_point: e
            for e in mounts_of(pid)
            if e.is_fuse and e.mount_point.startswith(f"{self.base}/")
        }

    def volume_directories(self) -> list[str]:
        return [p.name for p in (self.state / "volumes").iterdir()]

    async def wait_until_clean(self) -> None:
        """Nothing is mounted, and no directory of a mount is left."""
        await until(lambda: not self.fuse_mounts() and not self.volume_directories())

    def lines(self) -> list[dict]:
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_bytes().splitlines() if line[:1] == b"{"]

    def logged(self, level: str, text: str = "") -> list[dict]:
        return [e for e in self.lines() if e["level"] == level and text in e["message"]]

    def events(self) -> list[tuple[str, str, str]]:
        """Events on pods: pod, reason and text."""
        return [
            (e["pod"].split("/")[1], e["reason"], e["text"])
            for e in self.logged("INFO", "event")
            if "reason" in e
        ]

    def namespace(self, propagation: str) -> subprocess.Popen[bytes]:
        """A process in a mount namespace of its own: mounts propagate to `unchanged` ones only."""
        other = subprocess.Popen(
            ["unshare", "-m", "--propagation", propagation, "sh", "-c", "echo up; exec sleep 600"],
            stdout=subprocess.PIPE,
        )
        self._others.append(other)
        assert other.stdout.readline() == b"up\n"
        other.stdout.close()
        return other


@contextlib.contextmanager
def real_mounter(node: NodeUnderTest, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`csi-s3 mounter` with nothing in its environment but env."""
    path = node.base / "mounter.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "csi_s3", "mounter", "--socket", str(node.mounter_socket)],
            env={
                "PATH": "/usr/bin:/bin",
                "CSI_S3_ALLOW_LOOPBACK": "on",
                **slow_steps.environment(),
                **env,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
    slow_steps.assert_none_in([path])


def run(*argv: str | Path, inside: int | None = None) -> subprocess.CompletedProcess[str]:
    """A program that may touch a mount; with inside, in that process's mount namespace."""
    prefix = [] if inside is None else ["nsenter", "-t", str(inside), "-m"]
    return subprocess.run(
        [*prefix, *map(str, argv)], capture_output=True, text=True, timeout=20, check=False
    )


async def refused(call) -> tuple[grpc.StatusCode, str]:
    """What a call was answered that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def is_dead(path: Path) -> None:
    """Wait until the mount is there and dead, so that look-ups in it fail."""
    await until(lambda: not mounts_at(str(path)) or "not connected" in run("ls", path).stderr)
    assert mounts_at(str(path)), "the mount was taken away"


@pytest.fixture(scope="session", autouse=True)
def grpc_is_up(tmp_path_factory) -> Iterator[None]:
    """gRPC's poller and its descriptors are the process's, made at the first call."""

    async def call_nobody() -> None:
        grpc.aio.init_grpc_aio()  # inside: without a loop it fails where an earlier test ended one
        nobody = tmp_path_factory.mktemp("unserved") / "s"
        async with grpc.aio.insecure_channel(f"unix:{nobody}") as channel:
            stub = csi_pb2_grpc.IdentityStub(channel)
            await refused(stub.Probe(csi.ProbeRequest(), timeout=2))

    asyncio.run(call_nobody())
    yield
    grpc.aio.shutdown_grpc_aio()


@pytest.fixture
def base() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="node-"))  # pytest's own lets only root pass
    syscalls.mount("none", str(directory), "tmpfs", 0, "mode=755")
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"none", str(directory).encode(), None, MS_SHARED, None) == 0
    try:
        yield directory
    finally:
        for entry in mounts_of():
            if entry.fs_type == "fuse.csi-s3" and entry.mount_point.startswith(f"{directory}/"):
                with contextlib.suppress(OSError):
                    syscalls.umount(entry.mount_point, syscalls.MNT_FORCE | syscalls.MNT_DETACH)
        syscalls.umount(str(directory), syscalls.MNT_DETACH)
        directory.rmdir()


@pytest.fixture
async def idle(base):
    """A node's directories; not started."""
    node = NodeUnderTest(base)
    try:
        yield node
    finally:
        await node.close()


@pytest.fixture
async def alone(idle):
    """A node without a mounter, of little patience."""
    await idle.start(patience_s=1)
    return idle


@pytest.fixture
async def node(idle):
    await idle.start()
    return idle


@pytest.fixture
async def mounter(node):
    async with FakeMounter(node.mounter_socket) as mounter:
        await until(lambda: node.logged("INFO", "mounter is connected"))
        yield mounter
