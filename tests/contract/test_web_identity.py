"""A role by the cluster's token (IRSA): real STSs, and one that answers by script."""

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import pytest

from csi_s3.config.volume import BucketConfig
from csi_s3.errors import AccessDeniedError, CredentialsError
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.credentials.refresh import CredentialClock
from csi_s3.s3.credentials.web_identity import WebIdentity
from tests.contract.conftest import SECRET, at_once
from tests.contract.scripted import Reply, error, listing, scripted_s3
from tests.issuer import MINIO_ROLE, issuer, minio_with_role
from tests.servers import running

ROLE = "arn:aws:iam::123456789012:role/s3-reader"
SUBJECT = "system:serviceaccount:kube-system:s3-csi-driver-sa"
START = datetime(2026, 1, 1, tzinfo=UTC)


def given(name: str, *, minutes: float = 60, now: datetime = START) -> Reply:
    expires = (now + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
    return Reply(
        200,
        f"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
        <AssumeRoleWithWebIdentityResult><Credentials>
        <AccessKeyId>{name}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>
        <SessionToken>token-of-{name}</SessionToken><Expiration>{expires}</Expiration>
        </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>""".encode(),
    )


def refusal(status: int, code: str, message: str) -> Reply:
    body = (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error>'
        f"<Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        "<RequestId>r</RequestId></ErrorResponse>"
    )
    return Reply(status, body.encode(), {"x-amzn-RequestId": "REQ-STS"})


def token_of(subject: str, secret: str = "signature") -> str:
    claims = {"sub": subject, "aud": ["sts.amazonaws.com"], "iss": "https://oidc.example/id/1"}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{payload}.{secret}"


def forms(sts) -> list[dict[str, str]]:
    return [{k: v[0] for k, v in parse_qs(seen.body.decode()).items()} for seen in sts.seen]


def key_of(seen) -> str:
    return seen.headers["Authorization"].split("Credential=")[1].split("/")[0]


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.clock = CredentialClock(
            now=lambda: START + timedelta(seconds=self.seconds), monotonic_s=lambda: self.seconds
        )


@pytest.fixture
async def sts(aws_environment, tmp_path):
    """STS, as EKS's webhook sets it up for the mounter."""
    (tmp_path / "token").write_text(token_of(SUBJECT) + "\n")
    aws_environment.setenv("AWS_ROLE_ARN", ROLE)
    aws_environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    async with scripted_s3() as running_sts:
        aws_environment.setenv("AWS_ENDPOINT_URL_STS", running_sts.endpoint)
        yield running_sts


@pytest.fixture
async def bucket_server():
    async with scripted_s3() as s3:
        s3.rule = lambda _: listing()
        yield s3


async def test_one_request_to_sts_serves_a_mount_until_its_keys_near_their_end(sts, bucket_server):
    time = Time()
    sts.replies = [given("ONE"), given("TWO", minutes=120)]
    async with open_bucket(bucket_server.config(), clock=time.clock) as bucket:
        for minute in range(0, 44, 4):
            time.seconds = 60 * minute
            await bucket.list_page("")
        assert len(sts.seen) == 1
        time.seconds = 60 * 46
        await bucket.list_page("")
    assert [key_of(seen) for seen in bucket_server.seen[-2:]] == ["ONE", "TWO"]
    assert bucket_server.seen[-1].headers["X-Amz-Security-Token"] == "token-of-TWO"
    assert len(sts.seen) == 2


async def test_what_is_sent_is_the_documented_form_and_is_not_signed(sts, bucket_server):
    sts.replies = [given("ONE", now=datetime.now(UTC))]
    async with open_bucket(bucket_server.config(bucket="my-bucket")):
        pass
    assert forms(sts) == [
        {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": ROLE,
            "RoleSessionName": "csi-s3-my-bucket",
            "WebIdentityToken": token_of(SUBJECT),
        }
    ]
    (seen,) = sts.seen
    assert (seen.method, seen.path) == ("POST", "/")
    assert "Authorization" not in seen.headers


async def test_the_session_name_is_the_environments_if_it_has_one(
    sts, bucket_server, aws_environment
):
    aws_environment.setenv("AWS_ROLE_SESSION_NAME", "cluster-7")
    sts.replies = [given("ONE", now=datetime.now(UTC))]
    async with open_bucket(bucket_server.config()):
        pass
    assert forms(sts)[0]["RoleSessionName"] == "cluster-7"


async def test_sources_in_one_process_each_have_their_own_token_and_role(sts, tmp_path):
    (tmp_path / "other").write_text(token_of("system:serviceaccount:team:reader"))
    roles = {ROLE: tmp_path / "token", f"{ROLE}-2": tmp_path / "other"}
    sts.replies = [given("ONE"), given("TWO")]
    sources = [
        WebIdentity(token_file, role, url=lambda: sts.endpoint, session=f"s{n}")
        for n, (role, token_file) in enumerate(roles.items())
    ]
    assert [(await source.find()).keys.access_key for source in sources] == ["ONE", "TWO"]
    sent = [(f["RoleArn"], f["WebIdentityToken"], f["RoleSessionName"]) for f in forms(sts)]
    tokens = [path.read_text().strip() for path in roles.values()]
    assert sent == list(zip(roles, tokens, ["s0", "s1"], strict=True))


async def test_the_token_file_is_read_again_at_each_renewal(sts, bucket_server, tmp_path):
    time = Time()
    sts.replies = [given("ONE"), given("TWO", minutes=120)]
    async with open_bucket(bucket_server.config(), clock=time.clock) as bucket:
        (tmp_path / "token").write_text(token_of(SUBJECT, "newer"))
        time.seconds = 60 * 50
        await bucket.list_page("")
    assert [form["WebIdentityToken"] for form in forms(sts)] == [
        token_of(SUBJECT),
        token_of(SUBJECT, "newer"),
    ]


async def test_keys_that_end_in_mid_read_are_renewed_and_the_read_goes_on(sts, bucket_server):
    """S3 says so before our clock does."""
    now = datetime.now(UTC)
    sts.replies = [given("ONE", now=now), given("TWO", now=now)]
    chunk = Reply(206, b"x" * 10, {"ETag": '"e"', "Content-Range": "bytes 0-9/100"})
    bucket_server.rule = lambda seen: (
        chunk
        if key_of(seen) == "TWO" or len(bucket_server.seen) == 1
        else error(400, "ExpiredToken", "The provided token has expired.")
    )
    async with open_bucket(bucket_server.config()) as bucket:
        for _ in range(2):
            assert (await bucket.read_range("k", 0, 10)).data == b"x" * 10
    assert [key_of(seen) for seen in bucket_server.seen] == ["ONE", "ONE", "TWO"]
    assert len(sts.seen) == 2


@pytest.mark.warnings_expected("cannot be renewed yet")
async def test_an_sts_that_is_down_at_renewal_is_not_noticed_by_readers(sts, bucket_server):
    time = Time()
    sts.replies = [given("ONE"), *[refusal(503, "ServiceUnavailable", "busy")] * 3]
    sts.rule = lambda _: given("TWO", minutes=120)
    async with open_bucket(bucket_server.config(), pause=at_once, clock=time.clock) as bucket:
        for seconds in (2800, 2810, 2840):
            time.seconds = seconds
            await bucket.list_page("")
    assert [key_of(seen) for seen in bucket_server.seen] == ["ONE", "ONE", "TWO"]


@pytest.mark.parametrize("status", [408, 429, 520])
async def test_a_gateway_before_sts_that_fails_once_fails_nothing(sts, bucket_server, status):
    sts.replies = [Reply(status), given("ONE", now=datetime.now(UTC))]
    async with open_bucket(bucket_server.config(), pause=at_once) as bucket:
        await bucket.list_page("")
    assert len(sts.seen) == 2


async def test_a_busy_sts_is_asked_again(sts, bucket_server):
    now = datetime.now(UTC)
    sts.replies = [
        refusal(400, "IDPCommunicationError", "the provider is slow"),
        Reply(200, b"", lost=True),
        given("ONE", now=now),
    ]
    async with open_bucket(bucket_server.config(), pause=at_once) as bucket:
        await bucket.list_page("")
    assert len(sts.seen) == 3


NOT_TRUSTED = "Not authorized to perform sts:AssumeRoleWithWebIdentity"


@pytest.mark.parametrize(
    ("reply", "texts"),
    [
        (
            refusal(403, "AccessDenied", NOT_TRUSTED),
            [
                *(ROLE, f"AccessDenied: {NOT_TRUSTED}", "HTTP 403", "request id REQ-STS"),
                *("OIDC", "trust policy", "system:serviceaccount:NAMESPACE:ACCOUNT"),
                *(f"sub = {SUBJECT}", "iss = https://oidc.example/id/1", "aud = sts.amazonaws.com"),
            ],
        ),
        (
            refusal(400, "InvalidIdentityToken", "No OpenIDConnect provider found in your account"),
            [ROLE, "InvalidIdentityToken", "IAM has this provider"],
        ),
        (
            refusal(400, "ExpiredTokenException", "Token expired: current date/time"),
            [ROLE, "ExpiredTokenException", "has expired", "clock"],
        ),
        (Reply(404, b"<html>not here</html>"), [ROLE, "not STS's", "HTTP 404"]),
        (Reply(200, b"<html>a console</html>"), [ROLE, "not STS's", "HTTP 200"]),
    ],
    ids=["not-trusted", "no-provider", "expired", "not-sts", "console"],
)
async def test_a_refusal_names_role_code_and_what_to_check_and_is_not_repeated(
    sts, bucket_server, reply, texts
):
    sts.rule = lambda _: reply
    with pytest.raises(CredentialsError) as caught:
        async with open_bucket(bucket_server.config()):
            pass
    for text in texts:
        assert text in str(caught.value)
    assert token_of(SUBJECT) not in str(caught.value)
    assert len(sts.seen) == 1
    assert bucket_server.seen == []


async def test_a_token_that_sts_repeats_is_cut_out_of_the_message(sts, bucket_server):
    sts.rule = lambda _: refusal(400, "Bad", f"cannot read {token_of(SUBJECT)}")
    with pytest.raises(CredentialsError, match=r"cannot read \*\*\*"):
        async with open_bucket(bucket_server.config()):
            pass


async def test_an_sts_that_cannot_be_reached_is_named(sts, bucket_server, aws_environment):
    aws_environment.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
    with pytest.raises(CredentialsError, match=r"STS at http://127\.0\.0\.1:1 cannot") as caught:
        async with open_bucket(bucket_server.config(), pause=at_once):
            pass
    assert "sts.endpointUrl" in caught.value.hint


async def test_a_token_file_that_is_missing_or_no_token_is_named(
    sts, bucket_server, aws_environment, tmp_path
):
    async def refused() -> str:
        with pytest.raises(CredentialsError) as caught:
            async with open_bucket(bucket_server.config()):
                pass
        return str(caught.value)

    (tmp_path / "token").write_bytes(b"\x00\xff")
    assert f"{tmp_path}/token holds characters" in await refused()
    (tmp_path / "token").write_text("")
    assert f"{tmp_path}/token is empty" in await refused()
    (tmp_path / "token").unlink()
    assert f"{tmp_path}/token cannot be read: No such file" in await refused()
    aws_environment.delenv("AWS_ROLE_ARN")
    assert "AWS_ROLE_ARN is not" in await refused()
    assert sts.seen == []


async def test_keys_from_a_secret_win_over_the_environments_and_these_over_the_role(
    sts, bucket_server, aws_environment, tmp_path
):
    secret = tmp_path / "secret"
    secret.mkdir()
    aws_environment.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    aws_environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    sts.rule = lambda _: given("ROLE", now=datetime.now(UTC))

    async def used() -> str:
        async with open_bucket(bucket_server.config(), credentials_dir=secret) as bucket:
            await bucket.list_page("")
        return key_of(bucket_server.seen[-1])

    assert await used() == "ENVIRONMENT"
    (secret / "key_id").write_text("SECRET")
    (secret / "access_key").write_text(SECRET)
    assert await used() == "SECRET"
    (secret / "key_id").unlink()
    aws_environment.delenv("AWS_ACCESS_KEY_ID")
    assert await used() == "ROLE"
    profile = "[default]\naws_access_key_id = SHARED\naws_secret_access_key = x\n"
    (tmp_path / "credentials").write_text(profile)
    assert await used() == "ROLE"
    aws_environment.delenv("AWS_WEB_IDENTITY_TOKEN_FILE")
    assert await used() == "SHARED"


async def test_a_profile_that_a_volume_names_wins_over_all_of_them(
    sts, bucket_server, aws_environment, tmp_path
):
    for name in ("key_id", "access_key"):
        (tmp_path / name).write_text("SECRET")
    (tmp_path / "credentials").write_text(
        "[other]\naws_access_key_id = OTHER\naws_secret_access_key = x\n"
    )
    config = bucket_server.config(profile="other")
    async with open_bucket(config, credentials_dir=tmp_path) as bucket:
        await bucket.list_page("")
    assert key_of(bucket_server.seen[-1]) == "OTHER"
    assert sts.seen == []


async def test_a_rotated_secret_is_used_when_s3_refuses_the_old_keys(
    aws_environment, bucket_server, tmp_path
):
    """Within the seconds in which nobody looks at the files."""
    keys = {"key_id": "OLD", "access_key": SECRET}
    for name, text in keys.items():
        (tmp_path / name).write_text(text)
    async with open_bucket(bucket_server.config(), credentials_dir=tmp_path) as bucket:
        await bucket.list_page("")
        (tmp_path / "key_id").write_text("NEW")
        bucket_server.rule = lambda seen: (
            listing() if key_of(seen) == "NEW" else error(403, "InvalidAccessKeyId", "no such key")
        )
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(bucket.list_page(""))
        await bucket.list_page("")
    assert [key_of(seen) for seen in bucket_server.seen].count("OLD") == 4
    assert key_of(bucket_server.seen[-1]) == "NEW"


async def test_a_rotated_secret_is_used_within_seconds_without_a_refusal(
    aws_environment, bucket_server, tmp_path
):
    time = Time()
    (tmp_path / "key_id").write_text("OLD")
    (tmp_path / "access_key").write_text(SECRET)
    async with open_bucket(
        bucket_server.config(), credentials_dir=tmp_path, clock=time.clock
    ) as bucket:
        await bucket.list_page("")
        (tmp_path / "key_id").write_text("NEWER")
        time.seconds = 10
        await bucket.list_page("")
    assert [key_of(seen) for seen in bucket_server.seen] == ["OLD", "NEWER"]


async def test_a_denied_head_looks_for_a_rotated_secret_and_asks_no_service(
    sts, bucket_server, tmp_path
):
    """A HEAD is refused without a word, so it may have meant the keys."""
    sts.rule = lambda _: given("ROLE", now=datetime.now(UTC))
    bucket_server.rule = lambda seen: (
        Reply(200, b"", {"ETag": '"e"', "Content-Length": "5"})
        if key_of(seen) == "SECRET"
        else Reply(403)
    )
    async with open_bucket(bucket_server.config(), credentials_dir=tmp_path) as bucket:
        with pytest.raises(AccessDeniedError, match="HTTP 403"):
            await bucket.head("k")
        (tmp_path / "key_id").write_text("SECRET")
        (tmp_path / "access_key").write_text(SECRET)
        await bucket.head("k")
    assert [key_of(seen) for seen in bucket_server.seen] == ["ROLE", "ROLE", "SECRET"]
    assert len(sts.seen) == 1


# --- real ones ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    with issuer() as found:
        yield found


@pytest.fixture(scope="module")
def minio(cluster):
    with minio_with_role(cluster) as server:
        server.create_bucket("data")
        yield server


@pytest.fixture
def role(minio, aws_environment, tmp_path):
    """What EKS's webhook gives the mounter; returns the token's file."""
    aws_environment.setenv("AWS_ROLE_ARN", MINIO_ROLE)
    aws_environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    aws_environment.setenv("AWS_ENDPOINT_URL_STS", minio.endpoint)
    aws_environment.setenv("AWS_REGION", "us-east-1")
    return tmp_path / "token"


async def test_minio_gives_a_role_for_the_clusters_token(minio, cluster, role):
    role.write_text(cluster.token(SUBJECT))
    config = BucketConfig(bucket="data", endpoint_url=minio.endpoint)
    async with open_bucket(config) as bucket:
        await bucket.put("k", b"hello")
        assert (await bucket.read_range("k", 0, 5)).data == b"hello"


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"ends_in_s": -60}, "Token is expired"),
        ({"audience": "somebody-else"}, "azp"),
    ],
)
async def test_minio_refuses_a_token_that_is_not_for_it(minio, cluster, role, claims, text):
    token = cluster.token(SUBJECT, **claims)
    role.write_text(token)
    with pytest.raises(CredentialsError, match=text) as caught:
        async with open_bucket(BucketConfig(bucket="data", endpoint_url=minio.endpoint)):
            pass
    assert MINIO_ROLE in caught.value.what
    assert f"sub = {SUBJECT}" in caught.value.hint
    assert token not in str(caught.value)


async def test_keys_that_the_store_has_forgotten_are_fetched_anew(
    minio, cluster, role, aws_environment
):
    """MinIO removes temporary keys at their end, and then calls them unknown."""
    role.write_text(cluster.token(SUBJECT))
    async with scripted_s3() as sts:
        sts.replies = [given("GONEGONEGONEGONEGONE", now=datetime.now(UTC))]
        aws_environment.setenv("AWS_ENDPOINT_URL_STS", sts.endpoint)
        async with open_bucket(BucketConfig(bucket="data", endpoint_url=minio.endpoint)) as bucket:
            aws_environment.setenv("AWS_ENDPOINT_URL_STS", minio.endpoint)
            await bucket.put("k", b"hello")
        assert len(sts.seen) == 1


async def test_moto_gives_a_role(aws_environment, tmp_path):
    with running("moto") as server:
        server.create_bucket("data")
        (tmp_path / "token").write_text(token_of(SUBJECT))
        aws_environment.setenv("AWS_ROLE_ARN", ROLE)
        aws_environment.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        aws_environment.setenv("AWS_ENDPOINT_URL", server.endpoint)
        async with open_bucket(BucketConfig(bucket="data")) as bucket:
            await bucket.put("k", b"hello")
            assert [info.key for info in (await bucket.list_page("")).objects] == ["k"]


# --- roles of profiles ----------------------------------------------------------------------------


async def test_a_profiles_role_is_asked_for_in_the_environments_region_and_renewed(
    aws_environment, bucket_server, tmp_path
):
    """By aiobotocore, which knows AWS_DEFAULT_REGION only."""
    (tmp_path / "config").write_text(
        f"[profile reader]\nrole_arn = {ROLE}\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = BASE\naws_secret_access_key = x\n"
    )
    aws_environment.setenv("AWS_REGION", "eu-central-1")
    now = datetime.now(UTC)
    async with scripted_s3() as sts:
        aws_environment.setenv("AWS_ENDPOINT_URL_STS", sts.endpoint)
        for name, minutes in (("ONE", 60), ("TWO", 120)):
            reply = given(name, minutes=minutes, now=now)
            body = reply.body.replace(b"WithWebIdentity", b"")
            sts.replies.append(Reply(200, body, {"Content-Type": "text/xml"}))
        time = Time()
        clock = CredentialClock(
            now=lambda: now + timedelta(seconds=time.seconds), monotonic_s=lambda: time.seconds
        )
        async with open_bucket(bucket_server.config(profile="reader"), clock=clock) as bucket:
            await bucket.list_page("")
            time.seconds = 60 * 50
            await bucket.list_page("")
        scopes = [seen.headers["Authorization"].split("Credential=")[1] for seen in sts.seen]
    assert [key_of(seen) for seen in bucket_server.seen] == ["ONE", "TWO"]
    assert [scope.split("/")[2] for scope in scopes] == ["eu-central-1"] * 2
    assert forms(sts)[0]["RoleArn"] == ROLE


async def test_a_profiles_role_that_is_refused_is_told(aws_environment, bucket_server, tmp_path):
    (tmp_path / "config").write_text(
        f"[default]\nrole_arn = {ROLE}\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = BASE\naws_secret_access_key = x\n"
    )
    async with scripted_s3() as sts:
        sts.rule = lambda _: refusal(403, "AccessDenied", "not authorized")
        aws_environment.setenv("AWS_ENDPOINT_URL_STS", sts.endpoint)
        with pytest.raises(CredentialsError, match=r"AccessDenied.*not authorized") as caught:
            async with open_bucket(bucket_server.config()):
                pass
    assert "trust policy" in caught.value.hint
