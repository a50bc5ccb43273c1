"""Texts, numbers and keys of foreign answers."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from csi_s3.errors import IntegrityError
from csi_s3.s3 import answer_texts, xml
from csi_s3.s3.checksums import ALGORITHMS
from csi_s3.s3.credentials.refresh import AccessKeys
from csi_s3.s3.list_objects import timestamp
from csi_s3.s3.response_headers import describe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 漢", "plain é 漢"),
        ("a\nb\x00\x7f", "a\\nb\\x00\\x7f"),
        ("\udcff\ud800\u202e", "\\xff\\ud800\\u202e"),
        ("x" * 21, "x" * 19 + "…"),
        ("\n" * 20, "\\n" * 9 + "\\…"),
    ],
)
def test_a_text_is_cut_and_escaped(text, expected):
    short = answer_texts.short_text(text, 20)
    assert short == expected
    assert len(short) <= 20
    assert short.isprintable()
    short.encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("報告\u3000書 \u00a0\u200d\tx", None),
        ("a\nb\x00\x7f", "a\\nb\\x00\\x7f"),
        ("Ren\udce9 \u3000", "Ren\\xe9 \u3000"),
    ],
)
def test_of_a_header_only_what_no_header_may_have_is_escaped(value, expected):
    """A change sends metadata back: it must not rewrite text that is in order."""
    headers = CIMultiDictProxy(CIMultiDict({"x-amz-meta-a": value, "ETag": '"e"'}))
    clean = answer_texts.clean_headers(headers)
    assert clean == {"x-amz-meta-a": expected or value, "ETag": '"e"'}


@pytest.mark.parametrize("text", ["-1", "", "1.5", "٣", "1 ", "+1", "9" * 19, "9" * 5000, "0x1"])
def test_a_size_is_digits_and_what_a_file_can_have(text):
    with pytest.raises(ValueError, match="is not a number"):
        answer_texts.whole_number(text)
    with pytest.raises(IntegrityError, match="size"):
        describe("k", {"Content-Length": text})
    assert answer_texts.whole_number("9223372036854775807") == (1 << 63) - 1


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00Z", "1601-01-01T00:00:00", "9999-12-31T23:59:59-23:59"]
)
def test_a_time_that_no_object_has_is_none(text):
    """Promise: A time of an object before 1970 or after 2242 counts as no time."""
    assert timestamp(text) == 0.0
    headers = {"Content-Length": "1", "Last-Modified": "Mon, 01 Jan 99999999 00:00:00 GMT"}
    assert describe("k", headers).last_modified == 0.0
    headers["Last-Modified"] = "Fri, 01 Jan 1960 00:00:00 GMT"
    assert describe("k", headers).last_modified == 0.0


def test_an_etag_and_a_class_can_be_sent_in_headers_again():
    assert xml.quoted_etag('a\r\nX: y"') == 'a\\r\\nX: y"'
    assert len(xml.quoted_etag("e" * 100_000)) <= xml.MAX_ETAG + 2
    info = describe("k", {"Content-Length": "1", "x-amz-storage-class": "A\nB" + "c" * 1000})
    assert info.storage_class.isprintable()


@pytest.mark.parametrize("text", ["", "AAAA", "AAAAAAAAAAA", "not base64!", "é" * 8, "<a/>"])
def test_a_checksum_is_read_only_if_it_is_one(text):
    for algorithm in ALGORITHMS.values():
        assert algorithm.read(text) == ""
        assert algorithm.read(algorithm.of(b"data")) == algorithm.of(b"data")


@pytest.mark.parametrize("bad", ["", "a b", "a\nb", "\ud800", "é", None, 7, ["t"]])
def test_keys_that_no_header_can_carry_are_not_taken(bad):
    for keys in ((bad, "s", "t"), ("a", bad, "t"), ("a", "s", bad)):
        with pytest.raises(ValueError, match="printable ASCII"):
            AccessKeys.from_answer(*keys)
    assert repr(AccessKeys.from_answer("a", "s", "t").secret_key) == "***"


def nodes(n):
    return b"<R>" + b"<a/>" * n + b"</R>"


def test_a_tree_has_as_many_elements_and_attributes_as_s3_sends():
    assert xml.parse(nodes(xml.MAX_TAGS - 2)) is not None
    assert xml.parse(nodes(xml.MAX_TAGS - 1)) is None
    attributes = [b"a%d = '1'" % n for n in range(xml.MAX_ATTRIBUTES)]
    assert xml.parse(b"<R %b/>" % b" ".join(attributes)) is not None
    assert xml.parse(b"<R %b b='1'/>" % b" ".join(attributes)) is None


def test_other_encodings_are_no_xml_of_s3():
    assert xml.parse("<R/>".encode("utf-16")) is None
    assert xml.parse(b'<?xml version="1.0" encoding="UTF-8"?><R>\xc3\xa9</R>').text == "é"
