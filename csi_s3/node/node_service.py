"""The Node service: checks requests in CSI's order and passes them to the table of volumes."""

import logging

from typing_extensions import override

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc
from csi_s3.config.defaults import DefaultOptions
from csi_s3.config.volume_context import VolumeRequest, parse_volume
from csi_s3.csi.interceptors import Context
from csi_s3.errors import BadRequestError, VolumeError, shortened
from csi_s3.kubernetes.cluster_api import PodRef
from csi_s3.node.volumes import Volumes

# As statfs (docs/semantics.md), limited to CSI's int64: 8 EiB, and as many files.
UNLIMITED = (1 << 63) - 1

_MODE = csi.VolumeCapability.AccessMode
_READ_ONLY_MODES = {_MODE.SINGLE_NODE_READER_ONLY, _MODE.MULTI_NODE_READER_ONLY}
_RPC = csi.NodeServiceCapability.RPC
_KUBERNETES = "csi.storage.k8s.io/"  # prefix of attributes that kubelet adds
_CONDITION_BYTES = 4096
_POD_FIELDS = ("namespace", "name", "uid")
_CAPABILITIES = (_RPC.GET_VOLUME_STATS, _RPC.VOLUME_CONDITION, _RPC.VOLUME_MOUNT_GROUP)

log = logging.getLogger(__name__)


class NodeService(csi_pb2_grpc.NodeServicer):
    """max_volumes: for the scheduler; 0: no limit."""

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
        volume, pod = _volume(request, self._default_options), _pod(request)
        is_new = await self._volumes.publish(
            request.volume_id,
            request.target_path,
            volume.config,
            pod,
            warnings=volume.warnings,
        )
        if is_new:  # kubelet repeats the request about once a minute
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
        """The worker's own counts: statfs of the mount could hang. A bucket has no size limit."""
        _require(request, "volume_id", "volume_path")
        usage, error = await self._volumes.usage(request.volume_id, request.volume_path)
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
                abnormal=error is not None,
                message="the volume is served" if error is None else _condition(error),
            ),
        )


def _condition(error: VolumeError) -> str:
    return shortened(str(error.as_public()), _CONDITION_BYTES)


def _require(
    request: csi.NodePublishVolumeRequest
    | csi.NodeUnpublishVolumeRequest
    | csi.NodeGetVolumeStatsRequest,
    *fields: str,
) -> None:
    for field in fields:
        if not getattr(request, field):
            name = type(request).__name__.removesuffix("Request")
            raise BadRequestError(f"{name} without {field}", f"expected a non-empty {field}")


def _pod(request: csi.NodePublishVolumeRequest) -> PodRef | None:
    """The pod of the volume; None if the CSIDriver object does not ask for pod info."""
    values = [request.volume_context.get(f"{_KUBERNETES}pod.{n}", "") for n in _POD_FIELDS]
    if not all(values):
        return None
    namespace, name, uid = values
    return PodRef(namespace=namespace, name=name, uid=uid)


def _volume(
    request: csi.NodePublishVolumeRequest, default_options: DefaultOptions
) -> VolumeRequest:
    capability = request.volume_capability
    if not request.HasField("volume_capability"):
        raise BadRequestError("NodePublishVolume without volume_capability")
    if request.secrets:  # neither names nor values are read
        raise BadRequestError(
            f"volume {request.volume_id!r} names a Secret of its own (nodePublishSecretRef), but"
            " identities per volume are not supported yet: all volumes use the driver's identity",
            "recreate the PersistentVolume without nodePublishSecretRef; put keys for all volumes"
            " into the driver's own Secret (docs/identity.md)",
        )
    if capability.HasField("block"):
        raise BadRequestError(
            f"volume {request.volume_id!r} is requested as a block device: a bucket has only files",
            "set volumeMode: Filesystem in the PersistentVolume and its claim",
        )
    if not capability.HasField("mount"):
        raise BadRequestError("volume_capability names no access type", "expected mount")
    if request.volume_context.get(f"{_KUBERNETES}ephemeral") == "true":
        raise BadRequestError(
            "inline volumes (`csi:` in the pod's `volumes`) are refused: any user who can create a"
            " pod could mount any bucket that the driver's identity can access",
            "create a PersistentVolume and a PersistentVolumeClaim, and use the claim in the pod",
        )
    mode = capability.access_mode.mode
    if mode == _MODE.UNKNOWN:
        raise BadRequestError("volume_capability names no access mode", "expected any CSI mode")
    return parse_volume(
        dict(request.volume_context),
        list(capability.mount.mount_flags),
        volume_mount_group=capability.mount.volume_mount_group,
        readonly=request.readonly or mode in _READ_ONLY_MODES,
        default_options=default_options,
    )
