"""Registration, as kubelet's plug-in watcher goes about it: over the sockets it finds."""

import signal
import socket as sockets

import grpc

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc, pluginregistration_pb2_grpc
from csi_s3 import pluginregistration_pb2 as api
from tests.rpc.fake_mounter import until
from tests.rpc.test_startup import started

NAME = "s3.csi.aws.com"


def directory(node):
    path = node.base / "plugins_registry"
    path.mkdir(exist_ok=True)
    return path


async def registered(socket, *, error: str = "") -> api.PluginInfo:
    """GetInfo, then NodeGetInfo where it says, then the outcome."""
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        kubelet = pluginregistration_pb2_grpc.RegistrationStub(channel)
        info = await kubelet.GetInfo(api.InfoRequest(), timeout=10)
        async with grpc.aio.insecure_channel(f"unix:{info.endpoint}") as other:
            node = csi_pb2_grpc.NodeStub(other)
            answer = await node.NodeGetInfo(csi.NodeGetInfoRequest(), timeout=10)
            assert answer.node_id == "node-1"
        status = api.RegistrationStatus(plugin_registered=not error, error=error)
        await kubelet.NotifyRegistrationStatus(status, timeout=10)
        return info


async def test_kubelet_finds_the_driver_and_registers_it(idle):
    registry = directory(idle)
    await idle.start("--registration-dir", str(registry))
    socket = registry / f"{NAME}-reg.sock"
    assert [path.name for path in registry.iterdir()] == [socket.name]
    assert socket.stat().st_mode & 0o777 == 0o600
    info = await registered(socket)
    assert (info.type, info.name, info.supported_versions) == ("CSIPlugin", NAME, ["1.0.0"])
    assert info.endpoint == str(idle.socket)
    (line,) = idle.logged("INFO", "kubelet has registered the driver")
    assert line["driver"] == NAME
    await registered(socket)  # as after kubelet's restart
    assert len(idle.logged("INFO", "kubelet has registered the driver")) == 2
    assert await idle.stop() == 0
    assert list(registry.iterdir()) == []
    assert not idle.socket.exists()


async def test_kubelet_is_told_the_path_that_it_sees(idle):
    registry = directory(idle)
    seen = idle.base / "as-kubelet-sees-it"
    seen.symlink_to(idle.socket)
    flags = ("--kubelet-endpoint", str(seen), "--driver-name", "other.example.org")
    await idle.start("--registration-dir", str(registry), *flags)
    info = await registered(registry / "other.example.org-reg.sock")
    assert (info.name, info.endpoint) == ("other.example.org", str(seen))


async def test_a_refusal_is_an_error_in_the_log_with_kubelets_words(idle):
    registry = directory(idle)
    await idle.start("--registration-dir", str(registry))
    await registered(registry / f"{NAME}-reg.sock", error="driver name is taken")
    (line,) = idle.logged("ERROR")
    assert (
        "kubelet refused to register driver s3.csi.aws.com: driver name is taken"
        in (line["message"])
    )
    assert "--kubelet-endpoint" in line["message"]


async def test_a_socket_left_by_a_killed_node_is_replaced(idle):
    registry = directory(idle)
    await idle.start("--registration-dir", str(registry))
    socket = registry / f"{NAME}-reg.sock"
    old = socket.stat().st_ino
    await idle.stop(signal.SIGKILL)
    assert socket.exists()
    await idle.start("--registration-dir", str(registry))
    assert socket.stat().st_ino != old
    await registered(socket)


async def test_the_end_of_a_node_leaves_its_successors_socket(idle):
    """A forced deletion of the pod: the old process lives on for seconds."""
    registry = directory(idle)
    await idle.start("--registration-dir", str(registry))
    socket = registry / f"{NAME}-reg.sock"
    socket.rename(registry / "old")  # out of the way, with its inode
    successor = sockets.socket(sockets.AF_UNIX)
    with successor:
        successor.bind(str(socket))
        await idle.stop()
        assert socket.exists()


async def test_a_long_registration_directory_is_no_obstacle(idle):
    registry = idle.base / ("r" * 120)
    registry.mkdir()
    await idle.start("--registration-dir", str(registry))
    short = idle.base / "r"
    short.symlink_to(registry)  # gRPC's client has the limit, not we
    await registered(short / f"{NAME}-reg.sock")
    await until(lambda: idle.logged("INFO", "kubelet has registered"))


def test_a_registration_directory_that_is_not_there_is_named(tmp_path):
    done = started(tmp_path, registration_dir="/no/such")
    assert done.returncode == 2
    assert done.stderr == (
        "csi-s3: error: --registration-dir /no/such/s3.csi.aws.com-reg.sock: No such file or "
        "directory (its directory must exist)\n"
    )
