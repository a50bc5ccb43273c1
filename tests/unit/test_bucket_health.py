"""What a worker knows of its bucket from requests that programs cause, and when it asks itself."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    CredentialsError,
    IntegrityError,
    NoSuchBucketError,
    NotFoundError,
    PreconditionFailedError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from csi_s3.mounter import bucket_health as module
from csi_s3.mounter.bucket_health import BucketHealth, HealthReporter

PREFIX = "p/"
LOGGED = pytest.mark.warnings_expected("requests to the bucket fail")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def health(clock):
    return BucketHealth(PREFIX, clock)


def outcome(health, error=None, *, listed=None):
    try:
        with health.watch(listed):
            if error is not None:
                raise error
    except type(error):
        pass


# --- what is the volume's -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls", [CredentialsError, NoSuchBucketError, StoreUnavailableError, StoreTimeoutError]
)
async def test_a_failure_of_the_whole_bucket_holds_until_anything_succeeds(health, cls):
    error = cls("no")
    outcome(health, error)
    assert health.failure.occurrence is error.occurrence
    outcome(health, NotFoundError("no such key"))
    assert health.failure.occurrence is error.occurrence
    outcome(health)
    assert health.failure is None


@pytest.mark.parametrize(
    "cls", [AccessDeniedError, StoreRefusedError, NotFoundError, PreconditionFailedError]
)
async def test_the_refusal_of_one_object_is_not_the_volumes(health, cls):
    outcome(health, cls("GET s3://b/x: no"))
    outcome(health, cls("LIST s3://b/p/below/: no"), listed="p/below/")
    assert health.failure is None


@pytest.mark.parametrize("cls", [AccessDeniedError, IntegrityError])
async def test_a_failed_list_of_the_mounts_prefix_is_the_volumes_until_it_succeeds(health, cls):
    error = cls("LIST s3://b/p/: no")
    outcome(health, error, listed=PREFIX)
    assert health.failure.occurrence is error.occurrence
    outcome(health)  # reading may be allowed all the while
    assert health.failure.occurrence is error.occurrence
    outcome(health, listed=PREFIX)
    assert health.failure is None


# --- when it is worth a request of our own --------------------------------------------------------


async def test_all_is_well_while_requests_succeed_or_nobody_asks(health, clock):
    assert not health.needs_probe
    outcome(health)
    clock.now += 3600
    assert not health.needs_probe


@pytest.mark.parametrize("cls", [AccessDeniedError, StoreRefusedError])
async def test_a_refusal_without_a_reason_is_a_doubt_until_something_succeeds(health, cls):
    """HEAD with expired keys is answered 400 or 403 without a body."""
    outcome(health, cls("HEAD s3://b/x: no explanation"))
    assert health.needs_probe
    outcome(health)
    assert not health.needs_probe


async def test_a_request_without_an_answer_for_long_is_a_doubt(health, clock):
    with health.watch():
        clock.now += module.STALLED_S - 1
        outcome(health)
        clock.now += module.STALLED_S
        assert not health.needs_probe
        clock.now += 1
        assert health.needs_probe
    assert not health.needs_probe


async def test_a_cancelled_request_tells_nothing(health):
    with pytest.raises(asyncio.CancelledError), health.watch():
        raise asyncio.CancelledError
    assert health.failure is None
    assert not health.needs_probe


# --- questions and reports ------------------------------------------------------------------------


class Bucket:
    """A probe: each waits until the test says how it ends."""

    def __init__(self, health):
        self.health, self.probes = health, []

    async def __call__(self):
        answer = asyncio.get_running_loop().create_future()
        self.probes.append(answer)
        with self.health.watch(PREFIX):
            await answer


@asynccontextmanager
async def watched(health, clock, **limits):
    reports: list[object] = []
    bucket, pauses = Bucket(health), asyncio.Semaphore(0)

    async def report():
        reports.append(health.failure)

    async def pause(_seconds):
        await pauses.acquire()

    watch = HealthReporter(health, probe=bucket, report=report, clock=clock, pause=pause, **limits)
    task = asyncio.create_task(watch.run())
    try:
        yield watch, bucket, reports, pauses
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_question_while_all_is_well_is_answered_without_a_request(health, clock):
    async with watched(health, clock) as (watch, bucket, reports, _):
        watch.ask()
        await settle()
        assert (reports, bucket.probes) == ([None], [])


@LOGGED
async def test_recovery_is_seen_though_nobody_uses_the_mount(health, clock):
    async with watched(health, clock) as (watch, bucket, reports, _):
        outcome(health, StoreUnavailableError("down"))
        await settle()
        reports.clear()
        watch.ask()
        await settle()
        assert reports == []  # waits for the bucket
        bucket.probes[0].set_result(None)
        await settle()
        assert reports == [None]


@LOGGED
async def test_the_bucket_is_asked_once_in_ten_seconds_however_many_pods_ask(health, clock):
    async with watched(health, clock) as (watch, bucket, reports, _):
        outcome(health, StoreUnavailableError("down"))
        for _ in range(3):
            watch.ask()
            await settle()
            if not bucket.probes[-1].done():
                bucket.probes[-1].set_exception(StoreUnavailableError("still down"))
            await settle()
        assert len(bucket.probes) == 1
        assert str(reports[-1]) == "still down"
        clock.now += module.PROBE_EVERY_S
        watch.ask()
        await settle()
        assert len(bucket.probes) == 2


@LOGGED
async def test_a_bucket_that_is_slow_to_answer_does_not_delay_the_answer_to_node(health, clock):
    async with watched(health, clock, answer_within_s=0.01) as (watch, bucket, reports, _):
        error = StoreUnavailableError("down")
        outcome(health, error)
        await settle()
        reports.clear()
        watch.ask()
        async with asyncio.timeout(10):
            while not reports:
                await asyncio.sleep(0.01)
        assert list(map(str, reports)) == ["down"]
        clock.now += 2 * module.PROBE_EVERY_S
        watch.ask()
        await asyncio.sleep(0.05)
        assert len(bucket.probes) == 1  # one at a time


@LOGGED
async def test_a_bucket_that_never_answers_is_wrong(health, clock):
    async with watched(health, clock, probe_within_s=0.01) as (watch, _bucket, reports, _):
        with health.watch():
            clock.now += module.STALLED_S + 1
            watch.ask()
            async with asyncio.timeout(10):
                while not any(reports):
                    await asyncio.sleep(0.01)
    assert isinstance(reports[-1], StoreTimeoutError)
    assert "did not answer a LIST" in str(reports[-1])


@LOGGED
async def test_changes_are_told_at_once_and_then_at_intervals(health, clock):
    async with watched(health, clock) as (_, _bucket, reports, pauses):
        error = StoreUnavailableError("down")
        outcome(health, error)
        await settle()
        assert list(map(str, reports)) == ["down"]
        for _ in range(5):  # it flaps
            outcome(health)
            outcome(health, error)
        outcome(health)
        await settle()
        assert list(map(str, reports)) == ["down"]
        pauses.release()
        await settle()
        assert list(map(str, reports)) == ["down", "None"]


@LOGGED
async def test_what_came_and_went_between_two_reports_is_not_told(health, clock):
    async with watched(health, clock) as (_, _bucket, reports, pauses):
        outcome(health, StoreUnavailableError("down"))
        await settle()
        outcome(health)
        outcome(health, StoreUnavailableError("down again"))
        pauses.release()
        await settle()
        assert len(reports) == 1
