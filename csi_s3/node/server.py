"""`csi-s3 node`: the privileged half of a node. It knows no S3 and none of its secrets."""

import asyncio
import logging
import os
import signal
from contextlib import suppress

from csi_s3 import csi_pb2_grpc
from csi_s3.config.defaults import FLAG
from csi_s3.config.programs import NodeConfig
from csi_s3.csi.identity_service import IdentityService
from csi_s3.csi.sockets import bound, new_server
from csi_s3.errors import BadOptionError, MounterUnavailableError
from csi_s3.kernel.process_limits import raise_descriptor_limit
from csi_s3.kernel.syscalls import open_fd
from csi_s3.kubernetes.cluster_api import ClusterApi
from csi_s3.node.health import Health
from csi_s3.node.mounter_link import MounterLink
from csi_s3.node.node_deadlines import NodeDeadlines
from csi_s3.node.node_service import NodeService
from csi_s3.node.pod_events import EventSink, PodEvents
from csi_s3.node.registration import Registration
from csi_s3.node.source_mounts import SourceMounts
from csi_s3.node.targets import Targets
from csi_s3.node.volumes import DAY_S, Volumes
from csi_s3.obs import http_endpoint
from csi_s3.obs.metrics import catalog as metrics

log = logging.getLogger(__name__)


async def serve(
    config: NodeConfig,
    *,
    deadlines: NodeDeadlines = NodeDeadlines(),  # noqa: B008 - frozen
    events: EventSink | None = None,
) -> None:
    """Answer kubelet until SIGTERM or SIGINT. Mounts stay: the mounter serves them.

    events: receives Events in place of the cluster's API.

    Raises:
        BadOptionError: a path of the config cannot be used.

    """
    raise_descriptor_limit()  # a mounter may hold a thousand mounts
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = _Node(config, deadlines, events)
    for warning in config.default_mount_options.warnings:
        log.warning("%s: %s", FLAG, warning)
    metrics.build_info()
    health = node.health
    with (
        http_endpoint.serving(config.http_address, health.unready, health.collect),
        bound(node.server, config.endpoint, flag="--endpoint"),
        node.registration.listening(),
    ):
        await _run(node, config, deadlines, stop)
    if node.volumes.counts().mounts == 0:
        _remove_empty_directories(config, node.mounter_link)


class _Node:
    """The parts of the program, connected and not yet started."""

    def __init__(
        self, config: NodeConfig, deadlines: NodeDeadlines, events: EventSink | None
    ) -> None:
        targets = Targets(config.kubelet_dir, config.state_dir)
        sources = SourceMounts(config.state_dir, owner=config.mounter_uid)
        try:
            sources.prepare()
            _prepare_sockets(config)
            self.mounter_link = MounterLink(
                config.mounter, uid=config.mounter_uid, hello_s=deadlines.hello_s
            )
        except OSError as exc:
            raise BadOptionError(
                f"{exc.filename or config.mounter}: {exc.strerror}",
                "--state-dir and the directories of --endpoint and --mounter must be writable",
            ) from exc
        name, self.cluster = config.driver_name, None
        if config.api_server is not None:
            self.cluster = ClusterApi(config.api_server, component=name, host=config.node_id)
        sink = events or (self.cluster if config.events else None)
        self.volumes = Volumes(
            sources,
            targets,
            self.mounter_link,
            pod_events=PodEvents(sink),
            deadlines=deadlines,
            leftovers_kept_s=config.leftover_days * DAY_S,
        )
        self.registration = Registration(
            config.registration_dir, driver_name=name, endpoint=config.kubelet_endpoint
        )
        self.health = Health(self.volumes, self.mounter_link, self.registration)
        self.server = new_server()
        csi_pb2_grpc.add_IdentityServicer_to_server(  # type: ignore[no-untyped-call]
            IdentityService(name, self.health.can_mount), self.server
        )
        service = NodeService(
            config.node_id,
            self.volumes,
            default_options=config.default_mount_options,
            max_volumes=config.max_volumes_announced,
        )
        csi_pb2_grpc.add_NodeServicer_to_server(service, self.server)  # type: ignore[no-untyped-call]


async def _run(
    node: _Node, config: NodeConfig, deadlines: NodeDeadlines, stop: asyncio.Event
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(node.volumes.run()),
            group.create_task(node.mounter_link.run(node.volumes)),
        ]
        if node.cluster is not None and config.startup_taint:
            work = _remove_taint(node, node.cluster, config, deadlines.taint_pause_s)
            tasks.append(group.create_task(work))
        await node.server.start()
        await node.registration.start()
        log.info("node plugin is up", extra={"endpoint": str(config.endpoint)})
        try:
            await stop.wait()
        finally:
            await node.registration.stop()
            await node.server.stop(deadlines.grace_s)
        for task in tasks:
            task.cancel()


def _remove_empty_directories(config: NodeConfig, mounter_link: MounterLink) -> None:
    """Leave nothing on a node that has no volumes: the driver may have been uninstalled.

    Directories are removed only if they are empty. The plugin's own cannot be: the container has it
    mounted. A mounter whose directory is gone ends, and is restarted with the next one.
    """
    mounter_link.remove()
    paths = [config.state_dir / name for name in ("volumes", "spools", "leftovers")]
    paths.append(config.state_dir)
    if _has_link_directory(config):
        paths.append(config.mounter.parent)
    for path in paths:
        with suppress(OSError):
            path.rmdir()


def _has_link_directory(config: NodeConfig) -> bool:
    """Whether the mounter's socket has a directory to itself, below that of the endpoint."""
    return bool(config.mounter_uid) and config.mounter.parent.parent == config.endpoint.parent


def _prepare_sockets(config: NodeConfig) -> None:
    """Make the sockets' directories. The mounter alone may pass through the one of its socket.

    An existing one is not replaced: the mounter's pod has it mounted.
    """
    config.endpoint.parent.mkdir(parents=True, exist_ok=True)
    link = config.mounter.parent
    link.mkdir(parents=True, exist_ok=True)
    if _has_link_directory(config):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with open_fd(os.open(link, flags)) as directory:
            os.fchown(directory, 0, config.mounter_uid)
            os.fchmod(directory, 0o750)


async def _remove_taint(
    node: _Node, cluster: ClusterApi, config: NodeConfig, pause_s: float
) -> None:
    """Remove the startup taint once volumes can be mounted here."""
    await node.registration.wait()
    while not node.mounter_link.is_connected:
        with suppress(MounterUnavailableError):
            await node.mounter_link.wait(pause_s)
    while True:
        if await cluster.remove_taint(config.node_id, config.startup_taint):
            return
        await asyncio.sleep(pause_s)
