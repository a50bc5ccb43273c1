"""The Node service: checks what kubelet asks for, in CSI's order, and hands it to the table."""

import logging

from typing_extensions import override

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc
from csi_s3.config.defaults import DefaultOptions
from csi_s3.config.volume_context import VolumeRequest, parse_volume
from csi_s3.csi.interceptors import Context
from csi_s3.errors import BadRequestError
from csi_s3.kubernetes.pods import PodRef
from csi_s3.node.volumes import Volumes

# What statfs promises (docs/semantics.md), clamped to CSI's int64: 8 EiB, and as many files.
UNLIMITED = (1 << 63) - 1

_MODE = csi.VolumeCapability.AccessMode
_READ_ONLY_MODES = {_MODE.SINGLE_NODE_READER_ONLY, _MODE.MULTI_NODE_READER_ONLY}
_RPC = csi.NodeServiceCapability.RPC
_KUBERNETES = "csi.storage.k8s.io/"  # what kubelet adds to the volume's attributes
_POD_FIELDS = ("namespace", "name", "uid")
_CAPABILITIES = (_RPC.GET_VOLUME_STATS, _RPC.VOLUME_CONDITION, _RPC.VOLUME_MOUNT_GROUP)

log = logging.getLogger(__name__)


class NodeService(csi_pb2_grpc.NodeServicer):
    """max_volumes: how many the scheduler may send here; 0: as many as it likes."""

    def __init__(
        self,
        node_id: str,
        volumes: Volumes,
        *,
        default_options: DefaultOptions,
        max_volumes: int = 0,
    ) -> None:
        self._node_id, self._volumes = node_id, volumes
        self._default_options, self._max_volumes = default_options, max_volumes

    @override
    async def NodeGetInfo(
        self, request: csi.NodeGetInfoRequest, context: Context
    ) -> csi.NodeGetInfoResponse:
        return csi.NodeGetInfoResponse(
            node_id=self._node_id, max_volumes_per_node=self._max_volumes
        )

    @override
    async def NodeGetCapabilities(
        self, request: csi.NodeGetCapabilitiesRequest, context: Context
    ) -> csi.NodeGetCapabilitiesResponse:
        return csi.NodeGetCapabilitiesResponse(
            capabilities=[
                csi.NodeServiceCapability(rpc=csi.NodeServiceCapability.RPC(type=kind))
                for kind in _CAPABILITIES
            ]
        )

    @override
    async def NodePublishVolume(
        self, request: csi.NodePublishVolumeRequest, context: Context
    ) -> csi.NodePublishVolumeResponse:
        _require(request, "volume_id", "target_path")
        volume, pod = _parsed(request, self._default_options), _pod(request)
        fresh = await self._volumes.publish(
            request.volume_id,
            request.target_path,
            volume.config,
            pod,
            warnings=volume.warnings,
        )
        if fresh:  # kubelet repeats the request every minute or so
            fields = {"volume": request.volume_id, "target": request.target_path}
            if pod is not None:
                fields["pod"] = f"{pod.namespace}/{pod.name}"
            log.info("volume is published", extra=fields)
        return csi.NodePublishVolumeResponse()

    @override
    async def NodeUnpublishVolume(
        self, request: csi.NodeUnpublishVolumeRequest, context: Context
    ) -> csi.NodeUnpublishVolumeResponse:
        _require(request, "volume_id", "target_path")
        await self._volumes.unpublish(request.target_path)
        fields = {"volume": request.volume_id, "target": request.target_path}
        log.info("volume is unpublished", extra=fields)
        return csi.NodeUnpublishVolumeResponse()

    @override
    async def NodeGetVolumeStats(
        self, request: csi.NodeGetVolumeStatsRequest, context: Context
    ) -> csi.NodeGetVolumeStatsResponse:
        """From the worker's own count; a stat of the mount could hang. A bucket has no end."""
        _require(request, "volume_id", "volume_path")
        usage, wrong = await self._volumes.usage(request.volume_id, request.volume_path)
        return csi.NodeGetVolumeStatsResponse(
            usage=[
                csi.VolumeUsage(
                    unit=csi.VolumeUsage.BYTES, total=UNLIMITED, available=UNLIMITED, used=0
                ),
                csi.VolumeUsage(
                    unit=csi.VolumeUsage.INODES,
                    total=UNLIMITED,
                    available=UNLIMITED - usage.inodes,
                    used=usage.inodes,
                ),
            ],
            volume_condition=csi.VolumeCondition(
                abnormal=wrong is not None,
                message="the volume is served" if wrong is None else str(wrong.as_told()),
            ),
        )


def _require(
    request: csi.NodePublishVolumeRequest
    | csi.NodeUnpublishVolumeRequest
    | csi.NodeGetVolumeStatsRequest,
    *fields: str,
) -> None:
    for field in fields:
        if not getattr(request, field):
            name = type(request).__name__.removesuffix("Request")
            raise BadRequestError(
                f"{name} without {field}", f"expected a {field} that is not empty"
            )


def _pod(request: csi.NodePublishVolumeRequest) -> PodRef | None:
    """Who the volume is for; None where the CSIDriver object does not ask for it."""
    found = [request.volume_context.get(f"{_KUBERNETES}pod.{n}", "") for n in _POD_FIELDS]
    if not all(found):
        return None
    namespace, name, uid = found
    return PodRef(namespace=namespace, name=name, uid=uid)


def _parsed(
    request: csi.NodePublishVolumeRequest, default_options: DefaultOptions
) -> VolumeRequest:
    """Check the capability, then attributes and options."""
    capability = request.volume_capability
    if not request.HasField("volume_capability"):
        raise BadRequestError("NodePublishVolume without volume_capability")
    if request.secrets:  # names and values are nobody's to read
        raise BadRequestError(
            f"volume {request.volume_id!r} names a Secret of its own (nodePublishSecretRef), and"
            " identities per volume are not built yet: all volumes have the driver's identity",
            "take nodePublishSecretRef out of the PersistentVolume, which must be made again for"
            " it; keys for all volumes belong into the driver's own Secret (docs/identity.md)",
        )
    if capability.HasField("block"):
        raise BadRequestError(
            f"volume {request.volume_id!r} is asked for as a block device: a bucket has files only",
            "set volumeMode: Filesystem in the PersistentVolume and its claim",
        )
    if not capability.HasField("mount"):
        raise BadRequestError("volume_capability names no access type", "expected mount")
    if request.volume_context.get(f"{_KUBERNETES}ephemeral") == "true":
        raise BadRequestError(
            "inline volumes (`csi:` in the pod's `volumes`) are refused: with the driver's identity"
            " whoever may write a pod could mount any bucket that it reaches",
            "write a PersistentVolume and a PersistentVolumeClaim, and name the claim in the pod",
        )
    mode = capability.access_mode.mode
    if mode == _MODE.UNKNOWN:
        raise BadRequestError("volume_capability names no access mode", "any known one will do")
    return parse_volume(
        dict(request.volume_context),
        list(capability.mount.mount_flags),
        volume_mount_group=capability.mount.volume_mount_group,
        readonly=request.readonly or mode in _READ_ONLY_MODES,
        default_options=default_options,
    )
