"""What is recorded of pods and their Events is bounded, however many there are."""

import asyncio

import pytest

from csi_s3.kubernetes.cluster_api import MESSAGE_BYTES, PodRef
from csi_s3.node.pod_events import EventLimits, PodEvents
from csi_s3.node.targets import Target

LIMITS = EventLimits(former=10, queued=10, unknown=10, each=2)


def target(number):
    return Target("/kubelet", f"pods/{number}/volumes/csi/pv/mount")


def pod(number):
    return PodRef(namespace="ns", name=f"pod-{number}", uid=str(number))


class Sink:
    def __init__(self):
        self.posted = []

    async def event(self, pod, *, reason, message):
        self.posted.append((pod.name, message))


async def posted(sink, events):
    task = asyncio.create_task(events.run())
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    return sink.posted


@pytest.mark.parametrize("n", [10, 100])
async def test_events_for_pods_that_are_not_known_yet_are_the_first_of_the_latest_targets(n):
    sink = Sink()
    events = PodEvents(sink, LIMITS)
    for number in range(n):
        for text in ("a", "a", "b", "c"):
            events.post([target(number)], "Reason", text)
    assert events.waiting == 20
    for number in (0, n - 1):
        events.learn(target(number), pod(number))
    expected = [(f"pod-{k}", t) for k in ((0, 9) if n == 10 else (n - 1,)) for t in ("a", "b")]
    assert await posted(sink, events) == expected


@pytest.mark.parametrize("n", [10, 100])
async def test_events_that_the_api_server_does_not_take_are_dropped(n):
    sink = Sink()
    events = PodEvents(sink, LIMITS)
    events.learn(target(1), pod(1))
    for number in range(n):
        events.post([target(1)], "Reason", f"{number}")
    assert events.waiting == 10
    assert await posted(sink, events) == [("pod-1", f"{number}") for number in range(10)]


@pytest.mark.parametrize("n", [10, 100])
async def test_of_targets_that_are_gone_the_latest_are_known(n):
    sink = Sink()
    events = PodEvents(sink, LIMITS)
    for number in range(n):
        events.learn(target(number), pod(number))
    assert events.pods == n
    for number in range(n):
        events.unpublished(target(number))
    assert events.pods == 0
    for number in range(n):
        events.post_last(target(number), "Reason", "last")
    assert [name for name, _ in await posted(sink, events)] == [
        f"pod-{number}" for number in range(n - 10, n)
    ]


class FailingSink(Sink):
    """Fails once, in a way that no sink should."""

    async def event(self, pod, *, reason, message):
        if not self.posted:
            self.posted.append("failed")
            raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")
        await super().event(pod, reason=reason, message=message)


@pytest.mark.warnings_expected("an Event was not posted")
async def test_an_event_that_cannot_be_posted_does_not_end_the_others():
    sink = FailingSink()
    events = PodEvents(sink, LIMITS)
    events.learn(target(1), pod(1))
    for text in ("a", "b"):
        events.post([target(1)], "Reason", text)
    assert await posted(sink, events) == ["failed", ("pod-1", "b")]


@pytest.mark.parametrize("text", ["x" * 10_000, "\udcff" * 1000])
async def test_a_text_is_cut_and_made_valid_before_it_waits(text):
    sink = Sink()
    events = PodEvents(sink, LIMITS)
    events.post([target(1)], "Reason", text)
    events.learn(target(1), pod(1))
    ((_, message),) = await posted(sink, events)
    assert len(message.encode()) <= MESSAGE_BYTES
    assert message[:1] == text[:1].encode(errors="backslashreplace").decode()[:1]
