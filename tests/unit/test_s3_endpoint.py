"""Where requests go and how they are written, without sending one."""

import pytest

from csi_s3.config import environment
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import BadOptionError, UnsupportedError
from csi_s3.s3.credentials.chain import session_for
from csi_s3.s3.credentials.refresh import AccessKeys, Secret
from csi_s3.s3.dialects import AWS
from csi_s3.s3.endpoint import Endpoint, moved, region_for, resolve
from csi_s3.s3.signing import Request, exact, payload_hash, signed_headers, url_of

VARIABLES = ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"]
PROXIES = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]


@pytest.fixture(autouse=True)
def env(monkeypatch, tmp_path):
    for name in [*VARIABLES, "AWS_ENDPOINT_URL_S3", *PROXIES, *map(str.upper, PROXIES)]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def resolved(**options) -> Endpoint:
    config = BucketConfig(**{"bucket": "bkt", **options})
    session = session_for(config)
    return resolve(config, session, region_for(config, session))


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "https://bkt.s3.us-east-1.amazonaws.com"),
        ({"region": "eu-west-1"}, "https://bkt.s3.eu-west-1.amazonaws.com"),
        ({"region": "cn-north-1"}, "https://bkt.s3.cn-north-1.amazonaws.com.cn"),
        ({"bucket": "with.dots"}, "https://s3.us-east-1.amazonaws.com/with.dots"),
        ({"force_path_style": True}, "https://s3.us-east-1.amazonaws.com/bkt"),
        ({"dual_stack": True}, "https://bkt.s3.dualstack.us-east-1.amazonaws.com"),
        ({"transfer_acceleration": True}, "https://bkt.s3-accelerate.amazonaws.com"),
        ({"endpoint_url": "http://127.0.0.1:9000"}, "http://127.0.0.1:9000/bkt"),
        ({"endpoint_url": "https://s3.kopah.uw.edu/"}, "https://s3.kopah.uw.edu/bkt"),
        (
            {"endpoint_url": "https://s3.eu-west-1.amazonaws.com"},
            "https://bkt.s3.eu-west-1.amazonaws.com",
        ),
        (
            {"bucket": "arn:aws:s3:us-west-2:123456789012:accesspoint:ap"},
            "https://ap-123456789012.s3-accesspoint.us-west-2.amazonaws.com",
        ),
    ],
)
def test_options_decide_host_and_style(options, url):
    assert resolved(**options).url == url


def test_an_access_point_is_signed_for_its_own_region():
    assert resolved(bucket="arn:aws:s3:us-west-2:123456789012:accesspoint:ap").region == "us-west-2"


@pytest.mark.parametrize(
    ("url", "is_aws"),
    [
        (None, True),
        ("https://s3.eu-west-1.amazonaws.com", True),
        ("https://vpce-1-2.s3.us-east-1.vpce.amazonaws.com", True),
        ("https://amazonaws.com.evil.example", False),
        ("http://minio.local:9000", False),
    ],
)
def test_a_store_is_taken_for_aws_by_its_host_alone(url, is_aws):
    assert (resolved(endpoint_url=url).dialect is AWS) is is_aws


def test_the_region_comes_from_option_environment_profile_in_that_order(env, tmp_path):
    assert resolved().region == "us-east-1"
    (tmp_path / "config").write_text("[default]\nregion=eu-west-3\n[profile p]\nregion=sa-east-1\n")
    assert resolved().region == "eu-west-3"
    assert resolved(profile="p").region == "sa-east-1"
    env.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert resolved().region == "eu-west-2"
    env.setenv("AWS_REGION", "eu-west-1")
    assert resolved().region == "eu-west-1"
    assert resolved(region="ca-central-1").region == "ca-central-1"


def test_the_endpoint_comes_from_option_environment_profile_in_that_order(env, tmp_path):
    (tmp_path / "config").write_text(
        "[profile p]\nservices=mine\nendpoint_url=http://all:1\n"
        "[profile q]\nendpoint_url=http://all:1\n"
        "[services mine]\ns3 =\n  endpoint_url = http://own:2\n"
    )
    assert resolved(profile="p").url == "http://own:2/bkt"
    assert resolved(profile="q").url == "http://all:1/bkt"
    env.setenv("AWS_ENDPOINT_URL", "http://env:3")
    assert resolved(profile="p").url == "http://env:3/bkt"
    env.setenv("AWS_ENDPOINT_URL_S3", "http://env:4")
    assert resolved().url == "http://env:4/bkt"
    assert resolved(endpoint_url="http://option:5").url == "http://option:5/bkt"
    env.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert resolved().url == "https://bkt.s3.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint_url": "localhost:9000"},
        {"region": "us west"},
        {"endpoint_url": "http://h:1", "dual_stack": True},
        {"endpoint_url": "http://h:1", "transfer_acceleration": True},
        {"bucket": "arn:aws:s3:us-west-2:123456789012:nonsense"},
    ],
)
def test_what_cannot_be_an_endpoint_is_a_bad_option(options):
    with pytest.raises(BadOptionError, match="no S3 endpoint for bucket") as caught:
        resolved(**options)
    assert "endpoint-url" in caught.value.hint


def test_a_directory_bucket_is_refused_by_name():
    with pytest.raises(UnsupportedError, match="x--usw2-az1--x-s3"):
        resolved(bucket="x--usw2-az1--x-s3", region="us-west-2")


def test_a_move_changes_the_host_at_aws_and_only_the_signature_elsewhere():
    for url, expected in [
        (None, "https://bkt.s3.eu-west-1.amazonaws.com"),
        ("http://minio:9000", "http://minio:9000/bkt"),
    ]:
        config = BucketConfig(bucket="bkt", endpoint_url=url)
        there = moved(resolved(endpoint_url=url), config, session_for(config), "eu-west-1")
        assert (there.url, there.region) == (expected, "eu-west-1")


ODD = ["/lead", "x//y", "./d", "../..", "a b+c%41", "ctl\x01\n", "世?#&=", "dir/", "~'()*!"]


@pytest.mark.parametrize("key", ODD, ids=repr)
@pytest.mark.parametrize("options", [{}, {"endpoint_url": "http://h:1"}], ids=["host", "path"])
def test_a_key_is_quoted_once_and_then_left_alone(key, options):
    url = url_of(Request(kind="GET", method="GET", key=key), resolved(**options))
    assert str(exact(url)) == url
    path = exact(url).raw_path_qs
    assert "?" not in path
    assert path.isascii()
    assert path.isprintable()
    assert " " not in path


def test_the_bucket_itself_is_a_slash_at_its_host_and_its_name_in_a_path():
    request = Request(kind="LIST", method="GET", query={"prefix": "a/ b", "list-type": "2"})
    assert url_of(request, resolved()).endswith(".com/?prefix=a%2F%20b&list-type=2")
    assert url_of(request, resolved(endpoint_url="http://h:1")).startswith("http://h:1/bkt?prefix")


def test_signatures_cover_the_options_and_name_region_and_service():
    request = Request(kind="PUT", method="PUT", key="k", headers={"x-amz-meta-a": "b"}, body=b"x")
    endpoint = resolved(region="eu-west-1")
    payload = payload_hash(request, endpoint)
    keys = AccessKeys("AKIA", Secret("s"), Secret("t"))
    url = url_of(request, endpoint)
    headers = signed_headers(request, endpoint, url, keys=keys, payload=payload)
    assert payload == "UNSIGNED-PAYLOAD"
    assert "/eu-west-1/s3/aws4_request" in headers["Authorization"]
    assert "x-amz-meta-a" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == "t"


def test_proxies_are_those_of_the_environment(env):
    assert environment.proxy_for("https://s3.amazonaws.com") is None
    env.setenv("HTTPS_PROXY", "http://proxy:3128")
    env.setenv("NO_PROXY", "minio.local,.internal")
    assert environment.proxy_for("https://s3.amazonaws.com") == "http://proxy:3128"
    assert environment.proxy_for("https://minio.local:9000/b") is None
    assert environment.proxy_for("http://plain.example") is None


@pytest.mark.parametrize(
    "url", ["https://me:hush@host", "minio:9000", "https://host/?x", "ftp://h"]
)
def test_an_endpoint_from_the_environment_is_held_to_the_options_form(env, url):
    """Else a password in it would stand in each error, and so in Events."""
    env.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(BadOptionError, match="AWS_ENDPOINT_URL") as caught:
        resolved()
    assert "hush" not in str(caught.value)
