"""Renames of directories, written down before the first step and removed after the last.

A worker that ends in between leaves an entry in the mount's state directory, and the mount's next
worker finishes the rename:

    <state dir>/rename-<number>.json
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

from csi_s3.fs.base.json_file import read_json, write_json

log = logging.getLogger(__name__)

Phase: TypeAlias = Literal["copying", "deleting", "undoing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameRecord:
    """All keys under `old` go under `new`; both end with "/".

    phase: copies to `new`, deletes of `old` (everything is at `new`), or deletes of the copies,
        because one was refused.
    began: seconds since the epoch; while copying, younger objects at `old` are other clients'.
    newest: by the store's clock, the youngest object that was copied: younger ones at `old` must
        not be deleted.
    made: keys and ETags of the copies that are to be deleted; "" where the ETag is not known.
    """

    old: str
    new: str
    phase: Phase
    began: float
    newest: float = 0.0
    made: Sequence[tuple[str, str]] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Strict, because it decides what is deleted.

        Raises:
            ValueError, TypeError, AttributeError: the data is not a record.

        """
        made = tuple((str(key), str(etag)) for key, etag in data.pop("made", ()))
        record = cls(**data, made=made)
        names = record.old.endswith("/"), record.new.endswith("/")
        if not all(names) or record.phase not in get_args(Phase):
            raise ValueError("no rename of a directory")
        return replace(record, began=float(record.began), newest=float(record.newest))


class RenameJournal:
    """Lifetime: as the worker. directory: None where there is none; then nothing is recorded."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._next = 1

    def begin(self, record: RenameRecord) -> "JournalEntry":
        """Add an entry. If the disk refuses, there is one WARNING and the rename goes on."""
        path = None
        if self._directory is not None:
            while (path := self._directory / f"rename-{self._next}.json").exists():
                self._next += 1
        entry = JournalEntry(path)
        entry.update(record)
        return entry

    def pending(self) -> "list[tuple[JournalEntry, RenameRecord]]":
        """The entries of earlier workers of this mount, the earliest first."""
        entries = []
        paths = self._directory.glob("rename-*.json") if self._directory else ()
        for path in sorted(paths, key=lambda path: (len(path.name), path.name)):
            try:
                record = RenameRecord.from_json(read_json(path))
            except (OSError, ValueError, TypeError, AttributeError) as exc:
                log.warning("%s cannot be read and is left alone: %s", path, exc)
            else:
                entries.append((JournalEntry(path), record))
        return entries


class JournalEntry:
    def __init__(self, path: Path | None) -> None:
        self._path = path

    def update(self, record: RenameRecord) -> None:
        """Replace it, whole or not at all."""
        if self._path is None:
            return
        try:
            write_json(self._path, asdict(record))
        except OSError as exc:
            log.warning(
                "%s: %s; a crash now would leave the rename of %s half done",
                self._path,
                exc.strerror,
                record.old,
            )

    def end(self) -> None:
        """Remove the entry: the rename is done, or undone."""
        if self._path is None:
            return
        try:
            self._path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return  # it could not be written
        except OSError as exc:
            log.warning("%s cannot be removed: %s", self._path, exc.strerror)
