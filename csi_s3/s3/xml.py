"""Parsing of S3's XML. The store is not trusted: no entities, no network, no DTD.

Stores use different namespaces, or none, so names are compared without them.
"""

from lxml import etree

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}


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
    return "".join(_ESCAPES.get(c, c) for c in text)


def is_xml_text(text: str) -> bool:
    """Whether XML 1.0 can represent it (https://www.w3.org/TR/xml/#charsets)."""
    return all(c >= " " or c in "\t\n\r" for c in text) and not (
        {"\ufffe", "\uffff"} & set(text) or any("\ud800" <= c <= "\udfff" for c in text)
    )
