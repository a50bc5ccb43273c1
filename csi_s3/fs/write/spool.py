"""Bytes accepted and not yet in S3 that do not fit memory: files of the mount's state directory.

They are counted here against a limit of their own (statvfs shows the node's whole disk). Each has
a description beside it, so that what a worker could not upload before its end is found by the
mount's next one, or by a person:

    <state dir>/file-<number>.data    the bytes, at their offsets in the file; sparse
    <state dir>/file-<number>.json    which object they belong to (`Description`)

Reads and writes are plain calls: they go to the page cache, in microseconds.
"""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from csi_s3.errors import SpoolFullError, VolumeError
from csi_s3.fs.base.json_file import NEW_SUFFIX, read_json, write_json
from csi_s3.fs.write.extents import Extent, Origin

log = logging.getLogger(__name__)

_HINT = "close other files that are being changed, or give the volume a larger spool-size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a spool file is.

    is_whole: the program had closed the file: what is here may be uploaded. Else it was still
        being changed, and nobody can say whether it makes sense.
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


class Spool:
    """Lifetime: as the worker. directory None: there is none, every demand is refused."""

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
        """Make an empty file for this key.

        Raises:
            SpoolFullError: there is no spool, or its disk refuses.

        """
        if self._directory is None:
            raise SpoolFullError(f"{key}: no spool to keep changed bytes in", _HINT)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                path = self._directory / f"file-{self._next}.data"
                self._next += 1
                try:
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                except FileExistsError:
                    continue
                break
        except OSError as exc:
            raise _refused(exc) from exc
        self._open.add(path)
        made = SpoolFile(self, path, fd)
        try:
            made.describe(Description(key=key))
        except SpoolFullError:
            made.close(keep=False)
            raise
        return made

    def leftovers(self) -> list[tuple[Path, Description]]:
        """What earlier workers of this mount could not upload, the last first; see `take_over`."""
        if self._directory is None:
            return []
        found = []
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
            found.append((data, description))
        return found

    def _remove_bare(self) -> None:
        """What workers left that died while they made a file, or described one."""
        assert self._directory is not None  # noqa: S101 - its caller has looked
        for path in self._directory.glob(f"file-*{NEW_SUFFIX}"):
            path.unlink(missing_ok=True)
        for path in self._directory.glob("file-*.data"):
            if path not in self._open and not path.with_suffix(".json").exists():
                path.unlink(missing_ok=True)

    def take_over(self, path: Path, description: Description) -> "SpoolFile":
        """Open a leftover; it is now as if it were made by us, and its bytes count."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        file = SpoolFile(self, path, fd, description)
        self._open.add(path)
        file.counted_bytes = sum(
            e - s for s, e, o in description.extents if o == Origin.SPOOL.value
        )
        if not description.extents:  # its worker was killed
            file.counted_bytes = os.fstat(fd).st_blocks * 512
        self.used_bytes += file.counted_bytes
        return file

    def supersede(self, key: str) -> None:
        """What was left of this key is no change of what is there now: it must not come back."""
        for file in self._left.pop(key, ()):
            with suppress(SpoolFullError):
                file.describe(replace(file.description, is_whole=False))

    def count(self, n: int) -> None:
        """Count n more bytes (less, below 0).

        Raises:
            SpoolFullError: beyond the limit; nothing was counted.

        """
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

    def write(self, offset: int, data: bytes | bytearray | memoryview, *, new_bytes: int) -> None:
        """Write; new_bytes of them were not here before.

        Raises:
            SpoolFullError: nothing was written, or the disk is full.

        """
        self._spool.count(new_bytes)
        self.counted_bytes += new_bytes
        try:
            view = memoryview(data)
            while view:
                n = os.pwrite(self._fd, view, offset)
                view, offset = view[n:], offset + n
        except OSError as exc:
            self._spool.count(-new_bytes)
            self.counted_bytes -= new_bytes
            raise _refused(exc) from exc

    def read(self, offset: int, length: int) -> bytes:
        """All of the range, which was written.

        Raises:
            SpoolFullError: the disk failed.

        """
        pieces = []
        while length > 0:
            try:
                piece = os.pread(self._fd, length, offset)
            except OSError as exc:
                raise _refused(exc) from exc
            if not piece:
                raise SpoolFullError(f"{self.path} ends at {offset}", "did somebody change it?")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def cut(self, size: int, *, left_bytes: int) -> None:
        """Bytes from size on are not needed any more; left_bytes of the rest count."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as exc:
            raise _refused(exc) from exc
        self._spool.count(left_bytes - self.counted_bytes)
        self.counted_bytes = left_bytes

    def describe(self, description: Description) -> None:
        """Replace the description, whole or not at all.

        Raises:
            SpoolFullError: the disk refuses.

        """
        try:
            write_json(self.path.with_suffix(".json"), asdict(description))
        except OSError as exc:
            raise _refused(exc) from exc
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
            self._spool.count(-self.counted_bytes)
            self.counted_bytes = 0
        os.close(self._fd)
        self._spool.closed(self, is_left=keep)


def as_lists(extents: list[Extent]) -> tuple[tuple[int, int, str], ...]:
    """Extents as a `Description` holds them."""
    return tuple((e.start, e.end, e.origin.value) for e in extents)


def _age(path: Path) -> int:
    """For an order from the youngest on."""
    try:
        return -path.stat().st_mtime_ns
    except OSError:
        return 0


def _refused(exc: OSError) -> VolumeError:
    return SpoolFullError(
        f"the spool's disk: {exc.strerror or exc}", "is there room on the disk that holds it?"
    )
