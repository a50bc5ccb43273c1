"""The Identity service: who this plugin is, and whether it can work."""

import os
from importlib.metadata import version

from google.protobuf.wrappers_pb2 import BoolValue
from typing_extensions import override

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc
from csi_s3.kernel.mount import open_fuse
from csi_s3.node.interceptors import Context
from csi_s3.node.mounters import Mounters


class Identity(csi_pb2_grpc.IdentityServicer):
    def __init__(self, driver_name: str, mounters: Mounters) -> None:
        self._driver_name, self._mounters = driver_name, mounters

    @override
    async def GetPluginInfo(
        self, request: csi.GetPluginInfoRequest, context: Context
    ) -> csi.GetPluginInfoResponse:
        return csi.GetPluginInfoResponse(name=self._driver_name, vendor_version=version("csi-s3"))

    @override
    async def GetPluginCapabilities(
        self, request: csi.GetPluginCapabilitiesRequest, context: Context
    ) -> csi.GetPluginCapabilitiesResponse:
        return csi.GetPluginCapabilitiesResponse()  # no controller

    @override
    async def Probe(self, request: csi.ProbeRequest, context: Context) -> csi.ProbeResponse:
        """Truthful: FAILED_PRECONDITION without /dev/fuse, not ready without a mounter."""
        os.close(open_fuse())
        return csi.ProbeResponse(ready=BoolValue(value=self._mounters.is_connected))
