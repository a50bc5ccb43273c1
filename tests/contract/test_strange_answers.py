"""What a store, or a proxy before it, must never be able to pass off as an answer of S3."""

import asyncio
import hashlib

import pytest

from csi_s3.errors import IntegrityError, StoreUnavailableError
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.store import ObjectInfo
from tests.contract.conftest import at_once
from tests.contract.scripted import Reply, error, listing

CREATED = Reply(200, b"<R><UploadId>U1</UploadId></R>")
PART = Reply(200, b"", {"ETag": '"p"'})
PAGE = b"<html>please log in</html>"


@pytest.fixture
async def bucket(s3):
    async with open_bucket(s3.config(), pause=at_once) as opened:
        yield opened


async def source_in(s3, bucket):
    s3.replies = [listing("k")]
    return (await bucket.list_page("")).objects[0]


@pytest.mark.parametrize("body", [b"", PAGE, b"<R/>"])
async def test_an_upload_without_an_id_is_refused_or_its_abort_would_delete_the_object(
    s3, bucket, body
):
    s3.rule = lambda _: Reply(200, body)
    with pytest.raises(StoreUnavailableError, match="CREATE-UPLOAD s3://bkt/k: not an S3 response"):
        await bucket.create_upload("k")
    assert [seen.method for seen in s3.seen] == ["POST"] * 3


@pytest.mark.parametrize("body", [b"", PAGE, b"<CompleteMultipart"])
async def test_a_complete_whose_answer_is_not_one_is_asked_again(s3, bucket, body):
    done = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
    s3.replies = [CREATED, PART]
    upload = await bucket.create_upload("k")
    part = await upload.part(1, b"data")
    s3.replies = [Reply(200, body), Reply(200, done)]
    assert (await upload.complete([part])).etag == '"e"'
    s3.replies = [Reply(200, body)] * 3
    with pytest.raises(StoreUnavailableError, match="COMPLETE s3://bkt/k"):
        await upload.complete([part])


@pytest.mark.parametrize("body", [b"", PAGE, b"<CopyObje"])
async def test_a_copy_whose_answer_is_not_one_is_asked_again(s3, bucket, body):
    source = await source_in(s3, bucket)
    s3.replies = [Reply(200, body)] * 3
    with pytest.raises(StoreUnavailableError, match="COPY s3://bkt/to"):
        await bucket.copy(source, "to")
    s3.replies = [CREATED]
    upload = await bucket.create_upload("big")
    s3.replies = [Reply(200, body), Reply(200, b"<CopyPartResult><ETag>e</ETag></CopyPartResult>")]
    assert (await upload.part_from(1, source, 0, 1)).etag == '"e"'


@pytest.mark.parametrize("body", [b"", PAGE])
async def test_a_deletion_whose_answer_is_not_one_has_deleted_nothing(s3, bucket, body):
    s3.rule = lambda _: Reply(200, body)
    with pytest.raises(StoreUnavailableError, match="DELETE-MANY"):
        await bucket.delete_many([("a", ""), ("b", "")])


async def test_a_put_that_no_version_came_of_is_not_taken_for_done(s3, bucket):
    s3.rule = lambda _: Reply(200, PAGE)
    with pytest.raises(IntegrityError, match="PUT 'k'"):
        await bucket.put("k", b"data")


async def test_a_deletion_refused_for_a_key_that_was_not_asked_deletes_no_other_key(s3, bucket):
    """A parser turns the carriage return of "a\\r" into a line end: another object's key."""
    asked = []

    def rule(seen):
        asked.append((seen.method, seen.path))
        if seen.method == "POST":
            keys = (b"<Key>a\r</Key>", b"")
            said = b"".join(b"<Error>%b<Code>SlowDown</Code></Error>" % key for key in keys)
            return Reply(200, b"<DeleteResult>" + said + b"</DeleteResult>")
        return Reply(204)

    s3.rule = rule
    assert not await bucket.delete_many([("a\r", ""), ("b", "")])
    assert asked[1:] == [("DELETE", "/bkt/a%0D"), ("DELETE", "/bkt/b")]


@pytest.mark.warnings_expected("the store refuses checksums")
async def test_stores_that_refuse_checksums_are_obeyed_by_every_put_under_way(s3, bucket):
    def rule(seen):
        if "x-amz-checksum-crc32c" in {name.lower() for name in seen.headers}:
            return error(400, "InvalidArgument", "Unsupported header x-amz-checksum-crc32c")
        return Reply(200, b"", {"ETag": '"e"'})

    s3.rule = rule
    async with asyncio.TaskGroup() as group:
        puts = [group.create_task(bucket.put(f"k{n}", b"x")) for n in range(4)]
    assert [put.result().etag for put in puts] == ['"e"'] * 4


async def test_a_range_of_an_object_whose_size_is_not_told_is_not_taken_for_the_whole(s3, bucket):
    for told in ({"Content-Range": "bytes 0-9/*"}, {}):
        s3.replies = [Reply(206, b"0123456789", {"ETag": '"e"', **told})] * 3
        with pytest.raises(IntegrityError, match="Content-Range"):
            await bucket.read_range("k", 0, 10)


async def test_a_range_that_begins_elsewhere_is_not_given_to_the_reader(s3, bucket):
    s3.replies = [Reply(206, b"0123", {"ETag": '"e"', "Content-Range": "bytes 0-3/100"})] * 3
    with pytest.raises(IntegrityError, match="Content-Range"):
        await bucket.read_range("k", 50, 4)


async def test_an_object_that_grew_after_the_store_called_it_short_is_read_again(s3, bucket):
    grown = {"ETag": '"e"', "Content-Length": "4"}
    s3.replies = [
        error(416, "InvalidRange"),
        Reply(200, b"", grown),
        Reply(206, b"data", {"ETag": '"e"', "Content-Range": "bytes 0-3/4"}),
    ]
    chunk = await bucket.read_range("k", 0, 10)
    assert (chunk.info.size, chunk.data) == (4, b"data")


async def test_a_listing_with_a_part_missing_is_an_integrity_error(s3, bucket):
    for bad in (
        "<Contents><Size>1</Size></Contents>",
        "<Contents><Key>k</Key><Size>many</Size></Contents>",
        "<Contents><Key>k</Key><Size>1</Size><LastModified>soon</LastModified></Contents>",
        "<CommonPrefixes/>",
    ):
        s3.replies = [Reply(200, f"<ListBucketResult>{bad}</ListBucketResult>".encode())]
        with pytest.raises(IntegrityError, match="LIST"):
            await bucket.list_page("")


async def test_a_listing_cannot_blow_up_in_memory(s3, bucket):
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(8))
    bomb = (
        f'<!DOCTYPE x [<!ENTITY e0 "0123456789">{entities}]>'
        '<ListBucketResult a="&e8;"><IsTruncated>false</IsTruncated></ListBucketResult>'
    )
    s3.rule = lambda _: Reply(200, bomb.encode())
    with pytest.raises(StoreUnavailableError, match="not an S3 response"):
        await bucket.list_page("")


async def test_a_head_that_tells_no_size_is_not_an_empty_file(s3, bucket):
    s3.rule = lambda _: Reply(200, b"", {"ETag": '"e"', "Transfer-Encoding": "chunked"})
    with pytest.raises(IntegrityError, match="HEAD 'k'"):
        await bucket.head("k")


async def test_a_key_that_is_not_utf_8_is_asked_for_by_its_bytes(s3, bucket):
    page = b"<EncodingType>url</EncodingType><Contents><Key>b%FFd</Key><Size>1</Size></Contents>"
    s3.replies = [Reply(200, b"<ListBucketResult>" + page + b"</ListBucketResult>")]
    (info,) = (await bucket.list_page("")).objects
    s3.replies = [Reply(204), Reply(204)]
    await bucket.delete(info.key)
    assert not await bucket.delete_many([(info.key, info.etag)])
    assert [seen.path for seen in s3.seen[1:]] == ["/bkt/b%FFd"] * 2


async def test_an_answer_without_a_version_is_not_an_object(s3, bucket):
    """A proxy's page, of which the first bytes would be taken for the file's."""
    for status, headers in ((200, {}), (204, {"ETag": '"e"'})):
        s3.rule = lambda _, s=status, h=headers: Reply(s, PAGE if s == 200 else b"", h)
        with pytest.raises(IntegrityError, match="'k'"):
            await bucket.read_range("k", 0, 100)
    s3.rule = lambda _: Reply(200, b"", {"Content-Length": "24"})
    with pytest.raises(IntegrityError, match="no ETag"):
        await bucket.head("k")


async def test_tags_whose_answer_is_cut_are_asked_for_again(s3, bucket):
    """Else the new version would have none."""
    old = ObjectInfo(key="k", size=1, etag='"old"', last_modified=0.0)
    tags = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
    s3.replies = [
        Reply(200, b"", {"ETag": '"old"', "Content-Length": "1", "x-amz-tagging-count": "1"}),
        Reply(200, tags[:30]),
        Reply(200, tags),
        Reply(200, b"", {"ETag": '"e"'}),
    ]
    await bucket.put("k", b"x", like=old)
    assert s3.seen[-1].headers["x-amz-tagging"] == "a=b"


async def test_a_damaged_body_does_not_turn_checksums_off(s3, bucket):
    """MinIO names the header when it refuses a body, as other stores when they refuse a header."""
    refusal = error(
        400, "XAmzContentChecksumMismatch", "The provided 'x-amz-checksum' header does not match"
    )
    s3.replies = [refusal] * 3
    with pytest.raises(IntegrityError, match="XAmzContentChecksumMismatch"):
        await bucket.put("k", b"data")
    s3.replies = [Reply(200, b"", {"ETag": '"e"'})]
    await bucket.put("k", b"data")
    assert "x-amz-checksum-crc32c" in s3.seen[-1].headers


async def test_a_gateway_s_503_may_have_passed_the_request_on(s3, bucket):
    """Then the condition that fails is our own doing."""
    etag = f'"{hashlib.md5(b"mine").hexdigest()}"'
    s3.replies = [
        Reply(503, b"upstream connect error"),
        error(412, "PreconditionFailed"),
        Reply(200, b"", {"ETag": etag, "Content-Length": "4"}),
    ]
    assert (await bucket.put("k", b"mine", if_match='"before"')).etag == etag
