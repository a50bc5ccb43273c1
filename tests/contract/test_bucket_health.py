"""Every request to the bucket counts for the mount's health, with its final outcome."""

import pytest

from csi_s3.errors import AccessDeniedError, CredentialsError, StoreUnavailableError, VolumeError
from csi_s3.mounter.bucket_health import BucketHealth
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.store import ObjectInfo
from tests.contract.conftest import at_once
from tests.contract.scripted import Reply, error, listing

SOURCE = ObjectInfo(key="p/source", size=1, etag='"e"', last_modified=1.0)
DOWN = error(503, "SlowDown")


@pytest.fixture
def health():
    return BucketHealth("p/", lambda: 0.0)


@pytest.fixture
async def bucket(s3, health):
    async with open_bucket(s3.config(), watch=health.watch, pause=at_once) as opened:
        yield opened


async def _complete(bucket):
    upload = await bucket.create_upload("p/k")
    return await upload.complete([await upload.part(1, b"x")])


async def _copy_part(bucket):
    return await (await bucket.create_upload("p/k")).part_from(1, SOURCE, 0, 1)


REQUESTS = {
    "HEAD": lambda bucket: bucket.head("p/k"),
    "LIST": lambda bucket: bucket.list_page("p/below/"),
    "GET": lambda bucket: bucket.read_range("p/k", 0, 1),
    "PUT": lambda bucket: bucket.put("p/k", b"x"),
    "COPY": lambda bucket: bucket.copy(SOURCE, "p/c"),
    "DELETE": lambda bucket: bucket.delete("p/k"),
    "DELETE-MANY": lambda bucket: bucket.delete_many([("p/k", "")]),
    "CREATE-UPLOAD": lambda bucket: bucket.create_upload("p/k"),
    "COMPLETE": _complete,
    "PART-COPY": _copy_part,
}


def _success(seen):
    if "list-type" in seen.path:
        return listing()
    if seen.method == "GET":
        return Reply(206, b"x", {"ETag": '"e"', "Content-Range": "bytes 0-0/1"})
    body = b"<R><UploadId>u</UploadId><ETag>e</ETag><DeleteResult/></R>"
    head = {"ETag": '"e"', "Content-Length": "1"} if seen.method == "HEAD" else {"ETag": '"e"'}
    return Reply(204) if seen.method == "DELETE" else Reply(200, body, head)


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_request_that_stays_unanswered_is_a_failure_and_the_next_success_ends_it(
    s3, bucket, health, kind
):
    s3.rule = lambda _: DOWN
    with pytest.raises(StoreUnavailableError):
        await REQUESTS[kind](bucket)
    assert isinstance(health.failure, StoreUnavailableError)
    s3.rule = _success
    await REQUESTS[kind](bucket)
    assert health.failure is None


async def test_attempts_that_are_repeated_do_not_count(s3, bucket, health):
    s3.replies = [DOWN, DOWN, listing()]
    await bucket.list_page("p/")
    assert health.failure is None
    assert not health.changed.is_set()


async def test_a_refusal_counts_as_a_failure_only_where_it_is_the_mounts_prefix(s3, bucket, health):
    s3.rule = lambda _: error(403, "AccessDenied", "no")
    for refused in (bucket.put("p/k", b"x"), bucket.list_page("p/below/")):
        with pytest.raises(AccessDeniedError):
            await refused
    assert health.failure is None
    assert health.needs_probe
    with pytest.raises(AccessDeniedError):
        await bucket.list_page("p/")
    assert isinstance(health.failure, AccessDeniedError)


async def test_keys_that_s3_does_not_know_are_a_failure_of_the_volume(s3, bucket, health):
    s3.rule = lambda _: error(403, "InvalidAccessKeyId")
    with pytest.raises(CredentialsError):
        await bucket.read_range("p/k", 0, 1)
    assert isinstance(health.failure, CredentialsError)


async def test_a_missing_object_is_no_failure(s3, bucket, health):
    with pytest.raises(VolumeError):
        await bucket.head("p/k")
    assert not health.needs_probe
