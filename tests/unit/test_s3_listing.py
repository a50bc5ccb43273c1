"""LIST pages as the stores write them."""

import asyncio

import pytest

from csi_s3.errors import IntegrityError
from csi_s3.s3 import xml
from csi_s3.s3.list_objects import page_of, timestamp

AWS = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
<EncodingType>url</EncodingType><IsTruncated>{truncated}</IsTruncated>{token}{contents}
<CommonPrefixes><Prefix>a+dir%2B%01/</Prefix></CommonPrefixes></ListBucketResult>"""
ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.999Z</LastModified>"
    "<ETag>&quot;e&quot;</ETag><Size>5</Size><StorageClass>{kind}</StorageClass>{more}</Contents>"
)


def page(*entries: str, token: str = "", truncated: str = "false") -> bytes:
    return AWS.format(contents="".join(entries), token=token, truncated=truncated).encode()


def entry(key="k", kind="STANDARD", more=""):
    return ENTRY.format(key=key, kind=kind, more=more)


def parse_page(body):
    return asyncio.run(page_of(xml.parse(body)))


def test_keys_and_prefixes_are_url_decoded_with_plus_for_blank():
    found = parse_page(page(entry("a+b%2Bc%25d%01%E4%B8%96")))
    assert found.objects[0].key == "a b+c%d\x01世"
    assert found.prefixes == ["a dir+\x01/"]


def test_without_an_encoding_type_keys_are_taken_as_they_are():
    body = page(entry("a+b%20")).replace(b"<EncodingType>url</EncodingType>", b"")
    assert parse_page(body).objects[0].key == "a+b%20"


def test_dates_are_whole_seconds_cut_not_rounded():
    assert parse_page(page(entry())).objects[0].last_modified == 1767323045.0
    assert timestamp("2026-01-02T03:04:05") == 1767323045.0
    assert timestamp("") == 0.0


def test_the_token_counts_only_on_a_truncated_page():
    token = "<NextContinuationToken>t=</NextContinuationToken>"
    assert parse_page(page(token=token, truncated="true")).next_token == "t="
    assert parse_page(page(token=token)).next_token is None
    with pytest.raises(IntegrityError, match="no continuation token"):
        parse_page(page(truncated="true"))


@pytest.mark.parametrize(
    ("kind", "more", "archived"),
    [
        ("STANDARD", "", False),
        ("GLACIER", "", True),
        ("DEEP_ARCHIVE", "", True),
        ("GLACIER_IR", "", False),
        (
            "GLACIER",
            "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>",
            True,
        ),
        (
            "GLACIER",
            "<RestoreStatus><RestoreExpiryDate>2026-02-01T00:00:00Z</RestoreExpiryDate></RestoreStatus>",
            False,
        ),
    ],
)
def test_an_object_is_archived_until_its_restored_copy_is_there(kind, more, archived):
    assert parse_page(page(entry(kind=kind, more=more))).objects[0].archived is archived


def test_an_etag_without_quotes_gets_them():
    body = page(entry()).replace(b"&quot;e&quot;", b"e")
    assert parse_page(body).objects[0].etag == '"e"'


def test_a_document_that_declares_entities_is_no_listing():
    bomb = b'<!DOCTYPE x [<!ENTITY a "AAAA">]>' + page(entry("&a;")).split(b"?>", 1)[1]
    assert xml.parse(bomb) is None


@pytest.mark.parametrize("names", [1, 10])
def test_a_page_of_long_keys_is_read_in_steps_that_do_not_grow_with_it(names):
    async def steps(body):
        reading, n = asyncio.get_running_loop().create_task(page_of(xml.parse(body))), 0
        while not reading.done():
            n += 1
            await asyncio.sleep(0)
        assert len(reading.result().objects) == names * 100
        return n

    long, short = "%C3%A4" * 500, "f" * 50
    keys = [f"{n:06}{long}" for n in range(names * 100)]
    assert asyncio.run(steps(page(*map(entry, keys)))) in range(names * 2, names * 4)
    keys = [f"{n:06}{short}" for n in range(names * 100)]
    assert asyncio.run(steps(page(*map(entry, keys)))) <= 2
