"""What calls cost: requests as S3 bills them, counted by the observer."""

from collections import Counter


async def test_each_call_is_one_request(served):
    store = served.store
    put = await store.put("k", b"0123456789")
    await store.head("k")
    await store.read_range("k", 2, 3, etag=put.etag)
    await store.list_page("")
    await store.copy(put, "c")
    await store.delete("c")
    await store.delete_many([("k", "")])
    upload = await store.create_upload("u")
    await upload.complete([await upload.part(1, b"x")])
    assert served.requests == Counter(
        [
            "PUT",
            "HEAD",
            "GET",
            "LIST",
            "COPY",
            "DELETE",
            "DELETE-MANY",
            "CREATE-UPLOAD",
            "PART",
            "COMPLETE",
        ]
    )


async def test_reading_behind_the_end_costs_a_head_more(served):
    await served.store.put("k", b"x")
    await served.store.read_range("k", 100, 1)
    assert served.requests == Counter(PUT=1, GET=1, HEAD=1)


async def test_records_tell_status_and_bytes(served):
    await served.store.put("k", b"0123456789")
    await served.store.read_range("k", 2, 3)
    put, get = served.records
    assert (put.kind, put.status, put.bytes_up, put.bytes_down) == ("PUT", 200, 10, 0)
    assert (get.kind, get.status, get.bytes_up, get.bytes_down) == ("GET", 206, 0, 3)
    assert put.seconds > 0
