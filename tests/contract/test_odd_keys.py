"""Any key that S3 can hold is put, read, listed, copied and deleted exactly as it is."""

import pytest

from csi_s3.errors import StoreRefusedError, VolumeError
from tests.contract.quirks import LISTED_OTHERWISE, NOT_COPIED, ODD_KEYS, REFUSED

ODD = [
    *[
        "sp a+b%20",
        "+",
        "a b",
        "%",
        "100%",
        "%41",
        "a%2Fb",
        "%2F",
        "é",
        "e\u0301",
        "uni-世界",
        "😀",
    ],
    *["tab\tx", "n\nl", "cr\rx", "ctl\x01x", "esc\x1b[0m", "del\x7f", "back\\s", "#hash?q=1"],
    *["a*b", "t~", "~", "[x]{y}", "x|y", "^c", '"q"', "<lt>", "a&b", "&amp;", "a:b", "a;b", "a'b"],
    *[".hidden", "a..b", "...", "$(x)", "`t`", "=", "@,!", "dir/", "/lead", "//", "x//y", "./d"],
    *["sub/./d", "sub/../d", "..", "?uploads", "a?versionId=null", "k" * 200],
]


@pytest.mark.parametrize("key", ODD, ids=repr)
async def test_an_odd_key_is_any_key(subject, store, key):
    data = b"" if key.endswith("/") else key.encode()
    quirk = subject.odd_key(key)
    if quirk == REFUSED:
        with pytest.raises(VolumeError):
            await store.put(key, data)
        return
    put = await store.put(key, data)
    assert (await store.head(key)).etag == put.etag
    assert (await store.read_range(key, 0, 1000)).data == data
    listed = [info.key for info in (await subject.listed("", delimiter="")).objects]
    if quirk == LISTED_OTHERWISE:
        assert listed != [key]
        return
    assert listed == [key]
    prefixed = await subject.listed(key, delimiter="")
    assert [info.key for info in prefixed.objects] == [key]
    source = await store.head(key)
    if quirk == NOT_COPIED:
        with pytest.raises(StoreRefusedError):
            await store.copy(source, f"copies/{key}")
    else:
        copy = await store.copy(source, f"copies/{key}")
        assert (await store.read_range(copy.key, 0, 1000)).data == data
        await store.delete(copy.key)
    assert not await store.delete_many([(key, "")])
    assert (await subject.listed("", delimiter="")).objects == []


def test_every_declared_quirk_is_about_a_key_that_is_tried():
    assert {key for keys in ODD_KEYS.values() for key in keys} <= set(ODD)
