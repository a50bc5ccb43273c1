"""Parsing of S3's XML. The store is not trusted: no entities, no network, no DTD.

Stores use different namespaces, or none, so names are compared without them.
"""

import re

from lxml import etree

_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
# https://www.w3.org/TR/xml/#charsets
_NO_CHAR = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def parse(body: bytes) -> etree._Element | None:
    """The root element, or None if the body is not XML."""
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=True,
        remove_comments=True,
    )
    try:
        return etree.fromstring(body, parser)
    except etree.XMLSyntaxError:
        return None


def name(element: etree._Element) -> str:
    return str(element.tag).rpartition("}")[2]


def fields(element: etree._Element | None) -> dict[str, str]:
    """The text of each child, by name; of the last one if a name repeats."""
    return {} if element is None else {name(child): child.text or "" for child in element}


def quoted_etag(etag: str) -> str:
    """An ETag with its quotes, which some stores omit in XML."""
    return etag if not etag or etag.endswith('"') else f'"{etag}"'


def escape(text: str) -> str:
    """Text for an element. Line ends as references: a parser would normalize them."""
    return text.translate(_ESCAPES)


def is_xml_text(text: str) -> bool:
    """Whether XML 1.0 can represent it."""
    return _NO_CHAR.search(text) is None
