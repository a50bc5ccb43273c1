"""`csi-s3 csi`: makes the calls of kubelet to a node plugin, for the demo and for debugging.

    csi-s3 csi probe --endpoint unix:///csi/csi.sock
    csi-s3 csi publish --endpoint … --volume-id pv --target DIR --attribute bucketName=b

It is here because this package is the importer of gRPC; other programs reach it by exec only.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc
from csi_s3.errors import BadOptionError, MounterUnavailableError, VolumeError

DEADLINE_S = 120.0  # kubelet's
PROBE_PAUSE_S = 0.1


class NodeClient:
    """The calls over a channel to a CSI endpoint, which messages name.

    Raises, each call:
        VolumeError: with the answer's status and message.

    """

    def __init__(self, channel: grpc.Channel, endpoint: str, deadline_s: float) -> None:
        self._identity = csi_pb2_grpc.IdentityStub(channel)  # type: ignore[no-untyped-call]
        self._node = csi_pb2_grpc.NodeStub(channel)  # type: ignore[no-untyped-call]
        self._endpoint, self._deadline_s = endpoint, deadline_s

    def probe(self) -> dict[str, Any]:
        """Get name, version and capabilities of a plugin that is ready.

        Raises:
            MounterUnavailableError: it answers that it is not ready.

        """
        if not self._call(self._identity.Probe, csi.ProbeRequest()).ready.value:
            raise MounterUnavailableError(
                f"the plugin at {self._endpoint} is not ready", "see its log for what it waits for"
            )
        return {
            **self._as_dict(self._identity.GetPluginInfo, csi.GetPluginInfoRequest()),
            **self._as_dict(self._node.NodeGetInfo, csi.NodeGetInfoRequest()),
            **self._as_dict(self._node.NodeGetCapabilities, csi.NodeGetCapabilitiesRequest()),
        }

    def publish(
        self,
        volume_id: str,
        target: str,
        *,
        attributes: Mapping[str, str],
        mount_options: Sequence[str],
        read_only: bool,
        access_mode: str,
    ) -> None:
        capability = csi.VolumeCapability(
            mount=csi.VolumeCapability.MountVolume(mount_flags=mount_options),
            access_mode=csi.VolumeCapability.AccessMode(mode=access_mode),
        )
        request = csi.NodePublishVolumeRequest(
            volume_id=volume_id,
            target_path=target,
            volume_capability=capability,
            volume_context=attributes,
            readonly=read_only,
        )
        self._call(self._node.NodePublishVolume, request)

    def unpublish(self, volume_id: str, target: str) -> None:
        request = csi.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=target)
        self._call(self._node.NodeUnpublishVolume, request)

    def _as_dict(self, method: Any, request: Any) -> dict[str, Any]:  # noqa: ANN401 - generated code
        answer = self._call(method, request)
        fields: dict[str, Any] = MessageToDict(answer, preserving_proto_field_name=True)
        return fields

    def _call(self, method: Any, request: Any) -> Any:  # noqa: ANN401 - generated code
        try:
            return method(request, timeout=self._deadline_s)
        except grpc.RpcError as exc:
            name = type(request).__name__.removesuffix("Request")
            unavailable = exc.code() is grpc.StatusCode.UNAVAILABLE
            raise VolumeError(
                f"{name} at {self._endpoint}: {exc.code().name}: {exc.details()}",
                hint="is csi-s3 node running and ready?" if unavailable else "",
            ) from exc


def run(argv: Sequence[str]) -> int:
    """`csi-s3 csi ARGV`: the answer as JSON on stdout."""
    args = _parser().parse_args(argv)
    with grpc.insecure_channel(args.endpoint) as channel:
        client = NodeClient(channel, args.endpoint, args.timeout)
        if args.action == "probe":
            answer = _probe(client, args.wait)
        elif args.action == "publish":
            client.publish(
                args.volume_id,
                args.target,
                attributes=dict(map(_pair, args.attribute)),
                mount_options=args.mount_option,
                read_only=args.read_only,
                access_mode=args.access_mode,
            )
            answer = {"published": args.target}
        else:
            client.unpublish(args.volume_id, args.target)
            answer = {"unpublished": args.target}
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 0


def _probe(client: NodeClient, wait_s: float) -> dict[str, Any]:
    until = time.monotonic() + wait_s
    while True:
        try:
            return client.probe()
        except VolumeError:
            if time.monotonic() >= until:
                raise
        time.sleep(PROBE_PAUSE_S)


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise BadOptionError(f"--attribute {text!r} has no value", "expected KEY=VALUE")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "csi-s3 csi", description="Call a CSI node plugin as kubelet does.", allow_abbrev=False
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    probe = actions.add_parser(
        "probe", help="whether it is ready, its name, version and capabilities"
    )
    publish = actions.add_parser("publish", help="NodePublishVolume")
    unpublish = actions.add_parser("unpublish", help="NodeUnpublishVolume")
    for action in (probe, publish, unpublish):
        action.add_argument("--endpoint", required=True, metavar="unix:///PATH")
        action.add_argument("--timeout", type=float, default=DEADLINE_S, metavar="SECONDS")
    for action in (publish, unpublish):
        action.add_argument("--volume-id", required=True, metavar="ID")
        action.add_argument("--target", required=True, metavar="DIR")
    probe.add_argument("--wait", type=float, default=0.0, metavar="SECONDS")
    publish.add_argument("--attribute", action="append", default=[], metavar="KEY=VALUE")
    publish.add_argument("--mount-option", action="append", default=[], metavar="OPTION")
    publish.add_argument("--read-only", action="store_true")
    modes = csi.VolumeCapability.AccessMode.Mode.keys()
    publish.add_argument("--access-mode", choices=modes, default="MULTI_NODE_MULTI_WRITER")
    return parser
