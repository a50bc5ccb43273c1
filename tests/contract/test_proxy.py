"""The install's proxy, certificate authority, endpoint and region, for S3 and for STS."""

from datetime import UTC, datetime

import pytest

from csi_s3.config.volume import BucketConfig
from csi_s3.errors import CredentialsError, StoreUnavailableError
from csi_s3.s3.bucket import open_bucket
from tests.contract.conftest import at_once
from tests.contract.scripted import Reply, listing, scripted_s3
from tests.contract.test_web_identity import ROLE, SUBJECT, given, key_of, token_of
from tests.proxy import running_proxy

HOST = "store.example.test"  # only the proxy resolves it


def port_of(server) -> str:
    return server.endpoint.rpartition(":")[2]


@pytest.fixture
async def proxy(aws_environment):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        aws_environment.delenv(name, raising=False)
        aws_environment.delenv(name.lower(), raising=False)
    async with running_proxy() as running:
        aws_environment.setenv("HTTPS_PROXY", running.url)
        aws_environment.setenv("HTTP_PROXY", running.url)
        yield running


async def test_s3_is_reached_through_the_proxy_and_trusted_by_the_installs_bundle(
    proxy, authority, aws_keys
):
    aws_keys.setenv("AWS_CA_BUNDLE", authority.bundle)
    async with scripted_s3(authority.context) as s3:
        s3.rule = lambda _: Reply(200, b"", {"ETag": '"e"'})
        aws_keys.setenv("AWS_ENDPOINT_URL_S3", f"https://{HOST}:{port_of(s3)}")
        async with open_bucket(BucketConfig(bucket="bkt")) as bucket:
            await bucket.put("k", b"x" * 300_000)
        assert proxy.asked == [f"CONNECT {HOST}:{port_of(s3)} HTTP/1.1"]
        assert s3.seen[0].body == b"x" * 300_000


async def test_without_the_bundle_the_store_is_not_trusted(proxy, authority, aws_keys):
    async with scripted_s3(authority.context) as s3:
        config = BucketConfig(bucket="bkt", endpoint_url=f"https://{HOST}:{port_of(s3)}")
        async with open_bucket(config, pause=at_once) as bucket:
            with pytest.raises(StoreUnavailableError) as caught:
                await bucket.list_page("")
        assert "ca-bundle" in caught.value.hint
        assert s3.seen == []


async def test_no_proxy_goes_straight(proxy, authority, aws_keys):
    aws_keys.setenv("NO_PROXY", "10.0.0.0/8,.example.test")
    config = BucketConfig(bucket="bkt", endpoint_url=f"http://{HOST}:1", max_attempts=1)
    async with open_bucket(config) as bucket:
        with pytest.raises(StoreUnavailableError, match=HOST):
            await bucket.list_page("")
    assert proxy.asked == []


async def test_a_plain_http_store_is_asked_through_the_proxy_with_the_whole_url(proxy, aws_keys):
    async with scripted_s3() as s3:
        s3.rule = lambda _: listing()
        config = BucketConfig(bucket="bkt", endpoint_url=f"http://{HOST}:{port_of(s3)}")
        async with open_bucket(config) as bucket:
            await bucket.list_page("")
        assert proxy.asked[0].startswith(f"GET http://{HOST}:{port_of(s3)}/bkt?")
        assert len(s3.seen) == 1


async def test_sts_is_reached_through_the_proxy_and_trusted_by_the_installs_bundle(
    proxy, authority, aws_environment, tmp_path
):
    (tmp_path / "token").write_text(token_of(SUBJECT))
    aws_environment.setenv("AWS_ROLE_ARN", ROLE)
    aws_environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    aws_environment.setenv("AWS_CA_BUNDLE", authority.bundle)
    async with scripted_s3(authority.context) as sts, scripted_s3() as s3:
        sts.rule = lambda _: given("ROLE", now=datetime.now(UTC))
        s3.rule = lambda _: listing()
        aws_environment.setenv("AWS_ENDPOINT_URL_STS", f"https://{HOST}:{port_of(sts)}")
        async with open_bucket(s3.config()) as bucket:
            await bucket.list_page("")
        assert proxy.asked == [f"CONNECT {HOST}:{port_of(sts)} HTTP/1.1"]
        assert key_of(s3.seen[0]) == "ROLE"
        aws_environment.delenv("AWS_CA_BUNDLE")
        with pytest.raises(CredentialsError, match="certificate verify failed") as caught:
            async with open_bucket(s3.config()):
                pass
    assert "CA bundle" in caught.value.hint


async def test_an_sts_that_the_proxy_refuses_is_told_without_the_proxys_password(
    proxy, aws_environment, tmp_path
):
    (tmp_path / "token").write_text(token_of(SUBJECT))
    aws_environment.setenv("AWS_ROLE_ARN", ROLE)
    aws_environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    aws_environment.setenv("AWS_ENDPOINT_URL_STS", f"https://{HOST}:1")
    async with running_proxy("me:hush") as strict:
        aws_environment.setenv("HTTPS_PROXY", strict.url)
        strict.login = "me:other"
        with pytest.raises(CredentialsError, match="the proxy refuses: 407") as caught:
            async with open_bucket(BucketConfig(bucket="bkt")):
                pass
    assert "hush" not in str(caught.value)


async def test_a_proxy_that_asks_who_is_there_is_told_and_its_password_is_shown_to_nobody(
    authority, aws_keys, proxy
):
    aws_keys.setenv("AWS_CA_BUNDLE", authority.bundle)
    async with scripted_s3(authority.context) as s3, running_proxy("me:hush") as strict:
        s3.rule = lambda _: listing()
        config = BucketConfig(
            bucket="bkt", endpoint_url=f"https://{HOST}:{port_of(s3)}", max_attempts=1
        )
        aws_keys.setenv("HTTPS_PROXY", strict.url)
        async with open_bucket(config) as bucket:
            await bucket.list_page("")
        assert len(s3.seen) == 1
        strict.login = "me:other"
        async with open_bucket(config) as bucket:
            with pytest.raises(StoreUnavailableError) as caught:
                await bucket.list_page("")
    assert "407" in caught.value.what
    assert "hush" not in f"{caught.value}"


async def test_endpoint_and_region_of_the_install_serve_volumes_that_name_none(s3, aws_keys):
    s3.rule = lambda _: listing()
    aws_keys.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    aws_keys.setenv("AWS_REGION", "eu-central-1")
    async with open_bucket(BucketConfig(bucket="my.bucket")) as bucket:
        await bucket.list_page("")
    async with open_bucket(BucketConfig(bucket="bkt", region="us-west-2")) as bucket:
        await bucket.list_page("")
    paths = [seen.path.partition("?")[0] for seen in s3.seen]
    assert paths == ["/my.bucket", "/bkt"]  # path style, unasked
    signed_for = [seen.headers["Authorization"].split("/")[2] for seen in s3.seen]
    assert signed_for == ["eu-central-1", "us-west-2"]
