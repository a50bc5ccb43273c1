"""What the client of a bucket reads and connects to, by its options, environment and files."""

import pytest

from csi_s3.config.volume import BucketConfig
from csi_s3.errors import BadOptionError
from csi_s3.s3.reach import reach_of

PROFILES = """
[profile a]
source_profile = b
role_arn = arn:aws:iam::1:role/r
[profile b]
web_identity_token_file = /tokens/b/token
role_arn = arn:aws:iam::1:role/s
[profile c]
web_identity_token_file = /tokens/c/token
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/config").write_text(PROFILES)
    own = {
        "CONFIG_FILE": tmp_path / "shared/config",
        "SHARED_CREDENTIALS_FILE": tmp_path / "keys/credentials",
        "WEB_IDENTITY_TOKEN_FILE": "/tokens/web/token",
        "CONTAINER_AUTHORIZATION_TOKEN_FILE": "/tokens/agent/token",
        "CA_BUNDLE": "/authorities/ca.crt",
    }
    for name, value in own.items():
        monkeypatch.setenv(f"AWS_{name}", str(value))

    def of(**options):
        config = BucketConfig(bucket="b", region="us-east-1", **options)
        found = reach_of(config, tmp_path / "secret").files
        return {file.removeprefix(f"{tmp_path}/") for file in found}

    return of


SHARED = {"shared", "keys", "/tokens/agent", "/authorities"}


def test_files_are_given_by_their_directories_because_mounts_replace_them(files):
    found = files()
    assert found >= SHARED | {"/tokens/web", "secret"}
    assert not found & {"shared/config", "keys/credentials", "/tokens/b", "/tokens/c"}


def test_a_profile_s_volume_has_its_tokens_and_not_the_driver_s_own_identity(files):
    found = files(profile="a")
    assert found >= SHARED | {"/tokens/b"}
    assert not found & {"/tokens/web", "secret", "/tokens/c"}


def test_an_anonymous_volume_has_authorities_only(files):
    found = files(no_sign_request=True)
    assert "/authorities" in found
    assert not found & (SHARED - {"/authorities"} | {"/tokens/web", "secret"})


def test_never_all_files_of_a_file_at_the_root(monkeypatch, files):
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
    assert "/token" in files()
    assert "/" not in files()


@pytest.mark.parametrize("name", ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "HTTPS_PROXY"])
def test_ports_are_those_of_the_settings_and_a_malformed_one_is_an_error_with_its_name(
    monkeypatch, name
):
    config = BucketConfig(bucket="b", region="us-east-1", endpoint_url="https://store:9443")
    monkeypatch.setenv(name, "http://10.0.0.1:3128")
    assert reach_of(config, None).ports == {53, 80, 443, 3128, 9443}
    monkeypatch.setenv(name, "http://user:secret@10.0.0.1:port")
    with pytest.raises(BadOptionError, match=name) as caught:
        reach_of(config, None)
    assert "secret" not in str(caught.value)
