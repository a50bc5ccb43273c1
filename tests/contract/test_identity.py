"""Credentials, missing buckets, anonymous access: real servers' answers, read as a person would."""

import json
from dataclasses import replace

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    CredentialsError,
    IntegrityError,
    NoSuchBucketError,
    NotFoundError,
    NotImplementedByStoreError,
)
from csi_s3.s3.bucket import open_bucket


async def test_a_missing_bucket_is_named_with_what_to_check(served):
    config = replace(served.config, bucket="no-such-bucket-here")
    async with open_bucket(config) as bucket:
        with pytest.raises(NoSuchBucketError) as caught:
            await bucket.list_page("")
        with pytest.raises(NotFoundError):  # a HEAD carries no body to tell the two apart
            await bucket.head("k")
        with pytest.raises(NoSuchBucketError):
            await bucket.put("k", b"x")
    assert "LIST s3://no-such-bucket-here/: NoSuchBucket" in caught.value.what
    assert "HTTP 404" in caught.value.what
    assert served.config.endpoint_url in caught.value.hint
    assert "bucket's name" in caught.value.hint


async def test_a_wrong_secret_key_is_refused_and_never_shown(served, aws_environment):
    secret = "wrongwrongwrongwrongwrongwrongwrongwrong"
    aws_environment.setenv("AWS_SECRET_ACCESS_KEY", secret)
    async with open_bucket(served.config) as bucket:
        if served.quirk("signatures are not checked"):
            assert (await bucket.list_page("")).next_token is None
            return
        with pytest.raises(CredentialsError, match="SignatureDoesNotMatch") as caught:
            await bucket.list_page("")
        with pytest.raises(AccessDeniedError) as head:
            await bucket.head("k")
        assert secret not in f"{bucket!r} {caught.value!r} {head.value!r}"
    assert "access key and secret key (credentials: env)" in caught.value.hint


async def test_an_unknown_access_key_is_refused(served, aws_environment):
    aws_environment.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODYKNOWSTHIS0")
    async with open_bucket(served.config) as bucket:
        if served.quirk("signatures are not checked"):
            assert (await bucket.list_page("")).next_token is None
            return
        with pytest.raises(CredentialsError, match=r"InvalidAccessKeyId|XAdminUserNotFound"):
            await bucket.list_page("")


async def test_an_anonymous_reader_sees_a_public_bucket_and_no_other(served, aws_environment):
    await served.store.put("k", b"public")
    aws_environment.delenv("AWS_ACCESS_KEY_ID")
    aws_environment.delenv("AWS_SECRET_ACCESS_KEY")
    async with open_bucket(replace(served.config, no_sign_request=True)) as bucket:
        if not served.quirk("signatures are not checked"):
            with pytest.raises(AccessDeniedError, match="HTTP 403") as caught:
                await bucket.list_page("")
            assert "s3:ListBucket" in caught.value.hint
            assert "none, anonymous" in caught.value.hint
        _make_public(served, "k", b"public")
        assert [info.key for info in (await bucket.list_page("")).objects] == ["k"]
        assert (await bucket.read_range("k", 0, 10)).data == b"public"


def _make_public(served, key: str, data: bytes) -> None:
    name = served.config.bucket
    if served.quirk("anonymous reads go by ACL"):
        acl = {"x-amz-acl": "public-read"}
        assert served.server.request("PUT", f"/{name}/{key}", data, acl)[0] == 200
        return
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": ["s3:ListBucket", "s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
            }
        ],
    }
    status, body = served.server.request("PUT", f"/{name}?policy=", json.dumps(policy).encode())
    assert status in {200, 204}, body


async def test_a_wrong_region_is_followed_once_for_the_whole_bucket(served):
    async with open_bucket(replace(served.config, region="eu-north-1")) as bucket:
        await bucket.put("k", b"x")
        assert (await bucket.head("k")).size == 1
        expected = "eu-north-1" if served.quirk("regions are not checked") else "us-east-1"
        assert expected in repr(bucket)


async def test_encryption_that_the_store_did_not_do_is_an_error_that_names_both(served):
    async with open_bucket(replace(served.config, sse="AES256")) as bucket:
        if served.quirk("server-side encryption is answered"):
            await bucket.put("k", b"x")
        elif served.quirk("server-side encryption is refused"):
            with pytest.raises(NotImplementedByStoreError, match="KMS") as refused:
                await bucket.put("k", b"x")
            assert "sse" in refused.value.hint
        else:
            with pytest.raises(IntegrityError, match="asked for encryption 'AES256'") as caught:
                await bucket.put("k", b"x")
            assert "the store answered None" in caught.value.what
