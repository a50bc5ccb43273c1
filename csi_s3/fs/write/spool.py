"""Bytes accepted and not yet in S3 that do not fit memory: files of the mount's state directory.

They are counted here against a limit of their own (statvfs shows the node's whole disk). Each has
a description beside it, so that the mount's next worker, or a person, finds what a worker could not
upload before its end:

    <state dir>/file-<number>.data    the bytes, at their offsets in the file; sparse
    <state dir>/file-<number>.json    which object they belong to (`Description`)

Reads and writes are plain calls: they go to the page cache, in microseconds.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from csi_s3.errors import SpoolFullError
from csi_s3.fs.base.json_file import NEW_SUFFIX, read_json, write_json
from csi_s3.fs.write.extents import Extents, Origin
from csi_s3.s3.store import Buffer, ObjectInfo

log = logging.getLogger(__name__)

_HINT = "close other files that are being changed, or give the volume a larger spool-size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a spool file is.

    is_whole: the program had closed the file: what is here may be uploaded. Else it was still
        being changed, and may be half written.
    base_etag, base_size: the version that it changes; "" where there was none.
    """

    key: str
    is_whole: bool = False
    base_etag: str = ""
    base_size: int = 0
    extents: Sequence[tuple[int, int, str]] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        extents = tuple((int(s), int(e), str(o)) for s, e, o in data.pop("extents", ()))
        at = 0
        for start, end, origin in extents:
            if start != at or end <= start or Origin(origin) is Origin.SENT:
                raise ValueError(f"{start} to {end} {origin} behind {at}")
            at = end
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


class Spool:
    """Lifetime: as the worker. directory None: there is none, every demand is refused.

    SpoolFullError is raised, here and by `SpoolFile`, where the limit is reached or the disk fails.
    """

    def __init__(self, directory: Path | None, *, limit_bytes: int) -> None:
        self._directory, self.limit_bytes = directory, limit_bytes
        self.used_bytes = 0
        self._next = 1
        self._open: set[Path] = set()
        self._left: dict[str, list[SpoolFile]] = {}

    @property
    def is_there(self) -> bool:
        return self._directory is not None

    def create(self, key: str) -> "SpoolFile":
        if self._directory is None:
            raise SpoolFullError(f"{key}: no spool to keep changed bytes in", _HINT)
        with _disk_errors():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            while (path := self._directory / f"file-{self._next}.data").exists():
                self._next += 1
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._next += 1
        self._open.add(path)
        file = SpoolFile(self, path, fd)
        try:
            file.describe(Description(key=key))
        except SpoolFullError:
            file.close(keep=False)
            raise
        return file

    def leftovers(self) -> list[tuple[Path, Description]]:
        """What earlier workers of this mount could not upload, the last first; see `take_over`."""
        if self._directory is None:
            return []
        leftovers = []
        self._remove_bare()
        for path in sorted(self._directory.glob("file-*.json"), key=_age):
            data = path.with_suffix(".data")
            if data in self._open:
                continue
            try:
                description = Description.from_json(read_json(path))
            except (OSError, ValueError, TypeError, KeyError) as exc:
                log.warning("%s cannot be read and is left alone: %s", path, exc)
                continue
            if not data.exists():
                path.unlink(missing_ok=True)
                continue
            leftovers.append((data, description))
        return leftovers

    def _remove_bare(self) -> None:
        """What workers left that died while they made a file, or described one."""
        assert self._directory is not None  # noqa: S101 - its caller has looked
        for path in self._directory.glob(f"file-*{NEW_SUFFIX}"):
            path.unlink(missing_ok=True)
        for path in self._directory.glob("file-*.data"):
            if path not in self._open and not path.with_suffix(".json").exists():
                path.unlink(missing_ok=True)

    def take_over(self, path: Path, description: Description) -> "SpoolFile":
        """Open a leftover like a file of this worker; its bytes count."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        file = SpoolFile(self, path, fd, description)
        self._open.add(path)
        file.counted_bytes = description.map().count(Origin.SPOOL)
        if not description.extents:  # its worker was killed
            file.counted_bytes = os.fstat(fd).st_blocks * 512
        self.used_bytes += file.counted_bytes
        return file

    def supersede(self, key: str) -> None:
        """Never upload what was left of this key: the object has been replaced since."""
        for file in self._left.pop(key, ()):
            with suppress(SpoolFullError):
                file.describe(replace(file.description, is_whole=False))

    def count(self, n: int) -> None:
        """Count n more bytes (fewer, below 0), or none if that is beyond the limit."""
        if n > 0 and self.used_bytes + n > self.limit_bytes:
            raise SpoolFullError(
                f"the spool's {self.limit_bytes} bytes are in use: {self.used_bytes}", _HINT
            )
        self.used_bytes += n

    def closed(self, file: "SpoolFile", *, is_left: bool) -> None:
        self._open.discard(file.path)
        if is_left:
            self._left.setdefault(file.description.key, []).append(file)


class SpoolFile:
    """One file's bytes. Owned by its `StagedFile`, which says how many of them count."""

    def __init__(
        self, spool: Spool, path: Path, fd: int, description: Description | None = None
    ) -> None:
        self.path, self._spool, self._fd = path, spool, fd
        self.description = description or Description(key="")
        self.counted_bytes = 0

    def write(self, offset: int, data: Buffer, *, new_bytes: int) -> None:
        """Write bytes, of which new_bytes are in no range that was written before."""
        self._count(new_bytes)
        view = memoryview(data)
        try:
            with _disk_errors():
                while view:
                    n = os.pwrite(self._fd, view, offset)
                    view, offset = view[n:], offset + n
        except SpoolFullError:
            self._count(-new_bytes)
            raise

    def _count(self, n: int) -> None:
        self._spool.count(n)
        self.counted_bytes += n

    def read(self, offset: int, length: int) -> bytes:
        """Read a range that was written."""
        pieces = []
        while length > 0:
            with _disk_errors():
                piece = os.pread(self._fd, length, offset)
            if not piece:
                raise SpoolFullError(f"{self.path} ends at {offset}", "check what changed it")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def cut(self, size: int, *, left_bytes: int) -> None:
        """Drop bytes from size on; left_bytes of the rest count."""
        with _disk_errors():
            os.ftruncate(self._fd, size)
        self._count(left_bytes - self.counted_bytes)

    def describe(self, description: Description) -> None:
        """Replace the description, whole or not at all."""
        with _disk_errors():
            write_json(self.path.with_suffix(".json"), asdict(description))
        self.description = description

    def unlink(self) -> None:
        """Remove its names, so that no other process finds it; it can be used as before."""
        self.description = replace(self.description, is_whole=False)
        self.path.with_suffix(".json").unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def close(self, *, keep: bool) -> None:
        """Give it back. keep: the bytes stay for the mount's next worker."""
        if not keep:
            self.unlink()
            self._count(-self.counted_bytes)
        os.close(self._fd)
        self._spool.closed(self, is_left=keep)


def _age(path: Path) -> int:
    """For an order from the youngest on."""
    try:
        return -path.stat().st_mtime_ns
    except OSError:
        return 0


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        hint = "check whether the disk that holds it is full"
        raise SpoolFullError(f"the spool's disk: {exc.strerror or exc}", hint) from exc
