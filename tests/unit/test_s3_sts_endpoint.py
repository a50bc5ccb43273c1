"""Which STS is asked: a near one, and not us-east-1 only because no region is set."""

import pytest

from csi_s3.config.volume import BucketConfig
from csi_s3.errors import CredentialsError
from csi_s3.s3.credentials.chain import session_for
from csi_s3.s3.endpoint import sts_url


@pytest.fixture
def env(monkeypatch, tmp_path):
    for name in ("REGION", "DEFAULT_REGION", "PROFILE", "ENDPOINT_URL", "ENDPOINT_URL_STS"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("STS_REGIONAL_ENDPOINTS", "USE_FIPS_ENDPOINT", "IGNORE_CONFIGURED_ENDPOINT_URLS"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return monkeypatch


def url(**options: object) -> str:
    config = BucketConfig(bucket="b", **options)
    return sts_url(config, session_for(config))


def test_it_is_the_environments_regions_own(env):
    env.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert url() == "https://sts.eu-west-3.amazonaws.com"
    env.setenv("AWS_REGION", "eu-central-1")
    assert url() == "https://sts.eu-central-1.amazonaws.com"


def test_a_volumes_region_counts_where_the_environment_names_none(env):
    assert url(region="ap-south-1") == "https://sts.ap-south-1.amazonaws.com"
    env.setenv("AWS_REGION", "eu-central-1")
    assert url(region="ap-south-1") == "https://sts.eu-central-1.amazonaws.com"


def test_partitions_have_their_own_names(env):
    env.setenv("AWS_REGION", "cn-north-1")
    assert url() == "https://sts.cn-north-1.amazonaws.com.cn"


def test_fips_and_the_old_global_endpoint_are_as_the_sdk_has_them(env):
    env.setenv("AWS_REGION", "us-west-2")
    env.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    assert url() == "https://sts-fips.us-west-2.amazonaws.com"
    env.delenv("AWS_USE_FIPS_ENDPOINT")
    env.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")
    assert url() == "https://sts.amazonaws.com"


def test_an_endpoint_that_is_given_wins_and_s3s_is_not_taken_for_it(env):
    env.setenv("AWS_REGION", "eu-central-1")
    env.setenv("AWS_ENDPOINT_URL_S3", "http://minio:9000")
    assert url() == "https://sts.eu-central-1.amazonaws.com"
    env.setenv("AWS_ENDPOINT_URL", "http://all:1")
    assert url() == "http://all:1"
    env.setenv("AWS_ENDPOINT_URL_STS", "https://sts.corp:8443")
    assert url() == "https://sts.corp:8443"


def test_a_region_that_cannot_be_one_is_an_error_with_the_values_to_check(env):
    env.setenv("AWS_REGION", "no region")
    with pytest.raises(CredentialsError, match="no region") as caught:
        url()
    assert "sts.endpointUrl" in caught.value.hint
