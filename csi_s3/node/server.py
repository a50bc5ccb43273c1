"""`csi-s3 node`: the privileged half of a node. Knows no S3 and no secret of it."""

import asyncio
import logging
import os
import signal
from contextlib import suppress

import grpc

from csi_s3 import csi_pb2_grpc
from csi_s3.config.defaults import FLAG
from csi_s3.config.programs import NodeConfig
from csi_s3.csi.identity_service import IdentityService
from csi_s3.csi.interceptors import ErrorInterceptor
from csi_s3.csi.sockets import bound
from csi_s3.errors import BadOptionError, MounterUnavailableError
from csi_s3.kubernetes.cluster_api import ClusterApi
from csi_s3.node.health import Health
from csi_s3.node.mounter_link import MounterLink
from csi_s3.node.node_service import NodeService
from csi_s3.node.registration import Registration
from csi_s3.node.source_mounts import SourceMounts
from csi_s3.node.targets import Targets
from csi_s3.node.volumes import Volumes
from csi_s3.obs import http_endpoint
from csi_s3.obs.http_endpoint import Probes
from csi_s3.obs.metrics import catalog as metrics

GRACE_S = 10.0  # for calls under way at SIGTERM
TAINT_AGAIN_S = 15.0  # after a failure: while the taint is there, no pod is scheduled here

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
    sources = SourceMounts(config.state_dir, owner=config.mounter_uid)
    try:
        sources.prepare()
        _prepare_sockets(config)
        mounter_link = MounterLink(config.mounter, uid=config.mounter_uid)
    except OSError as exc:
        raise BadOptionError(
            f"{exc.filename or config.mounter}: {exc.strerror}",
            "--state-dir and the directories of --endpoint and --mounter must be writable",
        ) from exc
    for warning in config.default_mount_options.warnings:
        log.warning("%s: %s", FLAG, warning)
    cluster = _cluster(config)
    events = cluster if config.events else None
    volumes = Volumes(sources, targets, mounter_link, events=events)
    registration = Registration(
        config.registration_dir, driver_name=config.driver_name, endpoint=config.kubelet_endpoint
    )
    health = Health(volumes, mounter_link, registration)
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    csi_pb2_grpc.add_IdentityServicer_to_server(  # type: ignore[no-untyped-call]
        IdentityService(config.driver_name, health.can_mount), server
    )
    csi_pb2_grpc.add_NodeServicer_to_server(  # type: ignore[no-untyped-call]
        NodeService(
            config.node_id,
            volumes,
            default_options=config.default_mount_options,
            max_volumes=config.max_volumes_announced,
        ),
        server,
    )
    metrics.build_info()
    with (
        http_endpoint.serving(
            config.http_address,
            Probes(live=health.live, ready=health.unready, collect=health.collect),
        ),
        bound(server, config.endpoint, flag="--endpoint"),
        registration.listening(),
    ):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(volumes.run()), group.create_task(mounter_link.run(volumes))]
            if cluster is not None and config.startup_taint:
                work = _take_taint(cluster, config, registration, mounter_link)
                tasks.append(group.create_task(work))
            await server.start()
            await registration.start()
            log.info("node plugin is up", extra={"endpoint": str(config.endpoint)})
            try:
                await stop.wait()
            finally:
                await registration.stop()
                await server.stop(GRACE_S)
            is_idle = volumes.counts()[0] == 0
            for task in tasks:
                task.cancel()
    if is_idle:
        _tidy(config, mounter_link)


def _tidy(config: NodeConfig, mounter_link: MounterLink) -> None:
    """Leave nothing on the node that has no volumes: this may be the end, after an uninstall.

    Directories go only if they are empty. A mounter whose directory is gone ends, and is started
    anew with the next one.
    """
    mounter_link.remove()
    paths = [config.state_dir / "volumes", config.state_dir / "leftovers", config.state_dir]
    if _has_own_link(config):
        paths.append(config.mounter.parent)
    if config.endpoint.parent.name == config.driver_name:  # as kubelet's plugins directory has it
        paths.append(config.endpoint.parent)
    for path in paths:
        with suppress(OSError):
            path.rmdir()


def _has_own_link(config: NodeConfig) -> bool:
    """Whether the mounter's socket has a directory for itself: below ours, not just anywhere."""
    return bool(config.mounter_uid) and config.mounter.parent.parent == config.endpoint.parent


def _prepare_sockets(config: NodeConfig) -> None:
    """Make the sockets' directories; the mounter's, and nobody else, may pass through its own.

    One that is there stays the one it is: the mounter's pod has it mounted.
    """
    config.endpoint.parent.mkdir(parents=True, exist_ok=True)
    link = config.mounter.parent
    link.mkdir(parents=True, exist_ok=True)
    if _has_own_link(config):
        os.chown(link, 0, config.mounter_uid)
        link.chmod(0o750)


def _cluster(config: NodeConfig) -> ClusterApi | None:
    if config.api_server is None:
        return None
    return ClusterApi(config.api_server, component=config.driver_name, host=config.node_id)


async def _take_taint(
    cluster: ClusterApi, config: NodeConfig, registration: Registration, mounter_link: MounterLink
) -> None:
    """Remove the startup taint once volumes can be mounted here."""
    await registration.wait()
    while not mounter_link.is_connected:
        with suppress(MounterUnavailableError):
            await mounter_link.wait(TAINT_AGAIN_S)
    while True:
        if await cluster.remove_taint(config.node_id, config.startup_taint):
            return
        await asyncio.sleep(TAINT_AGAIN_S)
