"""What csi-sanity needs beside our node plugin to publish real buckets.

A double of the controller, whose volumes are buckets of a real server, on one socket with the
node plugin under test: everything but Controller is forwarded to it as it came.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from typing_extensions import override

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc

SERVICE = csi.PluginCapability.Service
RPC = csi.ControllerServiceCapability.RPC
CAPABILITIES = "/csi.v1.Identity/GetPluginCapabilities"


class Controller(csi_pb2_grpc.ControllerServicer):
    """Its volumes; deleting one leaves its bucket, whose server ends with the test."""

    def __init__(self, create_bucket: Callable[[str], object]) -> None:
        self._create_bucket = create_bucket
        self._bytes: dict[str, int] = {}

    @override
    async def ControllerGetCapabilities(self, request, context):
        rpc = RPC(type=RPC.CREATE_DELETE_VOLUME)
        capability = csi.ControllerServiceCapability(rpc=rpc)
        return csi.ControllerGetCapabilitiesResponse(capabilities=[capability])

    @override
    async def CreateVolume(self, request, context):
        await self._require(context, name=request.name, capabilities=request.volume_capabilities)
        volume_id = f"volume {request.name}"
        size = request.capacity_range.required_bytes
        bucket = f"sanity-{hashlib.sha256(volume_id.encode()).hexdigest()[:24]}"
        if self._bytes.setdefault(volume_id, size) != size:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{volume_id}: another size")
        self._create_bucket(bucket)
        volume = csi.Volume(
            volume_id=volume_id, capacity_bytes=size, volume_context={"bucketName": bucket}
        )
        return csi.CreateVolumeResponse(volume=volume)

    @override
    async def DeleteVolume(self, request, context):
        await self._require(context, volume_id=request.volume_id)
        self._bytes.pop(request.volume_id, None)
        return csi.DeleteVolumeResponse()

    @override
    async def ValidateVolumeCapabilities(self, request, context):
        await self._require(
            context, volume_id=request.volume_id, capabilities=request.volume_capabilities
        )
        if request.volume_id not in self._bytes:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no volume {request.volume_id}")
        answer = csi.ValidateVolumeCapabilitiesResponse()
        answer.confirmed.volume_capabilities.extend(request.volume_capabilities)
        return answer

    async def _require(self, context, **fields: Any) -> None:
        for name, value in fields.items():
            if not value:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{name} is missing")


class Forward(grpc.GenericRpcHandler):
    """Every call goes on to another server as bytes, and its answer comes back."""

    def __init__(self, to: grpc.aio.Channel) -> None:
        self._to = to

    def service(self, handler_call_details):
        name = handler_call_details.method
        if name.startswith("/csi.v1.Controller/"):
            return None

        async def forward(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            try:
                answer = await self._to.unary_unary(name)(request)
            except grpc.aio.AioRpcError as exc:
                await context.abort(exc.code(), exc.details())
            return _with_controller(answer) if name == CAPABILITIES else answer

        return grpc.unary_unary_rpc_method_handler(forward)


def _with_controller(answer: bytes) -> bytes:
    capabilities = csi.GetPluginCapabilitiesResponse.FromString(answer)
    service = SERVICE(type=SERVICE.CONTROLLER_SERVICE)
    capabilities.capabilities.append(csi.PluginCapability(service=service))
    return capabilities.SerializeToString()


def serving(socket: Path, node: Path, create_bucket) -> tuple[grpc.aio.Server, grpc.aio.Channel]:
    """A server, not started yet, and its connection to the node plugin."""
    channel = grpc.aio.insecure_channel(f"unix:{node}")
    server = grpc.aio.server()
    csi_pb2_grpc.add_ControllerServicer_to_server(Controller(create_bucket), server)
    server.add_generic_rpc_handlers((Forward(channel),))
    server.add_insecure_port(f"unix:{socket}")
    return server, channel
