"""One suite, five stores: the `subject` of every contract test."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from csi_s3.config.volume import BucketConfig
from csi_s3.s3.bucket import RequestRecord, open_bucket
from csi_s3.s3.memory_store import MemoryStore
from csi_s3.s3.store import ListPage, ObjectInfo, ObjectStore
from tests.authority import Authority, make_authority
from tests.contract.quirks import ODD_KEYS, QUIRKS
from tests.contract.scripted import ScriptedS3, scripted_s3
from tests.servers import KINDS, VERSIONED, Server, running

SECRET = "secretsecretsecretsecretsecretsecretsecr"


@dataclass
class Subject:
    """One empty bucket.

    again: opens the same bucket once more with other options (not for the store in memory).
    """

    kind: str
    store: ObjectStore
    config: BucketConfig
    server: Server | None
    records: list[RequestRecord] = field(default_factory=list)

    @property
    def requests(self) -> Counter[str]:
        return Counter(record.kind for record in self.records)

    def quirk(self, name: str) -> bool:
        """Whether this store is declared to differ here; the test asserts how."""
        assert name in {quirk for quirks in QUIRKS.values() for quirk in quirks}, name
        return name in QUIRKS.get(self.kind, {})

    def odd_key(self, key: str) -> str | None:
        return ODD_KEYS[self.kind].get(key)

    async def listed(self, prefix: str = "", **asked: object) -> ListPage:
        """All pages as one."""
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        token = None
        while True:
            page = await self.store.list_page(prefix, token=token, **asked)
            objects += page.objects
            prefixes += page.prefixes
            token = page.next_token
            if token is None:
                return ListPage(objects=objects, prefixes=prefixes, next_token=None)


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> pytest.MonkeyPatch:
    """No credentials, files or metadata service but what a test gives."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("FULL_URI", "RELATIVE_URI"):
        monkeypatch.delenv(f"AWS_CONTAINER_CREDENTIALS_{name}", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def aws_keys(aws_environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    aws_environment.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    aws_environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return aws_environment


@pytest.fixture
def authority(tmp_path) -> Authority:
    return make_authority(tmp_path, "store.example.test")


@pytest.fixture
async def s3(aws_keys: pytest.MonkeyPatch) -> AsyncIterator[ScriptedS3]:
    async with scripted_s3() as running_s3:
        yield running_s3


@pytest.fixture(scope="session", params=("memory", *KINDS, VERSIONED))
def backend(request: pytest.FixtureRequest) -> Iterator[Server | None]:
    if request.param == "memory":
        yield None
        return
    with running(request.param) as server:
        yield server


@pytest.fixture(scope="session", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """For what only servers have: credentials, regions, other people's requests."""
    with running(request.param) as running_server:
        yield running_server


Names = Callable[[], str]


@pytest.fixture(scope="session")
def bucket_names() -> Names:
    count = iter(range(1, 1_000_000))
    return lambda: f"contract-{next(count)}"


@pytest.fixture
async def subject(
    backend: Server | None, bucket_names: Names, aws_environment: pytest.MonkeyPatch
) -> AsyncIterator[Subject]:
    if backend is None:
        config = BucketConfig(bucket="memory")
        yield Subject("memory", MemoryStore(), config, None)
        return
    async with bucket_on(backend, bucket_names, aws_environment) as found:
        yield found


async def at_once(_seconds: float) -> None:
    """Retries need not wait for each other here."""


@asynccontextmanager
async def bucket_on(
    server: Server, bucket_names: Names, env: pytest.MonkeyPatch
) -> AsyncIterator[Subject]:
    name = server.create_bucket(bucket_names())
    for variable, value in server.env().items():
        env.setenv(variable, value)
    config = BucketConfig(bucket=name, endpoint_url=server.endpoint, max_attempts=3)
    records: list[RequestRecord] = []
    async with open_bucket(config, observe=records.append, pause=at_once) as bucket:
        yield Subject(server.kind, bucket, config, server, records)


@pytest.fixture
def store(subject: Subject) -> ObjectStore:
    return subject.store


@pytest.fixture
async def served(
    server: Server, bucket_names: Names, aws_environment: pytest.MonkeyPatch
) -> AsyncIterator[Subject]:
    async with bucket_on(server, bucket_names, aws_environment) as found:
        yield found
