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
from csi_s3.mounter.observed_store import ObservedStore
from csi_s3.s3.memory_store import MemoryStore

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
async def condition(clock):
    return BucketHealth(PREFIX, clock)


def outcome(condition, error=None, *, listed=None):
    try:
        with condition.watching(listed=listed):
            if error is not None:
                raise error
    except type(error):
        pass


# --- what is the volume's -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls", [CredentialsError, NoSuchBucketError, StoreUnavailableError, StoreTimeoutError]
)
async def test_a_failure_of_the_whole_bucket_holds_until_anything_succeeds(condition, cls):
    error = cls("no")
    outcome(condition, error)
    assert condition.wrong is error
    outcome(condition, NotFoundError("no such key"))
    assert condition.wrong is error
    outcome(condition)
    assert condition.wrong is None


@pytest.mark.parametrize(
    "cls", [AccessDeniedError, StoreRefusedError, NotFoundError, PreconditionFailedError]
)
async def test_the_refusal_of_one_object_is_not_the_volumes(condition, cls):
    outcome(condition, cls("GET s3://b/x: no"))
    outcome(condition, cls("LIST s3://b/p/below/: no"), listed="p/below/")
    assert condition.wrong is None


@pytest.mark.parametrize("cls", [AccessDeniedError, IntegrityError])
async def test_a_failed_list_of_the_mounts_prefix_is_the_volumes_until_it_succeeds(condition, cls):
    error = cls("LIST s3://b/p/: no")
    outcome(condition, error, listed=PREFIX)
    assert condition.wrong is error
    outcome(condition)  # reading may be allowed all the while
    assert condition.wrong is error
    outcome(condition, listed=PREFIX)
    assert condition.wrong is None


# --- when it is worth a request of our own --------------------------------------------------------


async def test_all_is_well_while_requests_succeed_or_nobody_asks(condition, clock):
    assert not condition.is_doubtful
    outcome(condition)
    clock.now += 3600
    assert not condition.is_doubtful


@pytest.mark.parametrize("cls", [AccessDeniedError, StoreRefusedError])
async def test_a_refusal_without_a_reason_is_a_doubt_until_something_succeeds(condition, cls):
    """HEAD with expired keys is answered 400 or 403 without a body."""
    outcome(condition, cls("HEAD s3://b/x: no explanation"))
    assert condition.is_doubtful
    outcome(condition)
    assert not condition.is_doubtful


async def test_a_request_without_an_answer_for_long_is_a_doubt(condition, clock):
    with condition.watching():
        clock.now += module.STALLED_S - 1
        outcome(condition)
        clock.now += module.STALLED_S
        assert not condition.is_doubtful
        clock.now += 1
        assert condition.is_doubtful
    assert not condition.is_doubtful


async def test_a_cancelled_request_tells_nothing(condition):
    with pytest.raises(asyncio.CancelledError), condition.watching():
        raise asyncio.CancelledError
    assert condition.wrong is None
    assert not condition.is_doubtful


# --- questions and reports ------------------------------------------------------------------------


class Bucket:
    """A probe: each waits until the test says how it ends."""

    def __init__(self, condition):
        self.condition, self.probes = condition, []

    async def __call__(self):
        answer = asyncio.get_running_loop().create_future()
        self.probes.append(answer)
        with self.condition.watching(listed=PREFIX):
            await answer


@asynccontextmanager
async def watched(condition, clock):
    reports: list[object] = []
    bucket, pauses = Bucket(condition), asyncio.Semaphore(0)

    async def report():
        reports.append(condition.wrong)

    async def pause(_seconds):
        await pauses.acquire()

    watch = HealthReporter(condition, probe=bucket, report=report, clock=clock, pause=pause)
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


async def test_a_question_while_all_is_well_is_answered_without_a_request(condition, clock):
    async with watched(condition, clock) as (watch, bucket, reports, _):
        watch.ask()
        await settle()
        assert (reports, bucket.probes) == ([None], [])


@LOGGED
async def test_recovery_is_seen_though_nobody_uses_the_mount(condition, clock):
    async with watched(condition, clock) as (watch, bucket, reports, _):
        outcome(condition, StoreUnavailableError("down"))
        await settle()
        reports.clear()
        watch.ask()
        await settle()
        assert reports == []  # waits for the bucket
        bucket.probes[0].set_result(None)
        await settle()
        assert reports == [None]


@LOGGED
async def test_the_bucket_is_asked_once_in_ten_seconds_however_many_pods_ask(condition, clock):
    async with watched(condition, clock) as (watch, bucket, reports, _):
        outcome(condition, StoreUnavailableError("down"))
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
async def test_a_bucket_that_is_slow_to_answer_does_not_delay_the_answer_to_node(
    condition, clock, monkeypatch
):
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.01)
    async with watched(condition, clock) as (watch, bucket, reports, _):
        error = StoreUnavailableError("down")
        outcome(condition, error)
        await settle()
        reports.clear()
        watch.ask()
        async with asyncio.timeout(10):
            while not reports:
                await asyncio.sleep(0.01)
        assert reports == [error]
        clock.now += 2 * module.PROBE_EVERY_S
        watch.ask()
        await asyncio.sleep(0.05)
        assert len(bucket.probes) == 1  # one at a time


@LOGGED
async def test_a_bucket_that_never_answers_is_wrong(condition, clock, monkeypatch):
    monkeypatch.setattr(module, "PROBE_WITHIN_S", 0.01)
    async with watched(condition, clock) as (watch, _bucket, reports, _):
        with condition.watching():
            clock.now += module.STALLED_S + 1
            watch.ask()
            async with asyncio.timeout(10):
                while not any(reports):
                    await asyncio.sleep(0.01)
    assert isinstance(reports[-1], StoreTimeoutError)
    assert "did not answer a LIST" in str(reports[-1])


@LOGGED
async def test_changes_are_told_at_once_and_then_at_intervals(condition, clock):
    async with watched(condition, clock) as (_, _bucket, reports, pauses):
        error = StoreUnavailableError("down")
        outcome(condition, error)
        await settle()
        assert reports == [error]
        for _ in range(5):  # it flaps
            outcome(condition)
            outcome(condition, error)
        outcome(condition)
        await settle()
        assert reports == [error]
        pauses.release()
        await settle()
        assert reports == [error, None]


@LOGGED
async def test_what_came_and_went_between_two_reports_is_not_told(condition, clock):
    async with watched(condition, clock) as (_, _bucket, reports, pauses):
        outcome(condition, StoreUnavailableError("down"))
        await settle()
        outcome(condition)
        outcome(condition, StoreUnavailableError("down again"))
        pauses.release()
        await settle()
        assert len(reports) == 1


# --- the store under watch ------------------------------------------------------------------------


async def test_every_request_of_the_protocol_is_watched(condition):
    inner = MemoryStore()
    store = ObservedStore(inner, condition)
    put = await store.put("p/a", b"a")
    bad = CredentialsError("ExpiredToken")
    upload = await store.create_upload("p/u")
    part = await upload.part(1, b"x" * (5 << 20))
    requests = [
        lambda: store.head("p/a"),
        lambda: store.list_page(PREFIX),
        lambda: store.read_range("p/a", 0, 1),
        lambda: store.put("p/b", b"b"),
        lambda: store.copy(put, "p/c"),
        lambda: store.delete("p/c"),
        lambda: store.delete_many([("p/b", "")]),
        lambda: store.create_upload("p/v"),
        lambda: upload.part(2, b"y"),
        lambda: upload.complete([part]),
    ]
    for request in requests:
        outcome(condition, bad)
        assert condition.wrong is bad
        await request()
        assert condition.wrong is None
    await inner.close()
