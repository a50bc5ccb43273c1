"""The interceptor: what leaves the plugin when something fails that nobody foresaw."""

import logging

import grpc
import pytest

from csi_s3 import csi_pb2 as csi
from csi_s3 import csi_pb2_grpc
from csi_s3.csi import interceptors
from csi_s3.csi.interceptors import ErrorInterceptor
from csi_s3.errors import BadRequestError, BusyError, Status, VolumeError, by_code
from tests.rpc.conftest import refused


class Failing(csi_pb2_grpc.NodeServicer):
    def __init__(self) -> None:
        self.error: Exception = ValueError("the secret is HUNTER2")

    async def NodeGetInfo(self, request, context):  # noqa: N802 - the contract's
        raise self.error


@pytest.fixture
async def failing(tmp_path):
    servicer, server = Failing(), grpc.aio.server(interceptors=[ErrorInterceptor()])
    csi_pb2_grpc.add_NodeServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield servicer, csi_pb2_grpc.NodeStub(channel)
    await server.stop(1)


@pytest.mark.warnings_expected("internal error, id")
async def test_an_unforeseen_error_is_an_id_for_the_client_and_a_traceback_in_the_log(
    failing, caplog
):
    _, stub = failing
    code, text = await refused(stub.NodeGetInfo(csi.NodeGetInfoRequest()))
    assert code is grpc.StatusCode.INTERNAL
    assert "HUNTER2" not in text
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert text == record.getMessage()
    assert text.startswith("internal error, id ")
    assert record.exc_info[0] is ValueError
    assert record.op == "NodeGetInfo"


@pytest.mark.warnings_expected(r": what \(hint\)$")
async def test_every_class_of_the_tree_has_its_status(failing):
    servicer, stub = failing
    for cls in by_code().values():
        servicer.error = cls("what", "hint")
        code, text = await refused(stub.NodeGetInfo(csi.NodeGetInfoRequest()))
        assert code is grpc.StatusCode[cls.status.name]
        assert text == f"what (hint) [{cls.code}]"


def test_every_status_is_one_of_grpcs():
    assert {s.name for s in Status} <= {c.name for c in grpc.StatusCode}
    assert VolumeError.status in Status


def test_the_refusals_that_are_remembered_are_bounded():
    refusals = interceptors.Refusals(max_targets=3)
    for number in range(10 * 3):
        refusals.level("NodePublishVolume", f"/{number}", BadRequestError("no"))
    assert len(refusals._last_texts) == 3
    assert refusals.level("NodePublishVolume", "/29", BadRequestError("no")) == logging.DEBUG
    assert refusals.level("NodePublishVolume", "/0", BadRequestError("no")) == logging.WARNING


def test_what_kubelet_only_asks_again_or_nobody_waits_for_is_as_loud_as_the_error():
    refusals = interceptors.Refusals()
    for _ in range(2):
        assert refusals.level("NodePublishVolume", "/a", BusyError("pending")) == BusyError.level
        assert refusals.level("NodeGetVolumeStats", "/a", BadRequestError("no")) == logging.INFO
