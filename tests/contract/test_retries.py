"""What is tried again, how often, and what is never tried again."""

import asyncio
import base64
import hashlib

import pytest
from awscrt.checksums import crc32c

from csi_s3.errors import (
    IntegrityError,
    NotFoundError,
    PreconditionFailedError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.signing import Request
from csi_s3.s3.store import ObjectInfo
from tests.contract.conftest import SECRET, at_once
from tests.contract.scripted import Reply, error, listing


@pytest.fixture
async def pauses():
    return []


@pytest.fixture
async def bucket(s3, pauses):
    async def pause(seconds):
        pauses.append(seconds)

    async with open_bucket(s3.config(), pause=pause) as opened:
        yield opened


@pytest.mark.parametrize(
    "refusal",
    [
        error(503, "SlowDown", "Please reduce your request rate."),
        error(500, "InternalError", "We encountered an internal error."),
        error(400, "RequestTimeout", "Your socket connection was not read from."),
        error(429, "TooManyRequests"),
        Reply(502, b"<html>bad gateway</html>"),
    ],
    ids=lambda r: str(r.status),
)
async def test_an_overloaded_store_is_asked_again_after_growing_pauses(s3, bucket, pauses, refusal):
    s3.replies = [refusal, refusal, listing("k")]
    page = await bucket.list_page("")
    assert [info.key for info in page.objects] == ["k"]
    assert len(s3.seen) == 3
    assert 0.1 <= pauses[0] <= 0.2 <= pauses[1] <= 0.4


async def test_a_store_that_stays_overloaded_is_given_up_and_its_words_are_passed_on(s3, bucket):
    s3.rule = lambda _: error(503, "SlowDown", "Please reduce your request rate.")
    with pytest.raises(StoreUnavailableError) as caught:
        await bucket.list_page("dir/")
    assert len(s3.seen) == 3
    assert caught.value.what == (
        "LIST s3://bkt/dir/: SlowDown: Please reduce your request rate. (HTTP 503, request id REQ1)"
    )


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 412, 501, 505, 507])
async def test_a_refusal_is_not_asked_twice(s3, bucket, status):
    s3.rule = lambda _: error(status, "SomeCode", "no")
    with pytest.raises(Exception, match="SomeCode: no"):
        await bucket.put("k", b"x")
    assert len(s3.seen) == 1


async def test_an_answer_that_breaks_off_is_fetched_again(s3, bucket):
    body = bytes(100_000)
    headers = {"ETag": '"e"', "Content-Range": "bytes 0-99999/100000"}
    s3.replies = [Reply(206, body, headers, cut=50_000), Reply(206, body, headers)]
    assert (await bucket.read_range("k", 0, 100_000)).data == body
    assert len(s3.seen) == 2


async def test_an_answer_that_always_breaks_off_is_an_error(s3, bucket):
    headers = {"ETag": '"e"', "Content-Range": "bytes 0-9/10"}
    s3.rule = lambda _: Reply(206, b"0123456789", headers, cut=4)
    with pytest.raises(StoreUnavailableError, match="GET s3://bkt/k"):
        await bucket.read_range("k", 0, 10)
    assert len(s3.seen) == 3


async def test_a_body_shorter_than_its_range_is_an_integrity_error(s3, bucket):
    s3.rule = lambda _: Reply(206, b"0123", {"ETag": '"e"', "Content-Range": "bytes 0-9/10"})
    with pytest.raises(IntegrityError, match=r"4 bytes .* 10"):
        await bucket.read_range("k", 0, 10)


async def test_nobody_listening_is_an_error_that_names_the_endpoint(s3, pauses, aws_keys):
    async with open_bucket(
        s3.config(endpoint_url="http://127.0.0.1:9", max_attempts=2), pause=at_once
    ) as bucket:
        with pytest.raises(StoreUnavailableError) as caught:
            await bucket.list_page("")
    assert "http://127.0.0.1:9" in caught.value.what
    assert "endpoint-url" in caught.value.hint
    assert SECRET not in repr(caught.value)


async def test_a_store_that_falls_silent_is_a_timeout(s3, bucket):
    s3.rule = lambda _: Reply(hang=True)
    request = Request(kind="GET", method="GET", key="k", quiet_s=0.05)
    with pytest.raises(StoreTimeoutError, match="GET s3://bkt/k: no progress"):
        await bucket._http.done(request)
    assert len(s3.seen) == 3


async def test_a_put_that_was_cancelled_leaves_no_connection_busy(s3, bucket):
    s3.replies = [Reply(hang=True)]
    put = asyncio.create_task(bucket.put("k", b"x"))
    while not s3.seen:
        await asyncio.sleep(0)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    s3.replies = [listing()]
    assert (await bucket.list_page("")).next_token is None


def _held(data: bytes, **metadata: str) -> Reply:
    etag = f'"{hashlib.md5(data).hexdigest()}"'
    headers = {f"x-amz-meta-{k}": v for k, v in metadata.items()}
    return Reply(200, b"", {"ETag": etag, "Content-Length": str(len(data)), **headers})


async def test_a_conditional_put_whose_answer_was_lost_is_recognised_as_done(s3, bucket):
    s3.replies = [Reply(lost=True), error(412, "PreconditionFailed"), _held(b"mine")]
    info = await bucket.put("k", b"mine", if_match='"before"')
    assert (info.size, len(s3.seen)) == (4, 3)
    assert s3.seen[-1].method == "HEAD"


async def test_an_exclusive_put_is_recognised_by_its_metadata_only(s3, bucket):
    s3.replies = [Reply(lost=True), error(412, "PreconditionFailed"), _held(b"", token="t1")]
    assert (await bucket.put("k", b"", if_none_match=True, metadata={"token": "t1"})).size == 0
    s3.replies = [Reply(lost=True), error(412, "PreconditionFailed"), _held(b"", token="t2")]
    with pytest.raises(PreconditionFailedError):
        await bucket.put("k", b"", if_none_match=True, metadata={"token": "t1"})
    s3.replies = [Reply(lost=True), error(412, "PreconditionFailed")]
    with pytest.raises(PreconditionFailedError):
        await bucket.put("k", b"", if_none_match=True)


async def test_with_kms_whose_etag_is_no_md5_the_checksum_recognises_what_was_done(s3, bucket):
    kms = {"ETag": '"of-kms"', "Content-Length": "4"}
    ours = {"x-amz-checksum-crc32c": base64.b64encode(crc32c(b"mine").to_bytes(4, "big")).decode()}
    s3.replies = [
        Reply(lost=True),
        error(412, "PreconditionFailed"),
        Reply(200, b"", {**kms, **ours}),
    ]
    assert (await bucket.put("k", b"mine", if_match='"before"')).etag == '"of-kms"'
    assert s3.seen[-1].headers["x-amz-checksum-mode"] == "ENABLED"
    s3.replies = [Reply(lost=True), error(412, "PreconditionFailed"), Reply(200, b"", kms)]
    with pytest.raises(PreconditionFailedError):
        await bucket.put("k", b"mine", if_match='"before"')


async def test_an_exclusive_copy_whose_answer_was_lost_is_recognised_as_done(s3, bucket):
    source = ObjectInfo(key="old", size=4, etag=_held(b"mine").headers["ETag"], last_modified=0.0)
    nothing, refused = error(404, "NoSuchKey"), error(412, "PreconditionFailed")
    s3.replies = [nothing, Reply(lost=True), refused, _held(b"mine"), _held(b"mine")]
    assert (await bucket.copy(source, "new", if_none_match=True)).key == "new"
    s3.replies = [nothing, Reply(lost=True), refused, _held(b"mine"), _held(b"not ours")]
    with pytest.raises(PreconditionFailedError):
        await bucket.copy(source, "new", if_none_match=True)


async def test_a_412_at_once_is_not_questioned(s3, bucket):
    s3.replies = [error(412, "PreconditionFailed")]
    with pytest.raises(PreconditionFailedError):
        await bucket.put("k", b"mine", if_match='"before"')
    assert len(s3.seen) == 1


CREATED = Reply(200, b"<R><UploadId>U1</UploadId></R>")
PART = Reply(200, b"", {"ETag": f'"{hashlib.md5(b"data").hexdigest()}"'})
WHOLE = f'"{hashlib.md5(hashlib.md5(b"data").digest()).hexdigest()}-1"'
SUM = base64.b64encode(crc32c(crc32c(b"data").to_bytes(4, "big")).to_bytes(4, "big")).decode()


@pytest.mark.parametrize("refusal", [error(404, "NoSuchUpload"), error(412, "PreconditionFailed")])
@pytest.mark.parametrize(
    "held", [{"ETag": WHOLE}, {"ETag": '"of-kms-1"', "x-amz-checksum-crc32c": f"{SUM}-1"}]
)
async def test_a_completed_upload_whose_answer_was_lost_is_recognised_as_done(
    s3, bucket, refusal, held
):
    done = Reply(200, b"", {"Content-Length": "4", **held})
    s3.replies = [CREATED, PART, Reply(lost=True), refusal, done]
    upload = await bucket.create_upload("k")
    info = await upload.complete([await upload.part(1, b"data")], if_none_match=True)
    assert (info.etag, info.size) == (held["ETag"], 4)


@pytest.mark.parametrize("theirs", ['"0123456789abcdef0123456789abcdef-1"', '"of-kms-1"'])
async def test_somebody_elses_upload_of_the_same_size_in_as_many_parts_is_not_taken_for_ours(
    s3, bucket, theirs
):
    """Two mounts that edit one object are like that."""
    other = Reply(200, b"", {"ETag": theirs, "Content-Length": "4"})
    s3.replies = [CREATED, PART, Reply(lost=True), error(412, "PreconditionFailed"), other]
    upload = await bucket.create_upload("k")
    with pytest.raises(PreconditionFailedError):
        await upload.complete([await upload.part(1, b"data")], if_match='"before"')


@pytest.mark.parametrize("kind", ["put", "complete"])
async def test_a_conflict_of_two_conditional_writes_is_tried_again_and_then_decided(
    s3, bucket, kind
):
    """409 says that another request was under way, not who has won."""
    conflict = error(409, "ConditionalRequestConflict")
    s3.replies = [CREATED, PART] if kind == "complete" else []
    upload = await bucket.create_upload("k") if kind == "complete" else None
    parts = [await upload.part(1, b"data")] if upload else []

    def write():
        return upload.complete(parts, if_match='"e"') if upload else bucket.put("k", b"data")

    done = Reply(200, b"<R><ETag>e2</ETag></R>", {"ETag": '"e2"'})
    s3.replies = [conflict, done]
    assert (await write()).etag == '"e2"'
    s3.replies = [conflict, error(412, "PreconditionFailed"), _held(b"theirs")]
    with pytest.raises(PreconditionFailedError):
        await write()
    s3.replies = [conflict] * 3  # S3 wants another upload then, with all its parts
    failure = NotFoundError if upload else StoreUnavailableError
    with pytest.raises(failure, match="ConditionalRequestConflict"):
        await write()


async def test_an_upload_that_somebody_aborted_is_not_taken_for_done(s3, bucket):
    other = Reply(200, b"", {"ETag": '"other"', "Content-Length": "4"})
    s3.replies = [CREATED, PART, Reply(lost=True), error(404, "NoSuchUpload"), other]
    upload = await bucket.create_upload("k")
    with pytest.raises(NotFoundError, match="NoSuchUpload"):
        await upload.complete([await upload.part(1, b"data")])


async def test_a_200_whose_body_is_an_error_is_an_error(s3, bucket):
    late = error(200, "InternalError", "We encountered an internal error. Please try again.")
    s3.replies = [CREATED, PART]
    upload = await bucket.create_upload("k")
    part = await upload.part(1, b"data")
    s3.replies = [late, late, late]
    with pytest.raises(StoreUnavailableError, match="COMPLETE s3://bkt/k: InternalError"):
        await upload.complete([part])
    source = (await _listed(s3, bucket))[0]
    s3.replies = [late, Reply(200, b"<CopyObjectResult><ETag>e2</ETag></CopyObjectResult>")]
    assert (await bucket.copy(source, "copy")).etag == '"e2"'
    s3.replies = [error(200, "InvalidRequest", "too large")]
    with pytest.raises(StoreRefusedError, match="too large"):
        await bucket.copy(source, "copy")


async def _listed(s3, bucket):
    s3.replies = [listing("k")]
    return (await bucket.list_page("")).objects
