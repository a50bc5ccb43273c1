"""Texts and numbers of a store's answers, made printable and short where they are read.

A store is not trusted. What it says reaches logs, Events and messages between processes, and goes
back to it in headers: a byte that is not UTF-8, a line end or a megabyte must not get that far.
"""

import re
from collections.abc import Mapping

from multidict import CIMultiDictProxy

CODE_CHARS = 100  # of an error's code, a request id, a region
MESSAGE_CHARS = 500
HEADER_CHARS = 8190
MAX_NUMBER = (1 << 63) - 1  # of a file's size in the kernel
MAX_DIGITS = 19
_ODD = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # what no header may have


def short_text(text: str, most: int) -> str:
    r"""At most so many characters, without control characters and lone surrogates.

    These are written as Python writes them: `\n`, `\xff`; an odd byte of a header (a surrogate) as
    the byte. A cut text ends with "…".
    """
    if len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    escaped = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return escaped if len(escaped) <= most else escaped[: most - 1] + "…"


def shown(text: str) -> str:
    """For a message about a header: quoted, and short."""
    return repr(short_text(text, CODE_CHARS))


def whole_number(text: str) -> int:
    """A size or an offset.

    Raises:
        ValueError: it is not digits only, or more than a file can have.

    """
    if text.isdigit() and text.isascii() and len(text) <= MAX_DIGITS and int(text) <= MAX_NUMBER:
        return int(text)
    raise ValueError(f"{shown(text)} is not a number from 0 to {MAX_NUMBER}")


def clean_headers(headers: CIMultiDictProxy[str]) -> Mapping[str, str]:
    """The same headers, without control characters and bytes that are not UTF-8: these are escaped.

    All other text stays, because a write preserves it: spaces, emoji, tabs. To show a value, make
    it a `short_text`. aiohttp takes 128 headers of at most 8,190 bytes.
    """
    odd = {name: value for name, value in headers.items() if _ODD.search(value)}
    if not odd:
        return headers
    clean = headers.copy()
    for name, value in odd.items():
        clean[name] = _ODD.sub(lambda found: _escaped(found[0]), value)[:HEADER_CHARS]
    return clean


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte, decoded by surrogateescape
        return f"\\x{ord(char) - 0xDC00:02x}"
    return ascii(char)[1:-1]
