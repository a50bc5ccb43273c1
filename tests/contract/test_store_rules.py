"""Where the requests of a volume go, over real connections, under the mounter's rules."""

import socket

import pytest

from csi_s3.config.store_rules import StoreRules
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import BadOptionError, CredentialsError
from csi_s3.s3.bucket import open_bucket
from tests.contract.conftest import at_once
from tests.contract.scripted import Reply, listing


@pytest.fixture
def resolves(monkeypatch):
    """Let every name resolve to loopback, as its owner may decide at any time."""
    real = socket.getaddrinfo

    def getaddrinfo(_host, port, *args, **kwargs):
        return real("127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("resolves")
async def test_a_name_that_resolves_to_loopback_is_refused_at_once_and_gets_no_request(s3):
    config = s3.config(endpoint_url=s3.endpoint.replace("127.0.0.1", "store.example.test"))
    async with open_bucket(config, rules=StoreRules(), pause=at_once) as bucket:
        with pytest.raises(BadOptionError, match=r"leads to 127\.0\.0\.1, a loopback address"):
            await bucket.list_page("")
    assert s3.seen == []


@pytest.mark.usefixtures("resolves")
async def test_the_same_name_may_be_used_for_development_and_in_the_mounters_own_settings(
    s3, aws_keys
):
    s3.rule = lambda _: listing("k")
    url = s3.endpoint.replace("127.0.0.1", "store.example.test")
    rules = StoreRules(allow_loopback=True)
    async with open_bucket(s3.config(endpoint_url=url), rules=rules) as bucket:
        assert [info.key for info in (await bucket.list_page("")).objects] == ["k"]
    aws_keys.setenv("AWS_ENDPOINT_URL_S3", url)
    for config in (BucketConfig(bucket="bkt"), s3.config(endpoint_url=url)):
        async with open_bucket(config, rules=StoreRules()) as bucket:
            assert [info.key for info in (await bucket.list_page("")).objects] == ["k"]


async def test_an_address_in_the_url_is_refused_before_anything_is_sent(s3):
    for url in (s3.endpoint, "http://169.254.169.254/latest/user-data"):
        with pytest.raises(BadOptionError, match="volumes may not use it"):
            async with open_bucket(s3.config(endpoint_url=url), rules=StoreRules()):
                pass
    assert s3.seen == []


async def test_a_redirect_is_not_followed_to_another_host(s3):
    s3.rule = lambda _: Reply(307, b"", {"Location": "http://169.254.169.254/latest"})
    async with open_bucket(s3.config(), rules=StoreRules(allow_loopback=True)) as bucket:
        with pytest.raises(Exception, match="HTTP 307"):
            await bucket.list_page("")
    assert [seen.path.partition("?")[0] for seen in s3.seen] == ["/bkt"]


async def test_a_session_token_is_not_sent_without_tls_unless_it_is_allowed(s3, aws_keys):
    s3.rule = lambda _: listing("k")
    rules = StoreRules(allow_loopback=True)
    async with open_bucket(s3.config(), rules=rules) as bucket:  # keys that do not expire
        await bucket.list_page("")
    aws_keys.setenv("AWS_SESSION_TOKEN", "the-token")
    s3.seen.clear()
    async with open_bucket(s3.config(), rules=rules) as bucket:
        with pytest.raises(CredentialsError, match="without TLS") as caught:
            await bucket.list_page("")
    assert s3.seen == []
    assert "s3.allowTokenOverHttp" in caught.value.hint
    assert "the-token" not in str(caught.value)
    allowing = StoreRules(allow_loopback=True, allow_token_over_http=True)
    for own in (allowing, None):  # None: a user's own mount
        async with open_bucket(s3.config(), rules=own) as bucket:
            await bucket.list_page("")
    assert len(s3.seen) == 2


async def test_no_part_of_a_foreign_answer_is_in_an_error(s3):
    s3.rule = lambda _: Reply(200, b"ami-id: secret", {"Content-Type": "text/plain"})
    async with open_bucket(s3.config(), pause=at_once) as bucket:
        with pytest.raises(Exception, match="text/plain, 14 bytes") as caught:
            await bucket.list_page("")
    error = caught.value
    assert "secret" not in f"{error} {error.hint} {error.public}"
