"""What a spool file is: the record beside it, for the mount's next worker, or a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from csi_s3.fs.write.extents import Extents, Origin
from csi_s3.s3.store import ObjectInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Which object a spool file belongs to, and what may become of it.

    is_whole: the program had closed the file: what is here may be uploaded. Else it was still
        being changed, and may be half written.
    is_left: nothing will upload it: it is kept for a person, from this record's mtime on.
    base_etag, base_size: the version that it changes; "" where there was none.
    """

    key: str
    is_whole: bool = False
    is_left: bool = False
    base_etag: str = ""
    base_size: int = 0
    extents: Sequence[tuple[int, int, str]] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As `to_json` wrote it, maybe in another release.

        Raises:
            ValueError, TypeError: it is something else.

        """
        extents = tuple((int(s), int(e), str(o)) for s, e, o in data.pop("extents", ()))
        at = 0
        for start, end, origin in extents:
            if start != at or end <= start or Origin(origin) is Origin.SENT:
                raise ValueError(f"{start} to {end} {origin} behind {at}")
            at = end
        if not isinstance(data.get("key"), str):
            raise TypeError("no key")
        return cls(**{k: data[k] for k in data if k in cls.__slots__}, extents=extents)

    @classmethod
    def whole(cls, key: str, base: ObjectInfo | None, extents: Extents) -> Self:
        """Of a file that may be uploaded in place of base."""
        return cls(
            key=key,
            is_whole=True,
            base_etag="" if base is None else base.etag,
            base_size=0 if base is None else base.size,
            extents=[(e.start, e.end, e.origin.value) for e in extents],
        )

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def base(self) -> ObjectInfo | None:
        if not self.base_etag:
            return None
        return ObjectInfo(key=self.key, size=self.base_size, etag=self.base_etag, last_modified=0.0)

    def map(self) -> Extents:
        extents = Extents()
        for start, end, origin in self.extents:
            extents.put(start, end, Origin(origin))
        return extents
