"""What a spool file is: the record beside it, for the mount's next worker, or a person.

A map of few extents is a list of them, as a person reads it. A longer one is two strings, because
a list of 100,000 takes seconds to be written and read, in which no other request is served.
Earlier releases do not take it for a list: they leave the file alone.
"""

from array import array
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from typing import Any, Self

from csi_s3.fs.write.copied_ranges import NO_COPIES, CopiedRanges
from csi_s3.fs.write.extents import LETTERS, Extents, Origin, PackedExtents
from csi_s3.s3.store import ObjectInfo

LISTED_EXTENTS = 100  # at most; a longer map is packed

_NO_MAP = PackedExtents(b"", "")
_MOST_BYTES = 1 << 63  # of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Which object a spool file belongs to, and what may become of it.

    is_whole: the program had closed the file: what is here may be uploaded. Else it was still
        being changed, and may be half written.
    is_left: nothing will upload it: it is kept for a person, from this record's mtime on.
    was_whole: it was whole before; its program had closed it.
    base_etag, base_size: the version that it changes; "" where there was none.
    copies: where the bytes are that were only in an upload.
    """

    key: str
    is_whole: bool = False
    is_left: bool = False
    was_whole: bool = False
    base_etag: str = ""
    base_size: int = 0
    copies: CopiedRanges = NO_COPIES
    extents: PackedExtents = _NO_MAP

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As `to_json` wrote it, maybe in another release.

        Raises:
            ValueError, TypeError: it is something else.

        """
        extents = data.pop("extents", ())
        packed = _unpacked(extents) if isinstance(extents, dict) else _of_list(extents)
        copies = CopiedRanges.from_json(data.pop("copies", ()))
        packed.check(has_copies=bool(copies))
        if copies and not copies.has_all(Extents.of(packed)):
            raise ValueError("bytes that are nowhere")
        if not isinstance(data.get("key"), str):
            raise TypeError("no key")
        known = {k: data[k] for k in data if k in cls.__slots__}
        return cls(**known, copies=copies, extents=packed)

    @classmethod
    def whole(
        cls,
        key: str,
        base: ObjectInfo | None,
        extents: Extents,
        copies: CopiedRanges = NO_COPIES,
    ) -> Self:
        """Of a file that may be uploaded in place of base."""
        return cls(
            key=key,
            is_whole=True,
            base_etag="" if base is None else base.etag,
            base_size=0 if base is None else base.size,
            copies=copies,
            extents=extents.packed(),
        )

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__slots__}
        if self.copies:
            data["copies"] = self.copies.to_json()
        else:
            del data["copies"]
        ends, origins = self.extents
        if len(origins) > LISTED_EXTENTS:
            return data | {"extents": {"ends": b64encode(ends).decode(), "origins": origins}}
        return data | {"extents": [(e.start, e.end, e.origin.value) for e in self.map()]}

    @property
    def base(self) -> ObjectInfo | None:
        if not self.base_etag:
            return None
        return ObjectInfo(key=self.key, size=self.base_size, etag=self.base_etag, last_modified=0.0)

    def without_map(self) -> Self:
        return replace(self, copies=NO_COPIES, extents=_NO_MAP)

    def map(self) -> Extents:
        return Extents.of(self.extents)


def _unpacked(data: dict[str, Any]) -> PackedExtents:
    ends, origins = data.get("ends"), data.get("origins")
    if not isinstance(ends, str) or not isinstance(origins, str):
        raise TypeError("no map")
    return PackedExtents(b64decode(ends, validate=True), origins)


def _of_list(data: list[Any]) -> PackedExtents:
    ends, at = array("Q"), 0
    letters: list[str] = []
    for start, end, origin in data:
        if start != at or not start < end < _MOST_BYTES:
            raise ValueError(f"{start} to {end} {origin} behind {at}")
        at, letter = end, LETTERS[Origin(origin)]
        if letters and letters[-1] == letter:
            ends[-1] = end
        else:
            ends.append(end)
            letters.append(letter)
    return PackedExtents.of(ends, "".join(letters))
