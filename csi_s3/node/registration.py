"""Registration with kubelet, in place of the sidecar node-driver-registrar.

kubelet watches a directory. It calls GetInfo on a socket that appears there, then NodeGetInfo on
the CSI socket that the answer names, and reports the result. It does so again after its own
restart, and forgets the driver when the socket is removed.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from typing_extensions import override

from csi_s3 import pluginregistration_pb2 as api
from csi_s3 import pluginregistration_pb2_grpc
from csi_s3.csi.interceptors import Context
from csi_s3.csi.sockets import bound, new_server

VERSIONS = ("1.0.0",)  # of CSI; kubelet compares the major number

log = logging.getLogger(__name__)


class Registration(pluginregistration_pb2_grpc.RegistrationServicer):
    """Lifetime: inside `listening`, from `start` to `stop`.

    is_registered, error: kubelet's last result.
    """

    def __init__(self, directory: Path | None, *, driver_name: str, endpoint: Path) -> None:
        """directory: None if another program registers the driver; it then counts as registered.

        endpoint: the CSI socket's path as kubelet sees it.
        """
        self.is_registered = directory is None
        self.error = "" if directory is None else "kubelet has not called GetInfo yet"
        self._name, self._endpoint = driver_name, endpoint
        self._directory = directory
        self._first = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def wait(self) -> None:
        """Wait until kubelet has registered the driver for the first time."""
        if not self.is_registered:
            await self._first.wait()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Have the socket, which kubelet finds at once; calls are answered after `start`.

        Raises:
            BadOptionError: the directory cannot be used.

        """
        if self._directory is None:
            yield
            return
        self._server = server = new_server()
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(  # type: ignore[no-untyped-call]
            self, server
        )
        with bound(server, self._directory / f"{self._name}-reg.sock", flag="--registration-dir"):
            yield

    async def start(self) -> None:
        """Answer kubelet, which then calls the CSI socket: that must be served already."""
        if self._server is not None:
            await self._server.start()

    async def stop(self) -> None:
        """Remove the socket; kubelet forgets the driver, and its volumes stay mounted."""
        if self._server is not None:
            await self._server.stop(None)

    @override
    async def GetInfo(self, request: api.InfoRequest, context: Context) -> api.PluginInfo:
        return api.PluginInfo(
            type="CSIPlugin",
            name=self._name,
            endpoint=str(self._endpoint),
            supported_versions=VERSIONS,
        )

    @override
    async def NotifyRegistrationStatus(
        self, request: api.RegistrationStatus, context: Context
    ) -> api.RegistrationStatusResponse:
        self.is_registered = request.plugin_registered
        self.error = "" if request.plugin_registered else request.error or "kubelet gave no reason"
        if self.is_registered:
            self._first.set()
            log.info("kubelet has registered the driver", extra={"driver": self._name})
        else:
            log.error(
                "kubelet refused to register driver %s: %s (it called %s: is --kubelet-endpoint "
                "the CSI socket's path on the node, and does another driver have this name?)",
                self._name,
                self.error,
                self._endpoint,
            )
        return api.RegistrationStatusResponse()
