"""Which proxy a request goes through: the variables as people write them."""

import pytest

from csi_s3.config import environment

S3 = "https://s3.eu-central-1.amazonaws.com"


@pytest.fixture
def env(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    return monkeypatch


def test_a_proxy_without_a_scheme_is_an_http_proxy(env):
    env.setenv("HTTPS_PROXY", "proxy.corp:3128")
    assert environment.proxy_for(S3) == "http://proxy.corp:3128"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/api/token",
        "http://169.254.170.23/v1/credentials",
        "http://127.0.0.1:9000",
        "http://localhost:9000",
        "http://[::1]:9000",
    ],
)
def test_metadata_services_and_this_machine_are_never_asked_through_a_proxy(env, url):
    assert environment.proxy_for(url) is None


@pytest.mark.parametrize(
    ("no_proxy", "url", "through"),
    [
        ("10.0.0.0/8,172.16.0.0/12", "http://10.99.0.1:9000/b", False),
        ("10.0.0.0/8, 172.16.0.0/12", "http://172.20.0.1/b", False),
        ("10.0.0.0/8", "http://11.0.0.1/b", True),
        ("fd00::/8", "http://[fd00:ec2::23]/b", False),
        ("10.0.0.1", "http://10.0.0.1:9000/b", False),
        (".svc,.cluster.local", "http://minio.s3.svc:9000/b", False),
        ("amazonaws.com", S3, False),
        ("*", S3, False),
        ("nonsense/33", S3, True),
        ("", S3, True),
    ],
)
def test_no_proxy_may_hold_names_addresses_and_networks(env, no_proxy, url, through):
    env.setenv("NO_PROXY", no_proxy)
    assert (environment.proxy_for(url) is not None) is through


def test_empty_variables_are_as_if_not_set(env):
    env.setenv("HTTPS_PROXY", "")
    env.setenv("AWS_REGION", "")
    assert environment.proxy_for(S3) is None
    assert environment.aws("REGION") is None
