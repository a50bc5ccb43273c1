"""A wrong region and an ended token are mended once; credentials are found where the SDK says."""

import asyncio
import logging

import pytest

from csi_s3.errors import (
    BadOptionError,
    CredentialsError,
    StoreRefusedError,
    StoreUnavailableError,
)
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.credentials.refresh import AccessKeys, Secret
from tests.contract.conftest import SECRET, at_once
from tests.contract.scripted import Reply, error, listing, scripted_s3

ENDED = error(400, "ExpiredToken", "The provided token has expired.")


def region_of(seen) -> str:
    return seen.headers["Authorization"].split("/")[2]


def token_of(seen) -> str | None:
    return seen.headers.get("X-Amz-Security-Token")


def only_in(region, refusal):
    return lambda seen: listing() if region_of(seen) == region else refusal


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "AuthorizationHeaderMalformed", "expecting 'eu-north-1'", Region="eu-north-1"),
        Reply(301, b"", {"x-amz-bucket-region": "eu-north-1"}),
        Reply(307, b"", {"x-amz-bucket-region": "eu-north-1"}),
        error(301, "PermanentRedirect", "elsewhere", Endpoint="b.s3.eu-north-1.amazonaws.com"),
    ],
    ids=["400", "301", "307", "endpoint"],
)
async def test_a_wrong_region_is_followed_once_for_the_whole_bucket(s3, refusal):
    s3.rule = only_in("eu-north-1", refusal)
    async with open_bucket(s3.config(region="us-west-2")) as bucket:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(bucket.list_page(""))
        await bucket.list_page("")
    assert sorted(map(region_of, s3.seen)) == ["eu-north-1"] * 4 + ["us-west-2"] * 3
    assert region_of(s3.seen[-1]) == "eu-north-1"


async def test_a_region_that_is_never_right_is_an_error_that_names_the_option(s3):
    s3.rule = lambda _: Reply(301, b"", {"x-amz-bucket-region": "eu-north-1"})
    async with open_bucket(s3.config()) as bucket:
        with pytest.raises(StoreRefusedError) as caught:
            await bucket.list_page("")
    assert len(s3.seen) == 2
    assert "set `region`" in caught.value.hint


async def test_a_region_that_is_no_region_is_not_followed(s3):
    s3.rule = lambda _: Reply(301, b"", {"x-amz-bucket-region": "evil.example/"})
    async with open_bucket(s3.config()) as bucket:
        with pytest.raises(BadOptionError, match=r"evil\.example"):
            await bucket.list_page("")


async def test_a_head_refused_without_a_word_is_asked_again_as_a_get(s3):
    """HEAD answers carry no body: 400 may be an ended token or another region."""

    def rule(seen):
        if region_of(seen) == "eu-north-1":
            body = b"" if seen.method == "HEAD" else b"x"
            return Reply(206, body, {"ETag": '"e"', "Content-Range": "bytes 0-0/77"})
        return error(400, "AuthorizationHeaderMalformed", "wrong", Region="eu-north-1")

    s3.rule = rule
    async with open_bucket(s3.config()) as bucket:
        assert (await bucket.head("k")).size == 77
    assert [seen.method for seen in s3.seen] == ["HEAD", "GET", "GET"]


async def test_an_ended_token_is_renewed_once_for_all_who_met_it(s3, aws_keys, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws_keys.delenv(name)
    keys = "[default]\naws_access_key_id=AKIA\naws_secret_access_key=x\naws_session_token="
    (tmp_path / "credentials").write_text(f"{keys}old\n")
    s3.rule = lambda seen: listing() if token_of(seen) == "new" else ENDED
    async with open_bucket(s3.config()) as bucket:
        (tmp_path / "credentials").write_text(f"{keys}new\n")
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(bucket.list_page(""))
    assert [token_of(seen) for seen in s3.seen].count("old") == 3
    assert len(s3.seen) == 6


async def test_a_token_that_stays_ended_is_an_error_without_secrets(s3, aws_keys):
    aws_keys.setenv("AWS_SESSION_TOKEN", "tokentokentoken")
    s3.rule = lambda _: ENDED
    async with open_bucket(s3.config()) as bucket:
        with pytest.raises(CredentialsError) as caught:
            await bucket.list_page("")
    assert len(s3.seen) == 1  # nobody has other keys
    assert "ExpiredToken: The provided token has expired." in caught.value.what
    assert "session token (credentials: env)" in caught.value.hint
    assert "tokentokentoken" not in repr(caught.value)
    assert SECRET not in repr(caught.value)


async def test_no_log_at_any_level_holds_a_secret(s3, aws_keys, caplog):
    aws_keys.setenv("AWS_SESSION_TOKEN", "tokentokentoken")
    caplog.set_level(logging.DEBUG)
    s3.rule = lambda _: listing()
    async with open_bucket(s3.config()) as bucket:
        await bucket.list_page("")
    assert "tokentokentoken" not in caplog.text
    assert SECRET not in caplog.text


async def test_a_wrong_clock_is_called_that(s3):
    s3.rule = lambda _: error(403, "RequestTimeTooSkewed", "The difference is too large.")
    async with open_bucket(s3.config()) as bucket:
        with pytest.raises(CredentialsError) as caught:
            await bucket.list_page("")
    assert "clock is wrong" in caught.value.hint


async def test_credentials_come_from_the_profile_that_was_named(s3, aws_environment, tmp_path):
    (tmp_path / "credentials").write_text(
        "[kopah]\naws_access_key_id=AKIAKOPAH\naws_secret_access_key=x\n"
    )
    (tmp_path / "config").write_text("[profile kopah]\nregion=eu-west-3\n")
    s3.rule = lambda _: listing()
    async with open_bucket(s3.config(profile="kopah")) as bucket:
        await bucket.list_page("")
    assert "Credential=AKIAKOPAH/" in s3.seen[0].headers["Authorization"]
    assert region_of(s3.seen[0]) == "eu-west-3"


async def test_an_unknown_profile_is_a_bad_option(aws_environment, s3):
    with pytest.raises(BadOptionError, match="nobody") as caught:
        async with open_bucket(s3.config(profile="nobody")):
            pass
    assert "`profile`" in caught.value.hint


async def test_no_credentials_at_all_says_where_they_may_be_given(aws_environment, s3):
    aws_environment.delenv("AWS_ACCESS_KEY_ID")
    aws_environment.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match="no AWS credentials found") as caught:
        async with open_bucket(s3.config()):
            pass
    assert "no-sign-request" in caught.value.hint
    assert s3.seen == []


async def test_anonymous_requests_are_not_signed_even_where_credentials_exist(s3):
    s3.rule = lambda _: listing()
    async with open_bucket(s3.config(no_sign_request=True)) as bucket:
        await bucket.list_page("")
    assert "Authorization" not in s3.seen[0].headers


def test_secrets_do_not_show_themselves():
    keys = AccessKeys("AKIA", Secret("hidden"), Secret("hidden too"))
    assert "hidden" not in repr(keys)
    assert "***" in repr(keys)


async def test_over_tls_payloads_are_not_signed_and_the_bundle_is_trusted(authority, aws_keys):
    async with scripted_s3(authority.context) as s3:
        s3.rule = lambda _: Reply(200, b"", {"ETag": '"e"'})
        async with open_bucket(s3.config(ca_bundle=authority.bundle)) as bucket:
            await bucket.put("k", b"x" * 3_000_000)
        assert s3.seen[0].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert len(s3.seen[0].body) == 3_000_000


async def test_an_untrusted_certificate_is_not_tried_twice_and_names_the_option(
    authority, aws_keys
):
    async with scripted_s3(authority.context) as s3:
        attempts = []
        async with open_bucket(s3.config(), observe=attempts.append, pause=at_once) as bucket:
            with pytest.raises(StoreUnavailableError) as caught:
                await bucket.list_page("")
    assert [record.status for record in attempts] == [0]
    assert "ca-bundle" in caught.value.hint


async def test_a_bundle_that_cannot_be_read_is_a_bad_option(authority, aws_keys):
    async with scripted_s3(authority.context) as s3:
        with pytest.raises(BadOptionError, match="ca-bundle '/nowhere"):
            async with open_bucket(s3.config(ca_bundle="/nowhere.pem")):
                pass
