"""Buckets that keep versions: what changes leave behind, and prefixes with delete markers only."""

import asyncio
import re
from dataclasses import replace

import pytest

from csi_s3.s3.bucket import open_bucket
from tests.contract.conftest import at_once, bucket_on
from tests.contract.scripted import Reply, error
from tests.servers import VERSIONED, running

PREFIXES = 3


@pytest.fixture(scope="module")
def minio():
    with running(VERSIONED) as server:
        yield server


@pytest.fixture
async def versioned(minio, bucket_names, aws_environment):
    async with bucket_on(minio, bucket_names, aws_environment) as found:
        yield found


def versions(subject, key):
    """How many versions and delete markers the bucket has of a key."""
    status, body = subject.server.request("GET", f"/{subject.config.bucket}?prefix={key}&versions=")
    assert status == 200
    return [len(re.findall(element, body)) for element in (rb"<Version>", rb"<DeleteMarker>")]


async def test_a_change_leaves_the_version_before_it_and_a_delete_a_marker(versioned):
    store = versioned.store
    old = await store.put("k", b"old")
    new = await store.put("k", b"new", if_match=old.etag)
    copy = await store.copy(new, "c")
    assert versions(versioned, "k") == [2, 0]
    await store.delete("k", if_match=new.etag)
    assert not await store.delete_many([("c", copy.etag)])
    assert versions(versioned, "k") == [2, 1]
    assert versions(versioned, "c") == [1, 1]
    await store.put("k", b"again", if_none_match=True)
    assert (await store.read_range("k", 0, 10)).data == b"again"


@pytest.mark.parametrize("state", ["Enabled", "Suspended"])
async def test_who_comes_later_sees_no_prefix_without_a_key(versioned, state):
    for n in range(PREFIXES):
        await versioned.store.put(f"gone/{n}/x", b"")
        await versioned.store.put(f"kept/{n}/x", b"")
        await versioned.store.delete(f"gone/{n}/x")
    versioned.server.set_versioning(versioned.config.bucket, state)
    records = []
    async with open_bucket(versioned.config, observe=records.append, pause=at_once) as later:
        assert list((await later.list_page("")).prefixes) == ["kept/"]
        assert (await later.list_page("gone/")).prefixes == []
        assert len((await later.list_page("kept/")).prefixes) == PREFIXES
    kinds = [record.kind for record in records]
    assert kinds.count("GET-VERSIONING") == 1
    assert kinds.count("LIST") == 3 + 2 + PREFIXES + PREFIXES


async def test_more_than_a_page_of_delete_markers_hides_nothing(versioned):
    store = versioned.store
    async with asyncio.TaskGroup() as puts:
        for n in range(1100):
            puts.create_task(store.put(f"d/{n:04}", b""))
    everything = (await versioned.listed("d/", delimiter="")).objects
    assert not await store.delete_many([(info.key, "") for info in everything])
    assert (await versioned.listed()).prefixes == []
    await store.put("d/~", b"")
    assert (await versioned.listed()).prefixes == ["d/"]
    assert [info.key for info in (await versioned.listed("d/")).objects] == ["d/~"]


async def test_a_bucket_of_minio_without_versions_costs_one_question(versioned):
    assert versioned.server.request("PUT", "/plain")[0] == 200
    records = []
    config = replace(versioned.config, bucket="plain")
    async with open_bucket(config, observe=records.append, pause=at_once) as plain:
        for n in range(PREFIXES):
            await plain.put(f"{n}/x", b"")
        records.clear()
        for _ in range(2):
            assert len((await plain.list_page("")).prefixes) == PREFIXES
    assert [record.kind for record in records] == ["LIST", "GET-VERSIONING", "LIST"]


def folded(seen):
    """A listing with the prefix d/, under which nothing is."""
    prefix = b"<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>" * ("delimiter" in seen.path)
    return b"<ListBucketResult><IsTruncated>false</IsTruncated>" + prefix + b"</ListBucketResult>"


async def test_where_the_policy_hides_versioning_the_first_version_tells(s3):
    """The product asks for no right but those of reading and writing."""

    def minio_answers(seen):
        if "versioning" in seen.path:
            return error(403, "AccessDenied", "no")
        server = {"Server": "MinIO"}
        if "list-type" in seen.path:
            return Reply(200, folded(seen), server)
        return Reply(200, b"", {**server, "ETag": '"e"', "x-amz-version-id": "v1"})

    s3.rule = minio_answers
    async with open_bucket(s3.config(), pause=at_once) as bucket:
        for _ in range(2):
            assert (await bucket.list_page("")).prefixes == ["d/"]
        assert sum("versioning" in seen.path for seen in s3.seen) == 1
        await bucket.put("k", b"")
        assert (await bucket.list_page("")).prefixes == []


async def test_no_other_store_is_asked_for_more_than_the_page(s3):
    s3.rule = lambda seen: Reply(200, folded(seen), {"Server": "S3", "x-amz-version-id": "v1"})
    async with open_bucket(s3.config(), pause=at_once) as bucket:
        for _ in range(2):
            assert (await bucket.list_page("")).prefixes == ["d/"]
    assert len(s3.seen) == 2
