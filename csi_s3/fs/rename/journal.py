"""Renames of directories, written down before the first step and removed after the last.

A worker that ends in between leaves an entry in the mount's state directory, and the mount's next
worker finishes the rename:

    <state dir>/rename-<number>.json
    <state dir>/rename-<number>.pages   what a large one has copied, see `page_file`
"""

import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

from csi_s3.fs.base.json_file import read_json, write_json
from csi_s3.fs.base.memory import Memory, MemoryKind
from csi_s3.fs.rename.page_file import PageFile, PageSpace
from csi_s3.fs.rename.tree_copy import Copied, TreeCopy, unpack

log = logging.getLogger(__name__)

PAGES_SUFFIX = ".pages"

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
        Those in the page file are not among them, and are to be deleted as well.
    in_file: how many copies the page file holds, while undoing.
    """

    old: str
    new: str
    phase: Phase
    began: float
    newest: float = 0.0
    made: Sequence[tuple[str, str]] = ()
    in_file: int = 0

    def at_new(self, key: str) -> str:
        """Where the copy of a key under `old` is."""
        return self.new + key[len(self.old) :]

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
        return replace(
            record,
            began=float(record.began),
            newest=float(record.newest),
            in_file=int(record.in_file),
        )


class RenameJournal:
    """Lifetime: as the worker. directory: None where there is none; then nothing is recorded.

    page_copies: in a page of what was copied; a rename of fewer keys needs no page file.
    """

    def __init__(
        self, directory: Path | None, memory: Memory, *, limit_bytes: int, page_copies: int = 1000
    ) -> None:
        """limit_bytes: of all page files."""
        self.page_copies = page_copies
        self._directory = directory
        self._account = memory.account(MemoryKind.RENAMES)
        self._space = PageSpace(limit_bytes)
        self._next = 1

    def begin(self, record: RenameRecord) -> "JournalEntry":
        """Add an entry. If the disk refuses, there is one WARNING and the rename goes on."""
        path = None
        if self._directory is not None:
            while (path := self._directory / f"rename-{self._next}.json").exists():
                self._next += 1
            self._next += 1  # also if this one cannot be written
        entry = self._entry(path)
        entry.update(record)
        return entry

    def _entry(self, path: Path | None) -> "JournalEntry":
        file = None if path is None else PageFile(path.with_suffix(PAGES_SUFFIX), self._space)
        return JournalEntry(path, TreeCopy(self._account, file, page_copies=self.page_copies), file)

    def pending(self) -> "list[tuple[JournalEntry, RenameRecord]]":
        """The entries of earlier workers of this mount, the earliest first."""
        entries = []
        self._remove_orphans()
        paths = self._directory.glob("rename-*.json") if self._directory else ()
        for path in sorted(paths, key=lambda path: (len(path.name), path.name)):
            try:
                record = RenameRecord.from_json(read_json(path))
            except (OSError, ValueError, TypeError, AttributeError) as exc:
                log.warning("%s cannot be read and is left alone: %s", path, exc)
            else:
                entries.append((self._entry(path), record))
        return entries

    def _remove_orphans(self) -> None:
        """Page files whose record is gone: a worker ended between the two."""
        for path in self._directory.glob(f"rename-*{PAGES_SUFFIX}") if self._directory else ():
            if not path.with_suffix(".json").exists():
                with suppress(OSError):
                    path.unlink()


class JournalEntry:
    """One rename, from `begin` or `pending` until `end`. copied: what it has copied so far."""

    def __init__(self, path: Path | None, copied: TreeCopy, file: PageFile | None) -> None:
        self.copied = copied
        self._path, self._file = path, file

    def left_pages(self) -> Iterator[Sequence[Copied]]:
        """What an earlier worker wrote down that it has copied, as far as it can be read."""
        try:
            for page in self._file or ():
                yield unpack(page)
        except (OSError, ValueError, TypeError, zlib.error) as exc:
            log.warning("%s cannot be read to its end: %s", self._path, exc)

    def update(self, record: RenameRecord) -> None:
        """Replace it, whole or not at all."""
        if self._path is None:
            return
        try:
            data = asdict(record)
            if not record.in_file:
                del data["in_file"]  # workers before page files can read it then
            write_json(self._path, data)
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
            with suppress(NotADirectoryError):  # then neither could be written
                self._path.unlink(missing_ok=True)
                if self._file is not None:
                    self._file.remove()
        except OSError as exc:
            log.warning("%s cannot be removed: %s", self._path, exc.strerror)
