"""The Identity service: name and version of the plugin, and whether it is ready."""

from collections.abc import Callable
from importlib.metadata import version

from google.protobuf.wrappers_pb2 import BoolValue
from typing_extensions import override

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc
from csi_s3.csi.interceptors import Context


class IdentityService(csi_pb2_grpc.IdentityServicer):
    """is_ready: for Probe. Raises a VolumeError where waiting would not help."""

    def __init__(self, driver_name: str, is_ready: Callable[[], bool]) -> None:
        self._driver_name, self._is_ready = driver_name, is_ready

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
        return csi.ProbeResponse(ready=BoolValue(value=self._is_ready()))
