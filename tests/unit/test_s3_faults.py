"""S3's answers, and what they become."""

import errno
import ssl
from dataclasses import replace
from types import SimpleNamespace

import aiohttp
import pytest

from csi_s3.errors import (
    AccessDeniedError,
    ArchivedError,
    CredentialsError,
    IntegrityError,
    InvalidNameError,
    KeyTooLongError,
    NoSuchBucketError,
    NotFoundError,
    NotImplementedByStoreError,
    PreconditionFailedError,
    QuotaExceededError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
)
from csi_s3.s3 import faults
from csi_s3.s3.checksums import ALGORITHMS
from csi_s3.s3.credentials import fetch
from csi_s3.s3.store import Part

ASKED = faults.RequestContext(
    kind="GET",
    bucket="bkt",
    key="dir/a\nb",
    endpoint="https://bkt.s3.us-east-1.amazonaws.com",
    region="us-east-1",
    signed_by="iam-role",
)


def fault(status, code="", message="", **headers):
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return faults.read(status, headers, body if code else b"")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("n" * 246, InvalidNameError), ("n" * 247, KeyTooLongError), ("é" * 124, KeyTooLongError)],
)
def test_a_name_that_is_too_long_for_minio_is_told_so(name, expected):
    answer = fault(400, "XMinioInvalidObjectName", "Object name contains unsupported characters.")
    error = faults.to_error(answer, replace(ASKED, key=f"dir/{name}/"))
    assert type(error) is expected
    assert ("at most 246" in error.hint) == (expected is KeyTooLongError)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", AccessDeniedError),
        (403, "", AccessDeniedError),
        (403, "SignatureDoesNotMatch", CredentialsError),
        (403, "InvalidAccessKeyId", CredentialsError),
        (403, "RequestTimeTooSkewed", CredentialsError),
        (400, "ExpiredToken", CredentialsError),
        (401, "", CredentialsError),
        (403, "InvalidObjectState", ArchivedError),
        (404, "NoSuchBucket", NoSuchBucketError),
        (404, "NoSuchKey", NotFoundError),
        (404, "", NotFoundError),
        (404, "NoSuchUpload", NotFoundError),
        (412, "", PreconditionFailedError),
        (409, "ConditionalRequestConflict", StoreUnavailableError),
        (409, "OperationAborted", StoreUnavailableError),
        (501, "NotImplemented", NotImplementedByStoreError),
        (400, "BadDigest", IntegrityError),
        (400, "KeyTooLongError", KeyTooLongError),
        (400, "XMinioInvalidObjectName", InvalidNameError),
        (400, "MalformedXML", StoreRefusedError),
        (405, "", StoreRefusedError),
        (503, "SlowDown", StoreUnavailableError),
        (400, "RequestTimeout", StoreUnavailableError),
        (200, "InternalError", StoreUnavailableError),
        (408, "", StoreUnavailableError),
        (520, "", StoreUnavailableError),
        (505, "", StoreRefusedError),
        (403, "QuotaExceeded", QuotaExceededError),  # Ceph, versitygw, Ozone
        (429, "QuotaExceeded", QuotaExceededError),  # Scality
        (400, "XMinioAdminBucketQuotaExceeded", QuotaExceededError),
        (403, "InsufficientStorageSpace", QuotaExceededError),  # Huawei
        (507, "XMinioStorageFull", StoreFullError),
        (507, "InsufficientStorage", StoreFullError),  # versitygw
        (507, "", StoreFullError),
    ],
)
def test_each_refusal_has_its_class(status, code, expected):
    assert type(faults.to_error(fault(status, code), ASKED)) is expected


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (403, "AccessDenied", "Bucket size quota is reached, maximum is 9", QuotaExceededError),
        (507, "EntityTooLarge", "bucket quota exceeded", QuotaExceededError),
        (403, "AccessDenied", "storage cap exceeded", QuotaExceededError),
        (429, "TooManyRequests", "request quota exceeded", StoreUnavailableError),
    ],
)
def test_a_quota_that_only_the_text_tells_is_one_of_bytes(status, code, message, expected):
    found = fault(status, code, message)
    assert type(faults.to_error(found, ASKED)) is expected
    assert not (found.may_reject_keys and expected is QuotaExceededError)


def test_a_store_without_room_is_no_question_of_policy_or_options():
    for full in (fault(403, "QuotaExceeded"), fault(507, "XMinioStorageFull")):
        error = faults.to_error(full, ASKED)
        assert not full.is_retryable
        assert error.keeps_bytes
        assert "remove objects" in error.hint
        assert "policy" not in error.hint
        assert "option" not in error.hint


def test_a_message_tells_what_where_why_and_which_request():
    refusal = fault(403, "AccessDenied", "Access Denied", **{"x-amz-request-id": "R1"})
    error = faults.to_error(refusal, ASKED)
    assert error.what == (
        r"GET s3://bkt/dir/a\nb: AccessDenied: Access Denied (HTTP 403, request id R1)"
    )
    assert "must allow s3:GetObject on the key" in error.hint
    assert "credentials: iam-role" in error.hint


@pytest.mark.parametrize("key", ["dir/a", "other/b"])
@pytest.mark.parametrize("request_id", ["R1", "R2"])
def test_what_is_told_is_the_same_for_every_object_and_every_request(key, request_id):
    said = f'no s3:GetObject on resource: "arn:aws:s3:::bkt/{key}"'  # as AWS has it
    refusal = fault(403, "AccessDenied", said, **{"x-amz-request-id": request_id})
    error = faults.to_error(refusal, replace(ASKED, key=key))
    assert key in error.what
    assert request_id in error.what
    told = error.as_public()
    assert type(told) is AccessDeniedError
    assert told.hint == error.hint
    assert told.what == (
        'GET s3://bkt/…: AccessDenied: no s3:GetObject on resource: "arn:aws:s3:::bkt/…" (HTTP 403)'
    )


def test_a_listing_of_the_whole_bucket_is_told_as_such():
    error = faults.to_error(fault(404, "NoSuchBucket"), replace(ASKED, kind="LIST", key=""))
    assert error.as_public().what == "LIST s3://bkt/: NoSuchBucket (HTTP 404)"


@pytest.mark.parametrize("context", [True, ssl.create_default_context()])
def test_a_failed_connection_is_told_without_aiohttp_s_note_on_tls(context):
    connection = SimpleNamespace(host="10.0.0.1", port=9, is_ssl=False, ssl=context)
    refused = OSError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 9)")
    exc = aiohttp.ClientConnectorError(connection, refused)
    error = faults.from_connection(exc, ASKED)
    said = "ClientConnectorError: Cannot connect to host 10.0.0.1:9 [Connect call failed ('10.0.0."
    assert f"GET s3://bkt/dir/a\\nb: {ASKED.endpoint}: {said}" in error.what
    assert f"GET s3://bkt/…: {ASKED.endpoint}: {said}" in error.as_public().what
    assert fetch.why(exc).startswith(said)  # of STS and the metadata services


@pytest.mark.parametrize(
    "exc",
    [TimeoutError(), aiohttp.ClientHttpProxyError(None, (), status=407, message="no"), OSError()],
)
def test_no_failed_connection_is_told_with_the_object(exc):
    error = faults.from_connection(exc, ASKED)
    assert r"dir/a\nb" in error.what
    assert error.as_public().what.startswith("GET s3://bkt/…: ")


def test_a_page_of_a_proxy_is_not_taken_for_s3s_words():
    error = faults.to_error(faults.read(403, {}, b"<html><b>Blocked"), ASKED)
    assert error.what.endswith(": no explanation (HTTP 403)")


@pytest.mark.parametrize("option", ["crc32c", "crc64nvme"])
def test_checksums_of_parts_make_the_whole_unless_one_is_missing(option):
    sums = ALGORITHMS[option]
    parts = [
        Part(number=n, etag="e", size=len(data), checksum=sums.of(data))
        for n, data in enumerate([b"one", b"two", b""], start=1)
    ]
    whole = sums.of_parts(parts)
    assert whole == (sums.of(b"onetwo") if sums.full_object else whole)
    assert whole.endswith("-3") is not sums.full_object
    assert sums.of_parts([*parts, Part(number=4, etag="e", size=1)]) == ""


def test_known_checksums():
    """The check values of the CRC catalogue, for the bytes 123456789."""
    assert ALGORITHMS["crc32c"].of(b"123456789") == "4waSgw=="
    assert ALGORITHMS["crc64nvme"].of(b"123456789") == "rosUhgp5mIg="
    assert "off" not in ALGORITHMS
