"""Every fault that passes, at every kind of request, before real servers.

Once it fails nothing, and the bytes are right. If it stays, the operation ends after its attempts,
with the error that docs/errors.md has for it.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest

from csi_s3.aio import LONGEST_PAUSE_S
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import IntegrityError, NotFoundError, StoreUnavailableError
from csi_s3.fuse.bridge import ANSWER_WITHIN_S
from csi_s3.s3.bucket import Bucket, open_bucket
from csi_s3.s3.store import ObjectInfo
from tests.contract.scripted import error
from tests.faulty import Act, Fault, Faulty, faulty
from tests.servers import Server, running

ATTEMPTS = 3
DATA = bytes(range(256)) * 40
LARGE = bytes(range(256)) * (24 << 10)  # 6 MiB: large enough for a part that is not the last

PAGE = b"<html><body>Please try again</body></html>"
SAID = "<?xml version='1.0'?><Error><Code>{}</Code><Message>x</Message></Error>"


def told(status: int, code: str = "") -> Fault:
    return Fault(Act.ANSWER, status=status, body=SAID.format(code).encode() if code else PAGE)


GATEWAY = [408, 425, 429, 499, 500, 502, 503, 504, 509, *range(520, 528), 530, 599]
DAMAGED = ["BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"]
FAULTS = {
    "a gateway's status": [told(status) for status in GATEWAY],
    "SlowDown": [told(503, "SlowDown")],
    "InternalError": [told(500, "InternalError")],
    "cut on its way": [told(400, "RequestTimeout"), told(400, "IncompleteBody")],
    "damaged on its way": [told(400, code) for code in DAMAGED],
    "reset": [Fault(Act.BREAK)],
    "lost answer": [Fault(Act.LOSE)],
    "cut answer": [Fault(Act.CUT)],
    "short answer": [Fault(Act.SHORTEN)],
    "page": [Fault(Act.REPLACE, status=200, body=PAGE)],
    "late error": [Fault(Act.REPLACE, status=200, body=SAID.format("InternalError").encode())],
    "damaged": [Fault(Act.DAMAGE)],
}


@dataclass
class World:
    """A bucket behind a proxy. `source` is there, and has DATA."""

    store: Bucket
    source: ObjectInfo
    new: str = ""  # a key that nothing else uses
    upload: Any = None
    parts: Any = None

    async def holds(self, key: str, data: bytes) -> bool:
        return bytes((await self.store.read_range(key, 0, len(data) + 1)).data) == data

    async def is_gone(self, key: str) -> bool:
        try:
            await self.store.head(key)
        except NotFoundError:
            return True
        return False


@dataclass
class Operation:
    """method, path: which of its requests meets the fault. call: tells whether all is right."""

    method: str
    path: str
    call: Callable[[World], Awaitable[bool]]
    prepare: Callable[[World], Awaitable[None]] | None = None


async def head(w: World) -> bool:
    return (await w.store.head(w.source.key)).size == len(DATA)


async def get(w: World) -> bool:
    return bytes((await w.store.read_range(w.source.key, 3, 5000)).data) == DATA[3:5003]


async def get_whole(w: World) -> bool:
    return await w.holds(w.source.key, DATA)


async def list_(w: World) -> bool:
    page = await w.store.list_page("source")
    return [info.key for info in page.objects] == [w.source.key]


async def put(w: World) -> bool:
    info = await w.store.put(w.new, DATA)
    return info.size == len(DATA) and await w.holds(w.new, DATA)


async def copy(w: World) -> bool:
    await w.store.copy(w.source, w.new)
    return await w.holds(w.new, DATA)


async def make(w: World) -> None:
    await w.store.put(w.new, DATA)


async def delete(w: World) -> bool:
    await w.store.delete(w.new)
    return await w.is_gone(w.new)


async def delete_many(w: World) -> bool:
    failed = await w.store.delete_many([(w.new, "")])
    return not failed and await w.is_gone(w.new)


async def create(w: World) -> bool:
    await begin(w)
    return await part(w)


async def begin(w: World) -> None:
    w.upload = await w.store.create_upload(w.new)


async def part(w: World) -> bool:
    await w.upload.complete([await w.upload.part(1, DATA)])
    return await w.holds(w.new, DATA)


async def part_copy(w: World) -> bool:
    await w.upload.complete([await w.upload.part_from(1, w.source, 0, len(DATA))])
    return await w.holds(w.new, DATA)


async def begin_parts(w: World) -> None:
    await begin(w)
    w.parts = [await w.upload.part(1, LARGE), await w.upload.part(2, DATA)]


async def complete(w: World) -> bool:
    info = await w.upload.complete(w.parts)
    return info.size == len(LARGE + DATA) and await w.holds(w.new, LARGE + DATA)


async def abort(w: World) -> bool:
    await w.upload.abort()
    return await w.is_gone(w.new)


PART = r"partNumber=1&uploadId="
OPERATIONS = {
    "HEAD": Operation("HEAD", "source", head),
    "GET": Operation("GET", "source$", get),
    "GET whole": Operation("GET", "source$", get_whole),
    "LIST": Operation("GET", "list-type=2", list_),
    "PUT": Operation("PUT", "new-[0-9]+$", put),
    "COPY": Operation("PUT", "new-[0-9]+$", copy),
    "DELETE": Operation("DELETE", "new-[0-9]+$", delete, make),
    "DELETE-MANY": Operation("POST", r"\?delete", delete_many, make),
    "CREATE-UPLOAD": Operation("POST", r"\?uploads", create),
    "PART": Operation("PUT", PART, part, begin),
    "PART-COPY": Operation("PUT", PART, part_copy, begin),
    "COMPLETE": Operation("POST", r"\?uploadId=", complete, begin_parts),
    "ABORT": Operation("DELETE", r"\?uploadId=", abort, begin),
}
ANSWERED = {"GET", "GET whole", "LIST", "COPY", "CREATE-UPLOAD", "PART-COPY", "COMPLETE"}
WITH_SUM = {"PUT", "PART"}


def is_case(operation: str, fault: str) -> bool:
    """Whether such a thing can be: a HEAD has no words, a DELETE no body."""
    if fault in ("cut answer", "short answer"):
        return operation in ANSWERED
    if fault == "damaged":
        return operation in WITH_SUM
    if fault == "page":
        return operation not in ("DELETE", "ABORT")
    return operation != "HEAD" or all(f.status != 400 for f in FAULTS[fault])


CASES = [(o, f) for o in OPERATIONS for f in FAULTS if is_case(o, f)]


def error_of(operation: str, fault: str) -> type[Exception] | None:
    """If it stays. What has no ETag, or too few bytes, is no answer of S3."""
    is_read = operation in ("HEAD", "GET", "GET whole")
    if (operation, fault) == ("COMPLETE", "short answer"):
        return None  # the next attempt is refused, and finds that it was done
    if fault.startswith("damaged"):
        return IntegrityError
    if fault in ("page", "short answer") and (is_read or operation in WITH_SUM):
        return IntegrityError
    if fault == "late error" and is_read:
        return IntegrityError
    return StoreUnavailableError


@pytest.fixture(scope="module")
def minio() -> Iterator[Server]:
    with running("minio") as server:
        server.create_bucket("data")
        yield server


@pytest.fixture(scope="module")
def proxy(minio: Server) -> Iterator[Faulty]:
    with faulty(minio.endpoint) as through:
        yield through


keys = (f"new-{n}" for n in range(1, 1_000_000))


@dataclass
class Trial:
    """One operation that meets one fault: how it is called, and the pauses that it made."""

    world: World
    proxy: Faulty
    pauses: list[float]
    met: int = 0

    async def run(self, operation: Operation, fault: Fault, *, times: int) -> bool:
        world = replace(self.world, new=next(keys))
        if operation.prepare is not None:
            await operation.prepare(world)
        meant = replace(fault, method=operation.method, path=operation.path, times=times)
        self.pauses.clear()
        self.proxy.faults = [meant]
        try:
            return await operation.call(world)
        finally:
            self.proxy.faults = []
            self.met = times - meant.times


@pytest.fixture
async def trial(minio, proxy, aws_environment):
    for variable, value in minio.env().items():
        aws_environment.setenv(variable, value)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    config = BucketConfig(bucket="data", endpoint_url=proxy.endpoint, max_attempts=ATTEMPTS)
    async with open_bucket(config, pause=pause) as bucket:
        yield Trial(World(bucket, await bucket.put("source", DATA)), proxy, pauses)


@pytest.mark.parametrize(("name", "kind"), CASES)
async def test_a_fault_that_passes_fails_nothing(trial, name, kind):
    """Promise: A transient fault is not an error."""
    for fault in FAULTS[kind]:
        assert await trial.run(OPERATIONS[name], fault, times=1), fault
        assert trial.met == 1
        assert len(trial.pauses) <= 1  # a connection that was closed is made again at once


@pytest.mark.warnings_expected("upload .* could not be aborted")
@pytest.mark.parametrize(("name", "kind"), CASES)
async def test_a_fault_that_stays_is_an_error_after_the_attempts(trial, name, kind):
    expected = error_of(name, kind)
    for fault in FAULTS[kind]:
        if expected is None or name == "ABORT":  # which only says what is kept
            assert await trial.run(OPERATIONS[name], fault, times=-1)
        else:
            with pytest.raises(expected) as caught:
                await trial.run(OPERATIONS[name], fault, times=-1)
            assert caught.type is expected
            assert caught.value.hint
        assert trial.met == (ATTEMPTS if expected else 2)
        assert trial.pauses == sorted(trial.pauses)
    assert await trial.world.holds("source", DATA)


async def test_pauses_grow_and_end_before_a_program_is_given_up(s3):
    pauses = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    s3.rule = lambda _: error(503, "SlowDown")
    attempts = BucketConfig(bucket="bkt").max_attempts
    for _ in range(20):
        pauses.clear()
        async with open_bucket(s3.config(max_attempts=attempts), pause=pause) as bucket:
            with pytest.raises(StoreUnavailableError):
                await bucket.list_page("")
        assert len(pauses) == attempts - 1
        growing = pauses[:-2]  # the longest are as long as they may be
        assert all(a < b for a, b in pairwise(growing))
        assert min(pauses[-2:]) >= LONGEST_PAUSE_S / 2
        assert sum(pauses) < ANSWER_WITHIN_S
    assert len({round(p, 6) for p in pauses}) == len(pauses), "no jitter"
