"""What waits for a peer that does not read: one message of each subject, and so many others."""

import asyncio
import os

import pytest

from csi_s3.link.channel import MAX_MESSAGE_BYTES, Channel
from csi_s3.mounter.outbox import Outbox


@pytest.fixture
def ends():
    channel, sock = Channel.pair()
    peer = Channel(sock)
    yield channel, peer
    channel.close()
    peer.close()


async def sent(outbox, peer, count):
    task = asyncio.create_task(outbox.run())
    async with asyncio.timeout(20):
        messages = [await peer.receive() for _ in range(count)]
        await outbox.flush(within_s=5)
    task.cancel()
    await asyncio.wait({task})
    return [(message.type, message.body["n"]) for message in messages]


@pytest.mark.parametrize("n", [10, 100])
@pytest.mark.warnings_expected("node does not read")
async def test_of_other_messages_the_first_are_sent(ends, n, caplog):
    channel, peer = ends
    outbox = Outbox(channel, most=10)
    for number in range(n):
        outbox.put("notice", {"n": number})
        outbox.put("report", {"n": number}, subject="mount")
    assert outbox.waiting == 11
    expected = [("notice", number) for number in range(10)]
    found = await sent(outbox, peer, 11)
    assert sorted(found) == sorted([*expected, ("report", n - 1)])
    assert sum("does not read" in r.message for r in caplog.records) == (n > 10)
    outbox.put("notice", {"n": -1})
    assert await sent(outbox, peer, 1) == [("notice", -1)]


async def test_of_a_subject_the_latest_is_sent_after_what_came_before_it(ends):
    channel, peer = ends
    outbox = Outbox(channel)
    outbox.put("report", {"n": 1}, subject="a")
    outbox.put("report", {"n": 2}, subject="b")
    outbox.put("report", {"n": 3}, subject="a")
    assert await sent(outbox, peer, 2) == [("report", 2), ("report", 3)]


@pytest.mark.warnings_expected("not sent: message 'notice' of")
async def test_a_message_that_is_too_large_does_not_end_the_connection(ends):
    channel, peer = ends
    outbox = Outbox(channel)
    outbox.put("notice", {"n": "x" * MAX_MESSAGE_BYTES})
    outbox.put("notice", {"n": 2})
    assert await sent(outbox, peer, 1) == [("notice", 2)]


async def test_descriptors_that_were_not_sent_are_closed(ends):
    channel, _ = ends
    outbox = Outbox(channel)
    read, write = os.pipe()
    outbox.put("have", {}, write)
    outbox.close()
    assert os.read(read, 1) == b""
    os.close(read)
    assert outbox.waiting == 0
