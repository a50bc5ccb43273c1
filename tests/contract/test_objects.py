"""Put, head, read, copy and delete, on every store."""

import contextlib
import gc

import pytest

from csi_s3.errors import (
    NotFoundError,
    ObjectChangedError,
    PreconditionFailedError,
    StoreRefusedError,
)

NOBODY = '"00000000000000000000000000000000"'


async def test_what_was_put_is_what_head_and_read_answer(store):
    put = await store.put("a/b.txt", b"hello")
    head = await store.head("a/b.txt")
    chunk = await store.read_range("a/b.txt", 0, 100)
    assert (put.key, put.size) == ("a/b.txt", 5)
    assert (head.key, head.size, head.etag) == ("a/b.txt", 5, put.etag)
    assert head.etag.startswith('"')
    assert head.etag.endswith('"')
    assert head.last_modified == int(head.last_modified) > 0
    assert not head.archived
    assert chunk.data == b"hello"
    assert (chunk.info.size, chunk.info.etag) == (5, put.etag)
    assert chunk.info.last_modified == head.last_modified


async def test_put_takes_bytearrays_and_slices_of_memory(store):
    await store.put("array", bytearray(b"abc"))
    await store.put("slice", memoryview(bytearray(b"xxabcxx"))[2:5])
    for key in ("array", "slice"):
        assert (await store.read_range(key, 0, 10)).data == b"abc"


async def test_put_replaces_and_gives_a_new_etag(store):
    first = await store.put("k", b"one")
    second = await store.put("k", b"two!")
    assert first.etag != second.etag
    assert (await store.head("k")).size == 4


async def test_a_body_of_several_pieces_arrives_whole(store):
    data = bytes(range(256)) * (12 << 10)  # 3 MiB: hashed in a thread, sent in pieces
    await store.put("big", data)
    assert (await store.read_range("big", 0, len(data))).data == data


async def test_ranges_are_cut_at_the_end_and_empty_behind_it(store):
    put = await store.put("k", b"0123456789")
    for start, length, expected in [
        (0, 4, b"0123"),
        (4, 3, b"456"),
        (8, 100, b"89"),
        (9, 1, b"9"),
        (10, 5, b""),
        (500, 5, b""),
        (3, 0, b""),
    ]:
        chunk = await store.read_range("k", start, length)
        assert chunk.data == expected
        assert (chunk.info.size, chunk.info.etag) == (10, put.etag)


async def test_an_empty_object_reads_as_nothing(store):
    put = await store.put("empty", b"")
    chunk = await store.read_range("empty", 0, 100)
    assert chunk.data == b""
    assert (chunk.info.size, chunk.info.etag) == (0, put.etag)
    assert (await store.head("empty")).size == 0


async def test_head_and_read_of_no_object_say_so(store):
    for call in (
        store.head("none"),
        store.read_range("none", 0, 1),
        store.read_range("none", 0, 0),
    ):
        with pytest.raises(NotFoundError, match="none"):
            await call


async def test_reading_a_version_that_was_replaced_fails(store):
    old = await store.put("k", b"old")
    assert (await store.read_range("k", 0, 3, etag=old.etag)).data == b"old"
    await store.put("k", b"new")
    for start in (0, 50):
        with pytest.raises(ObjectChangedError):
            await store.read_range("k", start, 3, etag=old.etag)


async def test_reading_a_version_that_was_deleted_says_it_is_gone(store):
    old = await store.put("k", b"old")
    await store.delete("k")
    with pytest.raises(NotFoundError):
        await store.read_range("k", 0, 3, etag=old.etag)


async def test_put_if_none_match_has_one_winner(store):
    await store.put("k", b"first", if_none_match=True)
    with pytest.raises(PreconditionFailedError):
        await store.put("k", b"second", if_none_match=True)
    assert (await store.read_range("k", 0, 10)).data == b"first"


async def test_put_if_match_replaces_only_that_version(subject, store):
    old = await store.put("k", b"old")
    new = await store.put("k", b"new", if_match=old.etag)
    with pytest.raises(PreconditionFailedError):
        await store.put("k", b"lost", if_match=old.etag)
    assert (await store.head("k")).etag == new.etag


async def test_put_if_match_of_no_object_fails(store):
    with pytest.raises(PreconditionFailedError):
        await store.put("k", b"lost", if_match=NOBODY)
    with pytest.raises(NotFoundError):
        await store.head("k")


async def test_copy_makes_an_object_with_the_same_bytes(store):
    await store.put("from here", b"data", metadata={"token": "t1"})
    source = await store.head("from here")
    copied = await store.copy(source, "to/there")
    head = await store.head("to/there")
    assert (copied.key, copied.size, copied.etag) == ("to/there", 4, head.etag)
    assert (await store.read_range("to/there", 0, 10)).data == b"data"


async def test_copy_keeps_the_users_metadata(subject, store):
    await store.put("a", b"data", metadata={"token": "t1"})
    await store.copy(await store.head("a"), "b")
    if subject.server is None:
        assert store.objects["b"].metadata == {"token": "t1"}
        return
    assert subject.server.head(f"/{subject.config.bucket}/b")["x-amz-meta-token"] == "t1"


async def test_copy_of_a_version_that_was_replaced_fails(subject, store):
    old = await store.put("a", b"old")
    await store.put("a", b"new")
    if subject.quirk("a copy ignores the source's If-Match"):
        await store.copy(old, "b")
        assert (await store.read_range("b", 0, 10)).data == b"new"
        return
    with pytest.raises(ObjectChangedError):
        await store.copy(old, "b")
    with pytest.raises(NotFoundError):
        await store.head("b")


async def test_copy_of_a_marker_keeps_what_it_has(subject, store):
    """A marker is put again, not copied: versitygw copies none."""
    source = await store.put("d/", b"", metadata={"token": "t1"})
    made = await store.copy(source, "e/")
    head = await store.head("e/")
    assert (made.key, made.size, made.etag) == ("e/", 0, head.etag)
    if subject.server is None:
        assert store.objects["e/"].metadata == {"token": "t1"}
    else:
        assert subject.server.head(f"/{subject.config.bucket}/e/")["x-amz-meta-token"] == "t1"
        assert "COPY" not in subject.requests


async def test_copy_of_what_ends_in_a_slash_and_has_bytes_keeps_them(subject, store):
    if subject.quirk("a marker holds no bytes"):
        with pytest.raises(StoreRefusedError):
            await store.put("d/", b"precious")
        return
    source = await store.put("d/", b"precious")
    await store.copy(source, "e/")
    assert (await store.read_range("e/", 0, 10)).data == b"precious"


async def test_copy_of_a_marker_that_is_gone_or_replaced_makes_none(subject, store):
    marker = await store.put("d/", b"")
    if not subject.quirk("a marker holds no bytes"):
        await store.put("d/", b"precious")
        with pytest.raises(ObjectChangedError):
            await store.copy(marker, "e/")
    await store.delete("d/")
    with pytest.raises(NotFoundError):
        await store.copy(marker, "e/")
    with pytest.raises(NotFoundError):
        await store.head("e/")


async def test_copy_of_nothing_says_so(store):
    gone = await store.put("a", b"old")
    await store.delete("a")
    with pytest.raises(NotFoundError):
        await store.copy(gone, "b")


async def test_copy_if_none_match_does_not_replace(subject, store):
    source = await store.put("a", b"new")
    await store.put("b", b"old")
    with pytest.raises(PreconditionFailedError):
        await store.copy(source, "b", if_none_match=True)
    assert (await store.read_range("b", 0, 10)).data == b"old"


async def test_copy_if_none_match_of_a_replaced_source_blames_the_source(subject, store):
    old = await store.put("a", b"old")
    await store.put("a", b"new")
    if subject.quirk("a copy ignores the source's If-Match"):
        await store.copy(old, "b", if_none_match=True)
        return
    with pytest.raises(ObjectChangedError):
        await store.copy(old, "b", if_none_match=True)


async def test_delete_removes_and_does_not_mind_what_is_not_there(store):
    await store.put("k", b"x")
    await store.delete("k")
    await store.delete("k")
    with pytest.raises(NotFoundError):
        await store.head("k")


async def test_delete_if_match_spares_another_version(subject, store):
    old = await store.put("k", b"old")
    await store.put("k", b"new")
    if subject.quirk("delete ignores If-Match"):
        await store.delete("k", if_match=old.etag)
        assert (await subject.listed()).objects == []
        return
    with pytest.raises(ObjectChangedError):
        await store.delete("k", if_match=old.etag)
    assert (await store.read_range("k", 0, 10)).data == b"new"


async def test_delete_if_match_removes_that_version(store):
    put = await store.put("k", b"x")
    await store.delete("k", if_match=put.etag)
    await store.delete("k", if_match=put.etag)
    with pytest.raises(NotFoundError):
        await store.head("k")


async def test_delete_many_takes_more_than_one_batch(subject, store):
    keys = [f"many/{n}" for n in range(3)]
    for key in keys:
        await store.put(key, b"")
    gone = [f"absent/{n}" for n in range(1200)]
    assert not await store.delete_many((key, "") for key in [*keys, *gone])
    assert (await subject.listed("many/")).objects == []
    if subject.server is not None:
        assert subject.requests["DELETE-MANY"] == 2
        assert subject.requests["DELETE"] == 0


async def test_delete_many_spares_another_version(subject, store):
    old = await store.put("k", b"old")
    await store.put("k", b"new")
    same = await store.put("same", b"x")
    remain = await store.delete_many([("k", old.etag), ("same", same.etag), ("no", same.etag)])
    left = [o.key for o in (await subject.listed()).objects]
    if subject.quirk("batch deletes ignore ETags"):
        assert (len(remain), left) == (0, [])
        return
    assert remain.counts == {ObjectChangedError: 1}
    assert left == [remain.first[ObjectChangedError][0]] == ["k"]


async def test_delete_many_of_nothing_asks_nothing(subject, store):
    assert not await store.delete_many([])
    assert subject.requests["DELETE-MANY"] == 0


async def test_a_missing_key_leaves_nothing_to_the_garbage_collector(store):
    """An error's traceback holds frames: one that refers to the error would keep the answer."""

    async def ask():
        with contextlib.suppress(NotFoundError):  # pytest.raises makes a cycle of its own
            await store.head("missing")

    await ask()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await ask()
        gc.collect()
        assert [found for found in gc.garbage if isinstance(found, NotFoundError)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
