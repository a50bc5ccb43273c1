"""Parsing of S3's XML. The store is not trusted: no entities, no network, no DTD, a bounded tree.

Stores use different namespaces, or none, so names are compared without them.
"""

import re
from itertools import islice

from lxml import etree

from csi_s3.s3.answer_texts import short_text

_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
# https://www.w3.org/TR/xml/#charsets
_NO_CHAR = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


# A node takes some 130 bytes, so 16 MiB for a tree of the smallest. The entries of a page, at most
# 1000, have some 30 tags each.
MAX_ETAG = 1024  # characters
MAX_TAGS = 1 << 16
MAX_ATTRIBUTES = 1 << 14
_ATTRIBUTE = re.compile(rb"""=[ \t\r\n]*["']""")


def parse(body: bytes | bytearray) -> etree._Element | None:
    """The root element, or None: the body is not XML in UTF-8, or has more markup than S3 sends."""
    if b"<!DOCTYPE" in body or body.count(b"<") > MAX_TAGS:
        return None
    if next(islice(_ATTRIBUTE.finditer(body), MAX_ATTRIBUTES, None), None) is not None:
        return None
    parser = etree.XMLParser(
        encoding="utf-8",  # of all that S3 sends; another would hide markup from the counts
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        return etree.fromstring(body, parser)  # type: ignore[arg-type] # lxml takes a bytearray
    except etree.XMLSyntaxError:
        return None


def name(element: etree._Element) -> str:
    return str(element.tag).rpartition("}")[2]


def fields(element: etree._Element | None) -> dict[str, str]:
    """The text of each child, by name; of the last one if a name repeats."""
    return {} if element is None else {name(child): child.text or "" for child in element}


def quoted_etag(etag: str) -> str:
    """An ETag with its quotes, which some stores omit in XML. It is sent in headers again."""
    if len(etag) > MAX_ETAG or not etag.isprintable():  # asked of each name in a listing
        etag = short_text(etag, MAX_ETAG)
    return etag if not etag or etag.endswith('"') else f'"{etag}"'


def escape(text: str) -> str:
    """Text for an element. Line ends as references: a parser would normalize them."""
    return text.translate(_ESCAPES)


def is_xml_text(text: str) -> bool:
    """Whether XML 1.0 can represent it."""
    return _NO_CHAR.search(text) is None
