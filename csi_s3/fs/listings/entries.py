"""The entries of a listing, packed: a directory may have a million names.

Rejected: a dictionary of names (247 bytes for each, where 50 are enough).
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
    LOCAL = auto()  # exists on this mount only, so far; or S3 is to be asked


@dataclass(frozen=True, slots=True)
class SymbolicLink:
    """A symbolic link; info is that of the object which holds its target."""

    info: ObjectInfo


Entry: TypeAlias = ObjectInfo | SymbolicLink | Special

_PACKED = struct.Struct("<BBIQ")  # flags, storage class, whole seconds, size; then the ETag
_MAX_SIZE, _MAX_SECONDS, _MAX_CLASSES, _MAX_CLASS = (1 << 64) - 1, (1 << 32) - 1, 255, 64
_IS_LINK, _IS_ARCHIVED, _IS_HEX, _IS_SPECIAL = 1, 2, 4, 8
_HEX_CHARACTERS = 32
_PACKED_BYTES = _PACKED.size
_SPECIALS = {kind.value: kind for kind in Special}
_SPECIAL = {kind: bytes([_IS_SPECIAL | kind.value << 4]) for kind in Special}


class Packer:
    """Packs entries of directories, and unpacks them. Concurrency: plain code.

    Lifetime: as the mount. It knows the storage classes that it has seen, 256 at most.
    """

    def __init__(self) -> None:
        self._classes: list[str] = []

    def pack(self, prefix: str, name: str, entry: Entry) -> bytes | None:
        """None: it is too odd to be packed. prefix: the directory's key.

        What is special is one byte, which replaces the first byte of anything else.
        """
        if isinstance(entry, Special):
            return _SPECIAL[entry]
        if isinstance(entry, SymbolicLink):
            info, flags, key = entry.info, _IS_LINK, f"{prefix}{name}{LINK_SUFFIX}"
        else:
            info, flags, key = entry, 0, f"{prefix}{name}"
        seconds = int(info.last_modified)
        if (
            info.key != key
            or seconds != info.last_modified
            or not 0 <= seconds <= _MAX_SECONDS
            or not 0 <= info.size <= _MAX_SIZE
        ):
            return None
        number = self._class_number(info.storage_class)
        if number is None:
            return None
        if info.archived:
            flags |= _IS_ARCHIVED
        etag = _hex_bytes(info.etag)
        if etag is None:
            etag = info.etag.encode(errors="surrogateescape")
        else:
            flags |= _IS_HEX
        return _PACKED.pack(flags, number, seconds, info.size) + etag

    def unpack(
        self,
        prefix: str,
        name: str,
        packed: bytes | bytearray,
        start: int = 0,
        end: int | None = None,
    ) -> Entry:
        """start, end: its place in `packed`."""
        if packed[start] & _IS_SPECIAL:
            return _SPECIALS[packed[start] >> 4]
        flags, number, seconds, size = _PACKED.unpack_from(packed, start)
        etag = packed[start + _PACKED_BYTES : end]
        info = ObjectInfo(
            f"{prefix}{name}{LINK_SUFFIX}" if flags & _IS_LINK else f"{prefix}{name}",
            size,
            f'"{etag.hex()}"' if flags & _IS_HEX else etag.decode(errors="surrogateescape"),
            float(seconds),
            self._classes[number],
            flags & _IS_ARCHIVED != 0,
        )
        return SymbolicLink(info) if flags & _IS_LINK else info

    def _class_number(self, storage_class: str) -> int | None:
        if storage_class not in self._classes:
            if len(self._classes) > _MAX_CLASSES or len(storage_class) > _MAX_CLASS:
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
