"""A worker goes on serving whatever it has to say."""

import pytest

from csi_s3.config.volume import BucketConfig, VolumeConfig
from csi_s3.errors import StoreUnavailableError
from csi_s3.link.channel import MAX_MESSAGE_BYTES, Channel
from csi_s3.link.report import State
from csi_s3.link.spec import MountSpec
from csi_s3.mounter.worker import Worker
from csi_s3.obs.metrics import catalog as metrics

SPEC = MountSpec(
    mount_id="a" * 32, volume_handle="pv", volume=VolumeConfig(bucket=BucketConfig(bucket="b"))
)


@pytest.fixture
def ends():
    channel, sock = Channel.pair()
    peer = Channel(sock)
    yield Worker(channel, SPEC), peer
    channel.close()
    peer.close()


@pytest.mark.warnings_expected("not sent: message 'metrics' of")
async def test_metrics_that_fit_into_no_message_are_not_sent_and_end_nothing(ends):
    worker, peer = ends
    name = "x" * MAX_MESSAGE_BYTES
    metrics.ERRORS.inc(code=name)
    try:
        await worker.send_metrics()
    finally:
        metrics.ERRORS.forget(name)
    await worker.send_metrics()
    assert (await peer.receive()).type == "metrics"


async def test_a_store_s_message_of_any_length_is_reported(ends):
    worker, peer = ends
    error = StoreUnavailableError("503 " + "no " * MAX_MESSAGE_BYTES)
    await worker.report(State.SERVING, error)
    message = await peer.receive()
    assert message.body["report"]["error"]["what"].startswith("503 no")
