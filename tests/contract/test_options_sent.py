"""What options put on requests, and what comes of stores that answer otherwise."""

import base64
import re
from dataclasses import replace

import pytest
from awscrt import checksums

from csi_s3.errors import (
    AccessDeniedError,
    ArchivedError,
    IntegrityError,
    ObjectChangedError,
    StoreUnavailableError,
    VolumeError,
)
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.store import ObjectInfo
from tests.contract.conftest import at_once, bucket_on
from tests.contract.scripted import Reply, error, listing
from tests.servers import running

KMS_KEY = "a-key"
PUT = Reply(200, b"", {"ETag": '"e"'})
CREATED = Reply(200, b"<R><UploadId>U1</UploadId></R>")
SOURCE = ObjectInfo(key="a +%b", size=3, etag='"e"', last_modified=1.0, storage_class="STANDARD_IA")


def crc32c(data: bytes) -> str:
    return base64.b64encode(checksums.crc32c(data).to_bytes(4, "big")).decode()


async def test_every_request_says_who_pays_and_whose_bucket_it_is(s3):
    config = s3.config(requester_pays=True, expected_bucket_owner="123456789012")
    async with open_bucket(config) as bucket:
        s3.rule = _anything
        await bucket.list_page("")
        await bucket.head("k")
        await bucket.read_range("k", 0, 1)
        await bucket.put("k", b"x")
        await bucket.copy(SOURCE, "c")
        await bucket.delete("k")
        await bucket.delete_many([("k", "")])
        upload = await bucket.create_upload("k")
        part = await upload.part(1, b"x")
        await upload.part_from(2, SOURCE, 0, 1)
        await upload.complete([part])
        await upload.abort()
    assert len(s3.seen) == 12
    for seen in s3.seen:
        assert seen.headers["x-amz-request-payer"] == "requester", seen
        assert seen.headers["x-amz-expected-bucket-owner"] == "123456789012", seen
        assert seen.headers["Accept-Encoding"] == "identity"
    copies = [s for s in s3.seen if "x-amz-copy-source" in s.headers]
    assert len(copies) == 2
    for seen in copies:
        assert seen.headers["x-amz-copy-source"] == "/bkt/a%20%2B%25b"
        assert seen.headers["x-amz-copy-source-if-match"] == '"e"'
        assert seen.headers["x-amz-source-expected-bucket-owner"] == "123456789012"


def _anything(seen):
    if seen.method == "GET" and "list-type" in seen.path:
        return listing()
    if seen.method == "HEAD":
        return Reply(200, b"", {"ETag": '"e"', "Content-Length": "1"})
    if seen.method == "GET":
        return Reply(206, b"x", {"ETag": '"e"', "Content-Range": "bytes 0-0/1"})
    if "uploads=" in seen.path:
        return CREATED
    if seen.method == "POST" or "x-amz-copy-source" in seen.headers:
        return Reply(200, b"<R><ETag>e</ETag><DeleteResult/></R>")
    return Reply(204) if seen.method == "DELETE" else PUT


async def test_writes_carry_encryption_class_type_and_metadata(s3):
    config = s3.config(
        sse="aws:kms", sse_kms_key_id="key-1", storage_class="ONEZONE_IA", infer_content_type=True
    )
    key = "x-amz-server-side-encryption-aws-kms-key-id"
    encrypted = {"x-amz-server-side-encryption": "aws:kms", key: "arn:aws:kms:r:1:key/key-1"}
    s3.replies = [
        Reply(200, b"", {"ETag": '"e"', **encrypted}),
        Reply(200, CREATED.body, encrypted),
    ]
    async with open_bucket(config) as bucket:
        await bucket.put("data.csv", b"x", metadata={"token": "t"})
        await bucket.create_upload("data.unknown")
    for seen in s3.seen:
        assert seen.headers["x-amz-server-side-encryption"] == "aws:kms"
        assert seen.headers[key] == "key-1"
        assert seen.headers["x-amz-storage-class"] == "ONEZONE_IA"
    assert s3.seen[0].headers["Content-Type"] == "text/csv"
    assert s3.seen[0].headers["x-amz-meta-token"] == "t"
    assert s3.seen[1].headers["Content-Type"] == "binary/octet-stream"


async def test_another_kms_key_than_the_one_asked_for_is_an_error(s3):
    answer = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:r:1:key/other",
    }
    s3.replies = [Reply(200, b"", {"ETag": '"e"', **answer})]
    async with open_bucket(s3.config(sse_kms_key_id="key-1")) as bucket:
        with pytest.raises(IntegrityError, match=r"asked for KMS key 'key-1'.*key/other"):
            await bucket.put("k", b"x")


@pytest.fixture(scope="module")
def minio_with_kms():
    secret = {"MINIO_KMS_SECRET_KEY": f"{KMS_KEY}:{base64.b64encode(bytes(32)).decode()}"}
    with running("minio", env=secret) as server:
        yield server


@pytest.fixture
async def encrypting(minio_with_kms, bucket_names, aws_environment):
    async with bucket_on(minio_with_kms, bucket_names, aws_environment) as found:
        yield found


async def test_a_kms_key_of_the_store_s_own_is_the_one_asked_for(encrypting):
    for key in (KMS_KEY, f"arn:aws:kms:{KMS_KEY}"):
        config = replace(encrypting.config, sse="aws:kms", sse_kms_key_id=key)
        async with open_bucket(config) as bucket:
            await bucket.put("k", b"x")
    other = replace(encrypting.config, sse="aws:kms", sse_kms_key_id="key")
    async with open_bucket(other) as bucket:
        with pytest.raises(VolumeError):
            await bucket.put("k", b"x")


@pytest.mark.parametrize("key", [KMS_KEY, None])
async def test_minio_encrypts_uploads_and_copies_though_its_answers_do_not_name_it(encrypting, key):
    sse = "aws:kms" if key else "AES256"
    config = replace(encrypting.config, sse=sse, sse_kms_key_id=key)
    async with open_bucket(config) as bucket:
        source = await bucket.put("source", bytes(bucket.limits.min_part_bytes))
        upload = await bucket.create_upload("large")
        first = await upload.part_from(1, source, 0, source.size)
        done = await upload.complete([first, await upload.part(2, b"end")])
        copy = await bucket.copy(done, "copy")
        assert (await bucket.read_range("copy", source.size, 10, etag=copy.etag)).data == b"end"
    for name in ("large", "copy"):
        headers = encrypting.server.head(f"/{config.bucket}/{name}")
        assert headers["x-amz-server-side-encryption"] == sse


MINIO = {"Server": "MinIO"}
LARGE = Reply(200, b"<R><ETag>e</ETag></R>", MINIO)


def head(etag, **headers):
    return Reply(200, b"", {"ETag": etag, "Content-Length": "1", **MINIO, **headers})


@pytest.mark.parametrize("kind", ["complete", "copy"])
async def test_an_object_that_minio_did_not_encrypt_is_an_error(s3, kind):
    async with open_bucket(s3.config(sse="AES256")) as bucket:
        s3.replies = [replace(listing(), headers=MINIO), replace(CREATED, headers=MINIO)]
        await bucket.list_page("")
        upload = await bucket.create_upload("k")

        def write(answer):
            s3.replies = [LARGE, answer]
            return upload.complete([]) if kind == "complete" else bucket.copy(SOURCE, "k")

        with pytest.raises(IntegrityError, match=r"asked for encryption 'AES256'.*answered None"):
            await write(head('"e"'))
        assert (await write(head('"e"', **{"x-amz-server-side-encryption": "AES256"}))).key == "k"
        assert (await write(head('"of another client"'))).etag == '"e"'
        assert (await write(error(404, "NoSuchKey"))).etag == '"e"'
    assert s3.seen[-1].method == "HEAD"


async def test_a_copy_keeps_the_storage_class_of_its_source_unless_told(s3):
    result = Reply(200, b"<CopyObjectResult><ETag>e2</ETag></CopyObjectResult>")
    async with open_bucket(s3.config()) as bucket:
        s3.replies = [result, result]
        await bucket.copy(SOURCE, "c")
        await bucket.copy(SOURCE._replace(storage_class="STANDARD"), "c")
    assert s3.seen[0].headers["x-amz-storage-class"] == "STANDARD_IA"
    assert "x-amz-storage-class" not in s3.seen[1].headers


@pytest.mark.parametrize("etag", ['"e"', ""])  # some stores list no ETag
async def test_a_marker_is_put_again_with_the_headers_and_tags_of_its_version(s3, etag):
    kept = {"Cache-Control": "no-cache", "x-amz-meta-k": "v", "x-amz-storage-class": "STANDARD_IA"}
    head = Reply(
        200, b"", {"ETag": '"e"', "Content-Length": "0", "x-amz-tagging-count": "1", **kept}
    )
    tags = b"<Tagging><TagSet><Tag><Key>t</Key><Value>1</Value></Tag></TagSet></Tagging>"
    s3.replies = [head, Reply(200, tags), PUT]
    async with open_bucket(s3.config()) as bucket:
        await bucket.copy(SOURCE._replace(key="d/", size=0, etag=etag), "e/")
    assert [seen.method for seen in s3.seen] == ["HEAD", "GET", "PUT"]
    put = s3.seen[-1]
    assert (put.path, put.headers["x-amz-tagging"]) == ("/bkt/e/", "t=1")
    assert {name: put.headers[name] for name in kept} == kept
    assert "x-amz-copy-source" not in put.headers


async def test_a_put_carries_its_checksum_and_the_answer_is_held_to_it(s3):
    async with open_bucket(s3.config(), pause=at_once) as bucket:
        s3.rule = lambda _: Reply(200, b"", {"ETag": '"e"', "x-amz-checksum-crc32c": "AAAAAA=="})
        with pytest.raises(IntegrityError, match="the store's checksum is 'AAAAAA=='"):
            await bucket.put("k", b"data")
    assert s3.seen[0].headers["x-amz-checksum-crc32c"] == crc32c(b"data")


async def test_parts_and_complete_name_their_checksums(s3):
    whole = f"{crc32c(base64.b64decode(crc32c(b'part')))}-1"
    result = f"<R><ETag>w</ETag><ChecksumCRC32C>{whole}</ChecksumCRC32C></R>".encode()
    s3.replies = [CREATED, PUT, Reply(200, result)]
    async with open_bucket(s3.config()) as bucket:
        upload = await bucket.create_upload("k")
        await upload.complete([await upload.part(1, b"part")])
        assert s3.seen[0].headers["x-amz-checksum-algorithm"] == "CRC32C"
        assert s3.seen[1].headers["x-amz-checksum-crc32c"] == crc32c(b"part")
        assert f"<ChecksumCRC32C>{crc32c(b'part')}<".encode() in s3.seen[2].body
        s3.replies = [CREATED, PUT, Reply(200, result.replace(whole.encode(), b"AAAAAA==-1"))]
        upload = await bucket.create_upload("k")
        part = await upload.part(1, b"part")
        with pytest.raises(IntegrityError, match="AAAAAA==-1"):
            await upload.complete([part])


async def test_crc64nvme_is_one_checksum_over_the_whole_object(s3):
    s3.replies = [CREATED, PUT, PUT, Reply(200, b"<R><ETag>w</ETag></R>")]
    async with open_bucket(s3.config(upload_checksums="crc64nvme")) as bucket:
        upload = await bucket.create_upload("k")
        parts = [await upload.part(1, b"first"), await upload.part(2, b"second")]
        await upload.complete(parts)
    assert s3.seen[0].headers["x-amz-checksum-type"] == "FULL_OBJECT"
    whole = checksums.crc64nvme(b"firstsecond").to_bytes(8, "big")
    sent = s3.seen[3].headers
    assert sent["x-amz-checksum-crc64nvme"] == base64.b64encode(whole).decode()
    assert sent["x-amz-checksum-type"] == "FULL_OBJECT"


@pytest.mark.warnings_expected("the store refuses checksums")
async def test_a_store_that_knows_no_checksums_gets_none_after_its_first_refusal(s3):
    refusal = error(400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc32c'")
    s3.replies = [refusal, PUT, PUT, CREATED]
    async with open_bucket(s3.config()) as bucket:
        await bucket.put("k", b"x")
        await bucket.put("k", b"y")
        await bucket.create_upload("k")
    assert len(s3.seen) == 4
    for seen in s3.seen[1:]:
        assert not [name for name in seen.headers if "checksum" in name.lower()]


async def test_checksums_off_sends_none(s3):
    s3.replies = [PUT, CREATED, PUT]
    async with open_bucket(s3.config(upload_checksums="off")) as bucket:
        await bucket.put("k", b"x")
        await (await bucket.create_upload("k")).part(1, b"x")
    for seen in s3.seen:
        assert not [name for name in seen.headers if "checksum" in name.lower()]


async def test_on_minio_an_upload_names_no_algorithm_but_its_parts_carry_checksums(s3):
    minio = replace(CREATED, headers={"Server": "MinIO"})
    s3.replies = [minio, Reply(204, b"", minio.headers), minio, PUT]
    async with open_bucket(s3.config()) as bucket:
        upload = await bucket.create_upload("k")
        await upload.part(1, b"x")
    assert [seen.method for seen in s3.seen] == ["POST", "DELETE", "POST", "PUT"]
    assert "x-amz-checksum-algorithm" not in s3.seen[2].headers
    assert s3.seen[3].headers["x-amz-checksum-crc32c"] == crc32c(b"x")


@pytest.mark.warnings_expected(r"upload U1 of 'k' could not be aborted.*AccessDenied")
async def test_an_abort_that_the_policy_refuses_is_one_warning_with_the_upload_id(s3, caplog):
    s3.replies = [CREATED, error(403, "AccessDenied", "no")]
    async with open_bucket(s3.config()) as bucket:
        await (await bucket.create_upload("k")).abort()
    assert len(caplog.records) == 1
    assert "s3:AbortMultipartUpload" in caplog.text


@pytest.mark.warnings_expected("changed and copied objects lose their tags")
async def test_a_policy_without_tagging_rights_does_not_stop_copies(s3, caplog):
    result = Reply(200, b"<CopyObjectResult><ETag>e2</ETag></CopyObjectResult>")
    s3.replies = [error(403, "AccessDenied", "no tags for you"), result, result]
    async with open_bucket(s3.config()) as bucket:
        await bucket.copy(SOURCE, "one")
        await bucket.copy(SOURCE, "two")
    assert [s.headers.get("x-amz-tagging-directive") for s in s3.seen] == [
        None,
        "REPLACE",
        "REPLACE",
    ]
    assert len(caplog.records) == 1


@pytest.mark.warnings_expected("changed and copied objects lose their tags")
@pytest.mark.parametrize("kind", ["put", "upload"])
async def test_tags_that_the_policy_refuses_to_a_change_are_not_sent_again(s3, caplog, kind):
    tagged = Reply(200, b"", {"ETag": '"e"', "Content-Length": "3", "x-amz-tagging-count": "1"})
    tags = b"<Tagging><TagSet><Tag><Key>t</Key><Value>1</Value></Tag></TagSet></Tagging>"
    result = PUT if kind == "put" else CREATED
    copied = Reply(200, b"<CopyObjectResult><ETag>e2</ETag></CopyObjectResult>")
    s3.replies = [tagged, Reply(200, tags), error(403, "AccessDenied"), result, tagged, result]
    async with open_bucket(s3.config()) as bucket:
        for _ in range(2):
            if kind == "put":
                await bucket.put("k", b"x", like=SOURCE)
            else:
                await bucket.create_upload("k", like=SOURCE)
        s3.replies = [copied]
        await bucket.copy(SOURCE, "c")
    assert [s.headers.get("x-amz-tagging") for s in s3.seen[2:6]] == ["t=1", None, None, None]
    assert s3.seen[-1].headers["x-amz-tagging-directive"] == "REPLACE"
    assert len(caplog.records) == 1


async def test_a_copy_that_is_refused_for_itself_keeps_tags_next_time(s3):
    result = Reply(200, b"<CopyObjectResult><ETag>e2</ETag></CopyObjectResult>")
    denied = error(403, "AccessDenied", "no")
    s3.replies = [denied, denied, result]
    async with open_bucket(s3.config()) as bucket:
        with pytest.raises(AccessDeniedError) as caught:
            await bucket.copy(SOURCE, "one")
        await bucket.copy(SOURCE, "two")
    assert "x-amz-tagging-directive" not in s3.seen[-1].headers
    assert "s3:GetObject on the source and s3:PutObject on the key" in caught.value.hint


async def test_what_delete_many_could_not_delete_comes_back_with_the_reason(s3):
    body = b"""<DeleteResult>
        <Error><Key>kept</Key><Code>AccessDenied</Code><Message>no</Message></Error>
        <Error><Key>busy</Key><Code>InternalError</Code><Message>later</Message></Error>
        <Error><Key>gone</Key><Code>NoSuchKey</Code><Message>none</Message></Error>
        </DeleteResult>"""
    s3.replies = [Reply(200, body), Reply(204), Reply(204)]
    async with open_bucket(s3.config()) as bucket:
        keys = ["kept", "busy", "gone", "a&<b\r\n", "ctl\x01"]
        remain = await bucket.delete_many((key, "") for key in keys)
    assert remain.counts == {AccessDeniedError: 1}
    key, why = remain.first[AccessDeniedError]
    assert key == "kept"
    assert "DELETE-MANY s3://bkt/kept: AccessDenied: no" in str(why)
    assert [s.method for s in s3.seen] == ["POST", "DELETE", "DELETE"]
    assert b"<Key>a&amp;&lt;b&#13;&#10;</Key>" in s3.seen[0].body
    assert b"ctl" not in s3.seen[0].body
    assert {s.path for s in s3.seen[1:]} == {"/bkt/ctl%01", "/bkt/busy"}


async def test_a_million_refused_keys_are_one_error_of_each_kind(s3):
    """So the memory of a refusal does not grow with the number of keys."""

    def refuse(seen):
        keys = re.findall(rb"<Key>(.*?)</Key>", seen.body)
        said = b"".join(b"<Error><Key>%b</Key><Code>AccessDenied</Code></Error>" % k for k in keys)
        return Reply(200, b"<DeleteResult>" + said + b"</DeleteResult>")

    s3.rule = refuse
    async with open_bucket(s3.config()) as bucket:
        remain = await bucket.delete_many((f"{n}", "") for n in range(3500))
    assert (len(remain), remain.counts) == (3500, {AccessDeniedError: 3500})
    assert [key for key, _ in remain.first.values()] == ["0"]


def said_of(**keys):
    errors = "".join(
        f"<Error><Key>{key}</Key><Code>{code}</Code></Error>" for key, code in keys.items()
    )
    return Reply(200, f"<DeleteResult>{errors}</DeleteResult>".encode())


async def test_a_batch_names_the_versions_that_are_to_go(s3):
    """As AWS answers: a key that holds another version is an error, and so is one without any."""
    s3.replies = [said_of(theirs="PreconditionFailed", gone="NoSuchKey"), error(412, "x", "x")]
    async with open_bucket(s3.config()) as bucket:
        keys = ["ours", "theirs", "gone"]
        remain = await bucket.delete_many([*((k, f'"{k}&"') for k in keys), ("any", "")])
    assert remain.counts == {ObjectChangedError: 1}
    assert remain.first[ObjectChangedError][0] == "theirs"
    objects = s3.seen[0].body
    assert b'<Object><Key>ours</Key><ETag>"ours&amp;"</ETag></Object>' in objects
    assert b"<Object><Key>any</Key></Object>" in objects
    assert (s3.seen[1].path, s3.seen[1].headers["If-Match"]) == ("/bkt/theirs", '"theirs&"')


@pytest.mark.parametrize(
    "refusal", [error(400, "MalformedXML", "ETag"), error(501, "NotImplemented", "ETag")]
)
async def test_a_store_that_takes_no_versions_in_batches_gets_none(s3, refusal):
    s3.replies = [refusal, said_of(), said_of()]
    async with open_bucket(s3.config()) as bucket:
        assert not await bucket.delete_many([("a", '"1"')])
        assert not await bucket.delete_many([("b", '"2"')])
    assert [b"ETag" in s.body for s in s3.seen] == [True, False, False]


async def test_a_batch_that_is_refused_for_something_else_is_not_sent_without_versions(s3):
    s3.rule = lambda _: error(403, "AccessDenied", "no")
    async with open_bucket(s3.config()) as bucket:
        with pytest.raises(AccessDeniedError):
            await bucket.delete_many([("a", '"1"')])
    assert len(s3.seen) == 1


async def test_a_store_that_cannot_compare_at_delete_deletes(s3):
    s3.replies = [error(501, "NotImplemented", "If-Match"), Reply(204)]
    async with open_bucket(s3.config()) as bucket:
        await bucket.delete("k", if_match='"e"')
    assert "If-Match" not in s3.seen[1].headers


@pytest.mark.parametrize(
    ("headers", "archived"),
    [
        ({"x-amz-storage-class": "GLACIER"}, True),
        ({"x-amz-storage-class": "DEEP_ARCHIVE", "x-amz-restore": 'ongoing-request="true"'}, True),
        (
            {
                "x-amz-storage-class": "GLACIER",
                "x-amz-restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012"',
            },
            False,
        ),
        ({"x-amz-storage-class": "GLACIER_IR"}, False),
        (
            {
                "x-amz-storage-class": "INTELLIGENT_TIERING",
                "x-amz-archive-status": "ARCHIVE_ACCESS",
            },
            True,
        ),
    ],
)
async def test_head_tells_whether_an_object_is_archived(s3, headers, archived):
    s3.replies = [Reply(200, b"", {"ETag": '"e"', "Content-Length": "5", **headers})]
    async with open_bucket(s3.config()) as bucket:
        info = await bucket.head("k")
    assert info.archived is archived
    assert info.storage_class == headers["x-amz-storage-class"]


async def test_reading_an_archived_object_says_that_it_must_be_restored(s3):
    s3.replies = [error(403, "InvalidObjectState", "not valid for the object's storage class")]
    async with open_bucket(s3.config()) as bucket:
        with pytest.raises(ArchivedError) as caught:
            await bucket.read_range("k", 0, 10)
    assert "restore the object" in caught.value.hint


async def test_a_page_that_is_no_listing_says_so(s3):
    s3.rule = lambda _: Reply(200, b"<html>Welcome to the console</html>")
    async with open_bucket(s3.config(), pause=at_once) as bucket:
        with pytest.raises(StoreUnavailableError, match="not an S3 response") as caught:
            await bucket.list_page("")
    assert "`endpoint-url` is an S3 endpoint" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "guessed"),
    [
        ("data:text/html,x.csv", "text/csv"),
        ("10:30?a=b.csv", "text/csv"),
        ("x:report.csv?draft", "binary/octet-stream"),
        ("dir.csv/plain", "binary/octet-stream"),
        ("a.json", "application/json"),
    ],
)
async def test_a_type_is_derived_from_the_name_and_never_read_out_of_it(s3, key, guessed):
    s3.rule = lambda _: PUT
    async with open_bucket(s3.config(infer_content_type=True)) as bucket:
        await bucket.put(key, b"x")
    assert s3.seen[0].headers["Content-Type"] == guessed
