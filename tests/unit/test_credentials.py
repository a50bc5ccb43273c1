"""Credentials are renewed in time, once for all, and neither too often nor for nothing."""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from csi_s3.errors import CredentialsError
from csi_s3.s3.credentials.refresh import (
    AccessKeys,
    CredentialClock,
    Credentials,
    RefreshableCredentials,
    Secret,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = CredentialsError("STS says no", "look at the role")


@dataclass
class Time:
    """A virtual clock; both hands move together."""

    seconds: float = 0.0

    def clock(self) -> CredentialClock:
        return CredentialClock(now=self.now, monotonic_s=lambda: self.seconds)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)


@dataclass
class FakeFinder:
    """One source that is also the whole search. answers: in turn; the last one stays."""

    time: Time
    answers: list[object]
    asked: int = 0
    file: Credentials | None = None
    answering: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answering.set()

    def ends_in(self, name: str, seconds: float | None) -> Credentials:
        expires = None if seconds is None else self.time.now() + timedelta(seconds=seconds)
        keys = AccessKeys(name, Secret("s"), None)
        return Credentials(keys=keys, origin=f"source of {name}", source=self, expires=expires)

    async def find(self) -> Credentials | str:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await self.answering.wait()
        if isinstance(answer, CredentialsError):
            raise answer
        if isinstance(answer, tuple):
            return self.ends_in(*answer)
        return answer

    def newer(self, *, at_once: bool) -> Credentials | None:
        found, self.file = self.file, None
        return found


async def opened(*answers: object) -> tuple[RefreshableCredentials, FakeFinder, Time]:
    time = Time()
    finder = FakeFinder(time, list(answers))
    identity = RefreshableCredentials(finder, bucket="b", clock=time.clock())
    await identity.open()
    return identity, finder, time


async def name_of(identity: RefreshableCredentials) -> str:
    return (await identity.keys()).access_key


async def test_keys_without_an_end_are_never_asked_for_again():
    identity, finder, time = await opened(("A", None))
    time.seconds = 1e9
    assert await name_of(identity) == "A"
    assert finder.asked == 1


@pytest.mark.parametrize(("lifetime", "until"), [(3600, 2700), (43200, 42300), (900, 675)])
async def test_keys_are_renewed_a_quarter_of_an_hour_or_of_their_life_before_their_end(
    lifetime, until
):
    identity, finder, time = await opened(("A", lifetime), ("B", lifetime))
    for seconds in range(0, until, 60):
        time.seconds = seconds
        assert await name_of(identity) == "A"
    time.seconds = until - 1
    assert (await name_of(identity), finder.asked) == ("A", 1)
    time.seconds = until
    assert (await name_of(identity), finder.asked) == ("B", 2)


async def test_while_one_renews_the_others_go_on_with_the_keys_that_still_last():
    identity, finder, time = await opened(("A", 3600), ("B", 3600))
    time.seconds = 3000
    finder.answering.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(identity.keys())
        await asyncio.sleep(0)
        assert await name_of(identity) == "A"
        finder.answering.set()
    assert first.result().access_key == "B"
    assert finder.asked == 2


async def test_once_they_have_ended_all_wait_for_one_renewal():
    identity, finder, time = await opened(("A", 3600), ("B", 3600))
    time.seconds = 4000
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(identity.keys()) for _ in range(5)]
    assert {task.result().access_key for task in tasks} == {"B"}
    assert finder.asked == 2


@pytest.mark.warnings_expected("cannot be renewed yet: STS says no")
async def test_a_renewal_that_fails_harms_nobody_while_the_keys_last_and_is_tried_again():
    identity, finder, time = await opened(("A", 3600), REFUSED, ("B", 3600))
    time.seconds = 2700
    assert (await name_of(identity), finder.asked) == ("A", 2)
    time.seconds = 2729
    assert (await name_of(identity), finder.asked) == ("A", 2)
    time.seconds = 2730
    assert (await name_of(identity), finder.asked) == ("B", 3)


async def test_ended_keys_that_cannot_be_renewed_are_an_error_which_all_share_for_a_while():
    identity, finder, time = await opened(("A", 3600), REFUSED, ("B", 3600))
    time.seconds = 3600
    for _ in range(5):
        with pytest.raises(CredentialsError, match="STS says no") as caught:
            await identity.keys()
    assert caught.value.hint == "look at the role"
    assert finder.asked == 2
    time.seconds = 3606
    assert (await name_of(identity), finder.asked) == ("B", 3)


async def test_a_source_that_is_gone_says_what_is_missing():
    identity, _, time = await opened(("A", 3600), "the variable is not set")
    time.seconds = 3600
    with pytest.raises(CredentialsError, match=r"source of A.*no longer available.*not set"):
        await identity.keys()


async def test_a_cancelled_renewal_leaves_it_to_the_next():
    identity, finder, time = await opened(("A", 3600), ("B", 3600), ("C", 3600))
    time.seconds = 4000
    finder.answering.clear()
    task = asyncio.create_task(identity.keys())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    finder.answering.set()
    assert await name_of(identity) == "C"


async def test_keys_that_have_ended_when_they_come_are_used_and_not_asked_for_at_each_request():
    """This clock is ahead, perhaps; S3 will say."""
    identity, finder, time = await opened(("A", -3600))
    for seconds in range(30):
        time.seconds = seconds
        assert await name_of(identity) == "A"
    assert finder.asked == 1
    time.seconds = 31
    await identity.keys()
    assert finder.asked == 2


async def test_keys_that_appear_in_the_files_are_used_at_once():
    identity, finder, _ = await opened(("A", 3600))
    finder.file = finder.ends_in("FILE", None)
    assert await name_of(identity) == "FILE"
    assert identity.source == "source of FILE"


async def test_refused_keys_are_replaced_by_one_search_for_all_who_were_refused():
    identity, finder, _ = await opened(("A", None), ("B", None))
    old = await identity.keys()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(identity.renew(old, unknown=True)) for _ in range(5)]
    assert [task.result() for task in tasks] == [True] * 5
    assert finder.asked == 2


async def test_a_search_that_finds_the_same_keys_is_not_repeated_for_every_refusal():
    identity, finder, time = await opened(("A", None))
    keys = await identity.keys()
    for _ in range(5):
        assert not await identity.renew(keys, unknown=True)
    assert finder.asked == 2
    time.seconds = 11
    assert not await identity.renew(keys, unknown=True)
    assert finder.asked == 3


async def test_a_plain_denial_looks_at_files_and_asks_no_service():
    identity, finder, _ = await opened(("A", 3600))
    keys = await identity.keys()
    assert not await identity.renew(keys, unknown=False)
    assert finder.asked == 1
    finder.file = finder.ends_in("FILE", None)
    assert await identity.renew(keys, unknown=False)
    assert await name_of(identity) == "FILE"


async def test_the_log_names_the_source_and_the_end_and_no_key(caplog):
    caplog.set_level(logging.INFO, "csi_s3")
    await opened(("AKIA", 3600))
    assert caplog.messages == [
        "credentials for bucket b: source of AKIA, until 2026-01-01T01:00:00Z"
    ]
