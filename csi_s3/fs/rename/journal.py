"""Operations of several steps, written down before the first and removed after the last.

A worker that ends in between leaves its intent in the mount's state directory, and the mount's
next worker finishes what it says:

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

    phase: what was under way: copies to `new`, deletes of `old` (everything is at `new`), or
        deletes of what had been copied, because a copy was refused.
    began: seconds since the epoch; while copying, younger objects at `old` are somebody else's.
    newest: by the store's clock, the youngest of what was copied: younger ones at `old` are not
        to be deleted.
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
        """It decides what is deleted: nothing doubtful is taken for one.

        Raises:
            ValueError, TypeError, AttributeError: it is none.

        """
        made = tuple((str(key), str(etag)) for key, etag in data.pop("made", ()))
        what = cls(**data, made=made)
        names = what.old.endswith("/"), what.new.endswith("/")
        if not all(names) or what.phase not in get_args(Phase):
            raise ValueError("no rename of a directory")
        return replace(what, began=float(what.began), newest=float(what.newest))


class RenameJournal:
    """Lifetime: as the worker. directory None: there is none, nothing is remembered."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._next = 1

    def begin(self, what: RenameRecord) -> "JournalEntry":
        """Write it down. A disk that refuses is one WARNING: the rename itself goes on."""
        path = None
        if self._directory is not None:
            path = self._directory / f"rename-{self._next}.json"
            while path.exists():
                self._next += 1
                path = self._directory / f"rename-{self._next}.json"
        intent = JournalEntry(path)
        intent.update(what)
        return intent

    def pending(self) -> "list[tuple[JournalEntry, RenameRecord]]":
        """What earlier workers of this mount did not finish, the earliest first."""
        found = []
        paths = self._directory.glob("rename-*.json") if self._directory else ()
        for path in sorted(paths, key=lambda path: (len(path.name), path.name)):
            try:
                what = RenameRecord.from_json(read_json(path))
            except (OSError, ValueError, TypeError, AttributeError) as exc:
                log.warning("%s cannot be read and is left alone: %s", path, exc)
            else:
                found.append((JournalEntry(path), what))
        return found


class JournalEntry:
    def __init__(self, path: Path | None) -> None:
        self._path = path

    def update(self, what: RenameRecord) -> None:
        """Replace it, whole or not at all."""
        if self._path is None:
            return
        try:
            write_json(self._path, asdict(what))
        except OSError as exc:
            log.warning(
                "%s: %s; a crash now would leave the rename of %s half done",
                self._path,
                exc.strerror,
                what.old,
            )

    def end(self) -> None:
        """It is done, or undone."""
        if self._path is None:
            return
        try:
            self._path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return  # it could not be written either
        except OSError as exc:
            log.warning("%s cannot be removed: %s", self._path, exc.strerror)
