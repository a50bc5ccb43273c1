"""The CSI path of csi-s3 as kubelet takes it: node and mounter run already, NodePublishVolume
is called, and the clock stops when the target lists the bucket."""

import subprocess
import time
from pathlib import Path

import grpc
from typing_extensions import override

from bench import procs
from bench.cases import READY_ENTRY
from bench.mounts import STOP_S, Mount, NotMountedError
from bench.systems import BUCKET, REGION
from csi_s3 import csi_pb2, csi_pb2_grpc

VOLUME = "bench-volume"
TARGET = "kubelet/pods/bench/volumes/kubernetes.io~csi/bench-pv/mount"


class Publish(Mount):
    """A Mount whose directory is a published target and whose processes are node and mounter."""

    is_whole_system = False
    _channel: grpc.Channel | None = None
    _published = False

    @property
    @override
    def directory(self) -> Path:
        return self._place.work / TARGET

    @override
    def start(self, *, limit_s: float) -> float:
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        node = self._start_programs(limit_s)
        waiting = self._begin_load("ready", str(self.directory), READY_ENTRY)
        began = time.time()
        try:
            node.NodePublishVolume(self._request(), timeout=limit_s)
            answered, self._published = time.time(), True
        except grpc.RpcError as exc:
            self._end_load(waiting)
            raise NotMountedError(f"NodePublishVolume: {exc.code().name} {exc.details()}") from exc
        return max(answered, self._wait_ready(waiting, limit_s)) - began

    @override
    def stop(self) -> None:
        self._roots |= procs.tree(self._roots)
        if self._channel is not None:
            self._unpublish()
            self._channel.close()
        if self._connection():
            self.abort()
        if self._process is not None:
            self._process.terminate()
        self._wait_ended()

    def _unpublish(self) -> None:
        if not self._published:
            return
        request = csi_pb2.NodeUnpublishVolumeRequest(
            volume_id=VOLUME, target_path=str(self.directory)
        )
        try:
            csi_pb2_grpc.NodeStub(self._channel).NodeUnpublishVolume(request, timeout=STOP_S)
        except grpc.RpcError as exc:
            print(f"NodeUnpublishVolume: {exc.code().name} {exc.details()}")

    def _start_programs(self, limit_s: float) -> csi_pb2_grpc.NodeStub:
        """Node and mounter, once both say that they are ready."""
        work, program = self._place.work, str(self._system.program())
        link, endpoint = work / "mounter.sock", f"unix://{work}/csi.sock"
        (work / "state").mkdir(exist_ok=True)
        paths = ["--state-dir", f"{work}/state", "--kubelet-dir", f"{work}/kubelet"]
        node = [program, "node", "--endpoint", endpoint, "--node-id", "bench", *paths]
        self._process = self._spawn([*node, "--mounter", str(link)])
        loopback = ["/usr/bin/env", "CSI_S3_ALLOW_LOOPBACK=on"]  # where the stores are
        mounter = self._spawn([*loopback, program, "mounter", "--socket", str(link)])
        self._channel = grpc.insecure_channel(endpoint)
        identity = csi_pb2_grpc.IdentityStub(self._channel)
        deadline = time.monotonic() + limit_s
        while not self._is_ready(identity):
            ended = self._process.poll() is not None or mounter.poll() is not None
            if ended or time.monotonic() > deadline:
                raise NotMountedError("node and mounter do not start")
            time.sleep(0.05)
        return csi_pb2_grpc.NodeStub(self._channel)

    def _is_ready(self, identity: csi_pb2_grpc.IdentityStub) -> bool:
        try:
            return bool(identity.Probe(csi_pb2.ProbeRequest(), timeout=5).ready.value)
        except grpc.RpcError:
            return False

    def _request(self) -> csi_pb2.NodePublishVolumeRequest:
        options = [f"region {REGION}", f"endpoint-url {self._place.url}", "force-path-style"]
        capability = csi_pb2.VolumeCapability(
            mount=csi_pb2.VolumeCapability.MountVolume(mount_flags=options),
            access_mode=csi_pb2.VolumeCapability.AccessMode(
                mode=csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER
            ),
        )
        return csi_pb2.NodePublishVolumeRequest(
            volume_id=VOLUME,
            target_path=str(self.directory),
            volume_capability=capability,
            volume_context={"bucketName": BUCKET},
        )


def is_built(program: str) -> bool:
    """Whether this csi-s3 has the two programs at all."""
    asked = [[program, word, "--help"] for word in ("node", "mounter")]
    done = [subprocess.run(c, capture_output=True, timeout=30, check=False) for c in asked]
    return all(d.returncode == 0 for d in done)
