"""EKS Pod Identity's agent and EC2's instance metadata on the wire, and what is said without."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from csi_s3.errors import CredentialsError
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.credentials.instance_credentials import (
    ContainerCredentials,
    InstanceCredentials,
    _is_agent,
)
from csi_s3.s3.credentials.refresh import CredentialClock
from tests.contract.conftest import SECRET, at_once
from tests.contract.scripted import Reply, listing, scripted_s3
from tests.contract.test_web_identity import START, Time, key_of

ROLES = "/latest/meta-data/iam/security-credentials/"


def given(name: str, *, minutes: float = 60, now: datetime = START, **more: str) -> Reply:
    said = {
        "Code": "Success",
        "AccessKeyId": name,
        "SecretAccessKey": SECRET,
        "Token": f"token-of-{name}",
        "Expiration": (now + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **more,
    }
    return Reply(200, json.dumps(said).encode())


@pytest.fixture
async def bucket_server(aws_environment):
    async with scripted_s3() as s3:
        s3.rule = lambda _: listing()
        yield s3


async def refused(s3, *, clock: CredentialClock | None = None) -> CredentialsError:
    with pytest.raises(CredentialsError) as caught:
        async with open_bucket(s3.config(), clock=clock):
            pass
    assert SECRET not in str(caught.value)
    return caught.value


# --- the container's agent ------------------------------------------------------------------------


@pytest.fixture
async def agent(aws_environment, tmp_path):
    """As EKS's webhook sets it up; the agent on loopback, which the SDKs allow, too."""
    (tmp_path / "token").write_text("first-token\n")
    async with scripted_s3() as running_agent:
        url = f"{running_agent.endpoint}/v1/credentials"
        aws_environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        aws_environment.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        yield running_agent


async def test_the_agent_is_asked_with_the_token_of_now_at_each_renewal(
    agent, bucket_server, tmp_path
):
    time = Time()
    agent.replies = [given("ONE"), given("TWO", minutes=120)]
    async with open_bucket(bucket_server.config(), clock=time.clock) as bucket:
        await bucket.list_page("")
        (tmp_path / "token").write_text("second-token")
        time.seconds = 60 * 50
        await bucket.list_page("")
    assert [(seen.path, seen.headers["Authorization"]) for seen in agent.seen] == [
        ("/v1/credentials", "first-token"),
        ("/v1/credentials", "second-token"),
    ]
    assert [key_of(seen) for seen in bucket_server.seen] == ["ONE", "TWO"]
    assert bucket_server.seen[-1].headers["X-Amz-Security-Token"] == "token-of-TWO"


async def test_an_agent_that_refuses_is_quoted_with_what_to_check(agent, bucket_server):
    agent.rule = lambda _: Reply(400, b"[first-token]: ResourceNotFoundException: no association")
    error = await refused(bucket_server)
    assert "HTTP 400" in error.what
    assert "ResourceNotFoundException: no association" in error.what
    assert "first-token" not in error.what
    assert "pods.eks.amazonaws.com" in error.hint
    assert len(agent.seen) == 1


async def test_an_agent_that_is_failing_is_asked_twice(agent, bucket_server):
    agent.replies = [Reply(500), given("ONE", now=datetime.now(UTC))]
    async with open_bucket(bucket_server.config()) as bucket:
        await bucket.list_page("")
    assert len(agent.seen) == 2


async def test_an_agent_that_never_answers_is_named(agent):
    agent.rule = lambda _: Reply(hang=True)
    url = f"{agent.endpoint}/v1/credentials"
    source = ContainerCredentials(url, token="t", within_s=0.05, pause=at_once)
    with pytest.raises(CredentialsError, match=f"{url}: no answer in time") as caught:
        await source.find()
    assert "eks-pod-identity-agent runs" in caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/v1", "http://example.com/v1", "http://169.254.169.254/", "file:///etc/x"],
)
async def test_the_token_goes_to_nobody_but_an_agent(agent, bucket_server, aws_environment, url):
    aws_environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    error = await refused(bucket_server)
    assert url in error.what
    assert "169.254.170.23" in error.hint


@pytest.mark.parametrize(
    "url", ["http://169.254.170.23/v1/credentials", "http://[fd00:ec2::23]/v1"]
)
def test_eks_agents_addresses_are_allowed(url):
    assert _is_agent(url)


async def test_an_eks_agents_address_without_a_token_is_passed_over(
    agent, imds, bucket_server, aws_environment
):
    """Values files have the address; without an association EKS gives no token."""
    url = "http://169.254.170.23/v1/credentials"
    aws_environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    aws_environment.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    async with open_bucket(bucket_server.config()) as bucket:
        await bucket.list_page("")
    assert agent.seen == []
    assert key_of(bucket_server.seen[0]) == "ONE"  # the instance's


async def test_an_agents_token_file_that_is_missing_is_named(agent, bucket_server, tmp_path):
    (tmp_path / "token").unlink()
    assert f"{tmp_path}/token cannot be read" in (await refused(bucket_server)).what
    assert agent.seen == []


# --- EC2 ------------------------------------------------------------------------------------------


@pytest.fixture
async def imds(aws_environment):
    """Version 2 of the protocol: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ (IMDSv2)."""

    def rule(seen):
        if seen.method == "PUT" and seen.path == "/latest/api/token":
            assert seen.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "21600"
            return Reply(200, b"session")
        if seen.headers.get("X-aws-ec2-metadata-token") != "session":
            return Reply(401)
        if seen.path == ROLES:
            return Reply(200, b"node-role")
        assert seen.path == f"{ROLES}node-role"
        return running_imds.keys.pop(0)

    async with scripted_s3() as running_imds:
        running_imds.rule = rule
        running_imds.keys = [given("ONE"), given("TWO", minutes=120)]
        aws_environment.delenv("AWS_EC2_METADATA_DISABLED")
        aws_environment.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", running_imds.endpoint)
        yield running_imds


async def test_the_instances_role_is_used_and_renewed(imds, bucket_server):
    time = Time()
    async with open_bucket(bucket_server.config(), clock=time.clock) as bucket:
        await bucket.list_page("")
        assert len(imds.seen) == 3
        time.seconds = 60 * 50
        await bucket.list_page("")
    assert [key_of(seen) for seen in bucket_server.seen] == ["ONE", "TWO"]
    assert len(imds.seen) == 6


async def test_ended_keys_from_the_metadata_service_are_used_and_asked_for_again_in_minutes(
    imds, bucket_server
):
    """So that its own trouble is not everybody's."""
    time = Time()
    imds.keys = [given("OLD", minutes=-5), given("NEW", minutes=60)]
    async with open_bucket(bucket_server.config(), clock=time.clock) as bucket:
        for seconds in (0, 300, 600):
            time.seconds = seconds
            await bucket.list_page("")
    assert [key_of(seen) for seen in bucket_server.seen] == ["OLD", "OLD", "NEW"]


async def test_a_metadata_service_that_never_answers_is_reported_with_the_hop_limit(imds):
    """A pod behind a hop limit of 1: the answer to the PUT never arrives."""
    imds.rule = lambda _: Reply(hang=True)
    clock = CredentialClock()
    source = InstanceCredentials(imds.endpoint, clock, within_s=0.05, pause=at_once)
    reason = await source.find()
    assert "hop limit of 1" in reason
    assert "raise it to 2, or set mounter.hostNetwork=true in the chart" in reason
    assert {seen.method for seen in imds.seen} == {"PUT"}
    assert len(imds.seen) == 2


async def test_no_metadata_service_at_all_is_told_with_the_hop_limit(
    imds, bucket_server, aws_environment
):
    aws_environment.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    error = await refused(bucket_server)
    assert "no AWS credentials found for bucket 'bkt'" in error.what
    assert "hop limit of 1" in error.hint


async def test_an_instance_without_a_profile_is_told_so(imds, bucket_server):
    play = imds.rule
    imds.rule = lambda seen: Reply(404) if seen.path == ROLES else play(seen)
    assert "no instance profile (HTTP 404)" in (await refused(bucket_server)).hint


async def test_a_role_that_ec2_may_not_assume_is_quoted(imds, bucket_server):
    imds.keys = [Reply(200, b'{"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot"}')]
    error = await refused(bucket_server)
    assert "node-role" in error.what
    assert "AssumeRoleUnauthorizedAccess" in error.what
    assert "ec2.amazonaws.com" in error.hint


async def test_metadata_services_are_not_asked_through_the_proxy(
    imds, bucket_server, aws_environment
):
    for name in ("HTTP_PROXY", "http_proxy"):
        aws_environment.setenv(name, "http://127.0.0.1:1")
    async with open_bucket(bucket_server.config()) as bucket:
        await bucket.list_page("")
    assert key_of(bucket_server.seen[0]) == "ONE"


# --- nothing --------------------------------------------------------------------------------------


async def test_without_credentials_the_error_lists_what_was_looked_at_and_what_sets_it(
    bucket_server, tmp_path
):
    with pytest.raises(CredentialsError) as caught:
        async with open_bucket(bucket_server.config(), credentials_dir=tmp_path / "secret"):
            pass
    for text in (
        f"awsAccessSecret): {tmp_path}/secret has no key_id",
        "mounter.env): AWS_ACCESS_KEY_ID is not set",
        "eks.amazonaws.com/role-arn): AWS_WEB_IDENTITY_TOKEN_FILE is not set",
        "profile): no keys for profile 'default'",
        "EKS Pod Identity",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI is not set",
        "switched off by AWS_EC2_METADATA_DISABLED",
        "`no-sign-request`",
    ):
        assert text in caught.value.hint
    assert len(str(caught.value)) < 1000  # an Event takes 1024
