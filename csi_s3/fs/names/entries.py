"""The entries of one listing, packed: a directory may have a million.

Rejected: dropping entries that were read. A listing answers the look-ups that follow it (`ls -l`,
`find -size`), and seekdir goes back.
"""

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from csi_s3.fs.base.keys import LINK_SUFFIX
from csi_s3.s3.store import ObjectInfo


class Special(Enum):
    DIRECTORY = auto()
    ABSENT = auto()
    LOCAL = auto()  # exists on this mount only, so far


@dataclass(frozen=True, slots=True)
class SymbolicLink:
    """A symbolic link; info is that of the object which holds its target."""

    info: ObjectInfo


Entry: TypeAlias = ObjectInfo | SymbolicLink | Special

_PACKED = struct.Struct("<QIBB")  # size, whole seconds, flags, storage class; then the ETag
_MAX_SIZE, _MAX_SECONDS, _MAX_CLASSES = (1 << 64) - 1, (1 << 32) - 1, 255
_IS_LINK, _IS_ARCHIVED, _IS_HEX = 1, 2, 4
_HEX_CHARACTERS = 32


class Entries:
    """A table of names. Concurrency: plain code. Lifetime: as its listing.

    A removed name stays in it, for `was_seen`.
    """

    def __init__(self, prefix: str) -> None:
        """prefix: the directory's key, with which the keys of its objects begin."""
        self._prefix = prefix
        self._entries: dict[str, bytes | Entry | None] = {}
        self._classes: list[str] = []

    def __contains__(self, name: str) -> bool:
        return self._entries.get(name) is not None

    def was_seen(self, name: str) -> bool:
        return name in self._entries

    def get(self, name: str) -> Entry | None:
        entry = self._entries.get(name)
        return self._unpacked(name, entry) if isinstance(entry, bytes) else entry

    def put(self, name: str, entry: Entry) -> None:
        self._entries[name] = self._packed(name, entry) or entry

    def remove(self, name: str) -> None:
        if name in self._entries:
            self._entries[name] = None

    def moved(self, prefix: str) -> None:
        """The directory has another key: S3 is to be asked what the names stand for."""
        self._prefix = prefix
        for name, entry in self._entries.items():
            if entry is not None and not isinstance(entry, Special):
                self._entries[name] = Special.LOCAL

    def _packed(self, name: str, entry: Entry) -> bytes | None:
        """None: it is rare, and stored as it is."""
        if isinstance(entry, Special):
            return None
        is_link = isinstance(entry, SymbolicLink)
        info = entry.info if isinstance(entry, SymbolicLink) else entry
        seconds = int(info.last_modified)
        if (
            info.key != self._key(name, is_link=is_link)
            or seconds != info.last_modified
            or not 0 <= seconds <= _MAX_SECONDS
            or not 0 <= info.size <= _MAX_SIZE
        ):
            return None
        number = self._class_number(info.storage_class)
        if number is None:
            return None
        flags = is_link * _IS_LINK | info.archived * _IS_ARCHIVED
        etag = _hex_bytes(info.etag)
        if etag is None:
            etag = info.etag.encode(errors="surrogateescape")
        else:
            flags |= _IS_HEX
        return _PACKED.pack(info.size, seconds, flags, number) + etag

    def _unpacked(self, name: str, packed: bytes) -> Entry:
        size, seconds, flags, number = _PACKED.unpack_from(packed)
        etag, is_link = packed[_PACKED.size :], bool(flags & _IS_LINK)
        info = ObjectInfo(
            key=self._key(name, is_link=is_link),
            size=size,
            etag=f'"{etag.hex()}"' if flags & _IS_HEX else etag.decode(errors="surrogateescape"),
            last_modified=float(seconds),
            storage_class=self._classes[number],
            archived=bool(flags & _IS_ARCHIVED),
        )
        return SymbolicLink(info) if is_link else info

    def _key(self, name: str, *, is_link: bool) -> str:
        return f"{self._prefix}{name}{LINK_SUFFIX}" if is_link else f"{self._prefix}{name}"

    def _class_number(self, storage_class: str) -> int | None:
        if storage_class not in self._classes:
            if len(self._classes) > _MAX_CLASSES:
                return None
            self._classes.append(storage_class)
        return self._classes.index(storage_class)


def _hex_bytes(etag: str) -> bytes | None:
    """The 16 bytes of an ETag such as "0123456789abcdef0123456789abcdef", quotes included."""
    if len(etag) != _HEX_CHARACTERS + 2 or etag[0] != '"' or etag[-1] != '"':
        return None
    try:
        raw = bytes.fromhex(etag[1:-1])
    except ValueError:
        return None
    return raw if f'"{raw.hex()}"' == etag else None
