"""Multipart uploads on every store."""

import asyncio
from dataclasses import replace

import pytest

from csi_s3.errors import (
    NotFoundError,
    ObjectChangedError,
    PreconditionFailedError,
    StoreRefusedError,
    StoreUnavailableError,
)
from csi_s3.s3.bucket import open_bucket
from csi_s3.s3.store import Limits

FIVE = b"5" * Limits().min_part_bytes
SIX = bytes(range(256)) * (24 << 10)


async def whole(store, key):
    info = await store.head(key)
    return (await store.read_range(key, 0, info.size, etag=info.etag)).data


async def test_parts_sent_in_any_order_make_one_object(store):
    upload = await store.create_upload("k")
    async with asyncio.TaskGroup() as group:
        tail = group.create_task(upload.part(3, b"tail"))
        first = group.create_task(upload.part(1, SIX))
        second = group.create_task(upload.part(2, memoryview(bytearray(FIVE))))
    parts = [first.result(), second.result(), tail.result()]
    assert [(p.number, p.size) for p in parts] == [(1, len(SIX)), (2, len(FIVE)), (3, 4)]
    done = await upload.complete(parts)
    head = await store.head("k")
    assert (done.key, done.size, done.etag) == ("k", len(SIX) + len(FIVE) + 4, head.etag)
    assert await whole(store, "k") == SIX + FIVE + b"tail"


async def test_nothing_is_visible_before_complete_nor_after_abort(subject, store):
    upload = await store.create_upload("k")
    await upload.part(1, b"x")
    with pytest.raises(NotFoundError):
        await store.head("k")
    await upload.abort()
    assert (await subject.listed()).objects == []
    await upload.abort()


async def test_a_single_short_part_is_an_object(store):
    upload = await store.create_upload("k")
    await upload.complete([await upload.part(1, b"short")])
    assert await whole(store, "k") == b"short"


async def test_a_part_sent_again_replaces_the_first(store):
    upload = await store.create_upload("k")
    await upload.part(1, b"wrong")
    await upload.complete([await upload.part(1, b"right")])
    assert await whole(store, "k") == b"right"


async def test_parts_copied_inside_the_store_join_parts_that_were_sent(store):
    await store.put("source", SIX + b"more")
    source = await store.head("source")
    upload = await store.create_upload("k")
    copied = await upload.part_from(1, source, 0, len(FIVE) + 7)
    sent = await upload.part(2, FIVE)
    last = await upload.part_from(3, source, len(SIX) - 2, 6)
    assert (copied.number, copied.size, last.size) == (1, len(FIVE) + 7, 6)
    done = await upload.complete([copied, sent, last])
    assert done.size == len(FIVE) * 2 + 13
    assert await whole(store, "k") == (SIX[: len(FIVE) + 7] + FIVE + SIX[-2:] + b"more")


async def test_parts_of_an_object_that_was_uploaded_in_parts_are_copied(store):
    upload = await store.create_upload("source")
    await upload.complete([await upload.part(1, SIX), await upload.part(2, b"more")])
    source = await store.head("source")
    upload = await store.create_upload("k")
    copied = await upload.part_from(1, source, 3, len(SIX))
    await upload.complete([copied, await upload.part(2, b"sent")])
    assert await whole(store, "k") == SIX[3:] + b"morsent"


async def test_an_object_is_rewritten_from_its_own_ranges(store):
    await store.put("k", SIX)
    base = await store.head("k")
    upload = await store.create_upload("k")
    head = await upload.part_from(1, base, 0, len(SIX))
    tail = await upload.part(2, b"appended")
    await upload.complete([head, tail], if_match=base.etag)
    assert await whole(store, "k") == SIX + b"appended"


@pytest.mark.parametrize("change", ["replaced", "deleted"])
async def test_a_part_from_a_version_that_is_gone_fails(subject, store, change):
    source = await store.put("source", SIX)
    if change == "replaced":
        await store.put("source", FIVE)
    else:
        await store.delete("source")
    upload = await store.create_upload("k")
    if change == "replaced" and subject.quirk("a copy ignores the source's If-Match"):
        part = await upload.part_from(1, source, 0, len(FIVE))
        await upload.complete([part])
        assert await whole(store, "k") == FIVE
        return
    with pytest.raises(ObjectChangedError):
        await upload.part_from(1, source, 0, len(FIVE))
    await upload.abort()


async def test_complete_if_none_match_does_not_replace(subject, store):
    upload = await store.create_upload("k")
    part = await upload.part(1, b"late")
    await store.put("k", b"early")
    with pytest.raises(PreconditionFailedError):
        await upload.complete([part], if_none_match=True)
    await upload.abort()
    assert await whole(store, "k") == b"early"


async def test_complete_if_none_match_creates(store):
    upload = await store.create_upload("k")
    await upload.complete([await upload.part(1, b"first")], if_none_match=True)
    assert await whole(store, "k") == b"first"


@pytest.mark.parametrize("change", ["replaced", "deleted"])
async def test_complete_if_match_spares_another_version(subject, store, change):
    base = await store.put("k", b"base")
    upload = await store.create_upload("k")
    part = await upload.part(1, b"mine")
    if change == "replaced":
        await store.put("k", b"theirs")
    else:
        await store.delete("k")
    if subject.quirk("complete ignores If-Match"):
        await upload.complete([part], if_match=base.etag)
        assert await whole(store, "k") == b"mine"
        return
    with pytest.raises(PreconditionFailedError):
        await upload.complete([part], if_match=base.etag)
    await upload.abort()
    left = [info.key for info in (await subject.listed()).objects]
    assert left == (["k"] if change == "replaced" else [])


async def test_an_upload_knows_its_object_again_and_no_other(store):
    source = await store.put("source", SIX)
    uploads = [await store.create_upload("k") for _ in range(2)]
    made = []
    for upload, tail in zip(uploads, (b"ours", b"else"), strict=True):
        copied = await upload.part_from(1, source, 0, len(SIX))
        made.append([copied, await upload.part(7, tail)])
    (ours, other), (our_parts, other_parts) = uploads, made
    assert await ours.made(our_parts) is None
    info = await ours.complete(our_parts)
    assert await ours.made(our_parts) == await store.head("k")
    assert (await ours.made(our_parts)).etag == info.etag
    await other.complete(other_parts)
    assert await ours.made(our_parts) is None
    assert (await other.made(other_parts)).size == info.size
    await store.delete("k")
    assert await other.made(other_parts) is None


async def test_parts_before_the_last_must_not_be_small(subject, store):
    upload = await store.create_upload("k")
    parts = [await upload.part(1, b"small"), await upload.part(2, b"last")]
    with pytest.raises(StoreRefusedError):
        await upload.complete(parts)
    await upload.abort()


async def test_an_aborted_upload_takes_nothing_more(subject, store):
    upload = await store.create_upload("k")
    part = await upload.part(1, b"x")
    await upload.abort()
    broken = subject.quirk("a part for an aborted upload breaks the server")
    with pytest.raises(StoreUnavailableError if broken else NotFoundError):
        await upload.part(2, b"x")
    with pytest.raises(StoreUnavailableError if broken else NotFoundError):
        await upload.complete([part])


async def test_an_upload_keeps_the_metadata_of_the_object_that_it_replaces(subject, store):
    old = await store.put("k", b"old", metadata={"token": "t2"})
    upload = await store.create_upload("k", like=old)
    await upload.complete([await upload.part(1, b"x")])
    if subject.server is not None:
        assert subject.server.head(f"/{subject.config.bucket}/k")["x-amz-meta-token"] == "t2"


@pytest.mark.parametrize("checksums", ["crc32c", "crc64nvme", "off"])
async def test_every_kind_of_checksum_writes_whole_objects(served, checksums):
    config = replace(served.config, upload_checksums=checksums)
    async with open_bucket(config) as bucket:
        await bucket.put("small", b"small")
        await bucket.put("source", SIX)
        upload = await bucket.create_upload("k")
        parts = [await upload.part(1, FIVE)]
        parts.append(await upload.part_from(2, await bucket.head("source"), 0, len(SIX)))
        parts.append(await upload.part(3, b"end"))
        await upload.complete(parts)
        assert await whole(bucket, "small") == b"small"
        assert await whole(bucket, "k") == FIVE + SIX + b"end"
