"""A flood of calls, or a huge one, is refused and not held."""

import asyncio

import grpc
import pytest

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc
from csi_s3.csi.sockets import MAX_REQUEST_BYTES, new_server
from tests.rpc.conftest import refused
from tests.rpc.fake_mounter import until

MAX_CALLS = 10


class Slow(csi_pb2_grpc.NodeServicer):
    def __init__(self):
        self.go, self.running, self.most = asyncio.Event(), 0, 0

    async def NodePublishVolume(self, request, context):  # noqa: N802 - the contract's
        self.running += 1
        self.most = max(self.most, self.running)
        await self.go.wait()
        self.running -= 1
        return csi.NodePublishVolumeResponse()


@pytest.fixture
async def slow(tmp_path):
    servicer, server = Slow(), new_server(max_calls=MAX_CALLS)
    csi_pb2_grpc.add_NodeServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield servicer, csi_pb2_grpc.NodeStub(channel)
    await server.stop(None)


@pytest.mark.parametrize("n", [MAX_CALLS, 10 * MAX_CALLS])
async def test_calls_beyond_the_limit_are_refused_and_the_others_answered(slow, n):
    servicer, stub = slow
    calls = [stub.NodePublishVolume(csi.NodePublishVolumeRequest()) for _ in range(n)]
    await until(lambda: servicer.running == MAX_CALLS)
    await until(lambda: sum(call.done() for call in calls) == n - MAX_CALLS)
    codes = [await call.code() for call in calls if call.done()]
    assert set(codes) <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    servicer.go.set()
    done = [call for call in calls if await call.code() is grpc.StatusCode.OK]
    assert (len(done), servicer.most) == (MAX_CALLS, MAX_CALLS)
    await stub.NodePublishVolume(csi.NodePublishVolumeRequest())


async def test_a_huge_request_is_refused(slow):
    servicer, stub = slow
    request = csi.NodePublishVolumeRequest(volume_id="v" * (MAX_REQUEST_BYTES + 1))
    code, _ = await refused(stub.NodePublishVolume(request))
    assert (code, servicer.most) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0)
