"""`csi-s3 node`: the privileged half of a node. Knows no S3 and no secret of it."""

import asyncio
import logging
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from csi_s3 import csi_pb2_grpc
from csi_s3.config.node import NodeConfig
from csi_s3.errors import BadOptionError
from csi_s3.node.identity import Identity
from csi_s3.node.interceptors import Answering
from csi_s3.node.mounters import Mounters
from csi_s3.node.node import Node
from csi_s3.node.sources import Sources
from csi_s3.node.targets import Targets
from csi_s3.node.volumes import Volumes

GRACE_S = 10.0  # for calls under way at SIGTERM

log = logging.getLogger(__name__)


async def serve(config: NodeConfig) -> None:
    """Answer kubelet until SIGTERM or SIGINT. Mounts stay: they are the mounter's to serve.

    Raises:
        BadOptionError: a path of the config cannot be used.

    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    targets = Targets(config.kubelet_dir)
    sources = Sources(config.state_dir, owner=config.mounter_uid)
    try:
        sources.prepare()
        mounters = Mounters(config.mounter, uid=config.mounter_uid)
    except OSError as exc:
        raise BadOptionError(
            f"{exc.filename or config.mounter}: {exc.strerror}",
            "--state-dir must be writable, and the directory of --mounter must exist",
        ) from exc
    volumes = Volumes(sources, targets, mounters)
    server = grpc.aio.server(interceptors=[Answering()])
    csi_pb2_grpc.add_IdentityServicer_to_server(  # type: ignore[no-untyped-call]
        Identity(config.driver_name, mounters), server
    )
    csi_pb2_grpc.add_NodeServicer_to_server(  # type: ignore[no-untyped-call]
        Node(config.node_id, volumes), server
    )
    with _bound(server, config.endpoint):
        async with asyncio.TaskGroup() as group:
            owners = [group.create_task(volumes.run()), group.create_task(mounters.run(volumes))]
            await server.start()
            log.info("node plugin is up", extra={"endpoint": str(config.endpoint)})
            try:
                await stop.wait()
            finally:
                await server.stop(GRACE_S)
            for owner in owners:
                owner.cancel()


@contextmanager
def _bound(server: grpc.aio.Server, endpoint: Path) -> Iterator[None]:
    """Give the server its socket, for root only; a stale one is replaced.

    Through /proc/self/fd: the path may be longer than sun_path's 107 bytes.
    """
    try:
        directory = os.open(endpoint.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise BadOptionError(
            f"--endpoint {endpoint}: {exc.strerror}", "its directory must exist"
        ) from exc
    try:
        _remove_stale(endpoint.name, directory)
        old = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:/proc/self/fd/{directory}/{endpoint.name}")
        except RuntimeError as exc:
            raise BadOptionError(
                f"--endpoint {endpoint}: cannot listen there", "expected a path of this machine"
            ) from exc
        finally:
            os.umask(old)
        yield
    finally:
        os.close(directory)


def _remove_stale(name: str, directory: int) -> None:
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BadOptionError(f"--endpoint: {name!r} exists and is no socket", "give another path")
    os.unlink(name, dir_fd=directory)
