"""What earlier workers left in the spool, and this one could not upload: it counts, and goes again.

There are three kinds:

- `whole`: it can still be uploaded. Only its upload, or a rewrite of its object that is in S3,
  removes it.
- `given-up`: it was whole, and its object was changed by others. It is kept for a person for
  `kept_s`.
- `unfinished`: its program had not closed it when the worker died, and got an error. It is kept as
  long, but only as files in use do not need the room: at least half of the spool is theirs.

Memory: a record for each, up to the account's limit. What exceeds it counts in the spool and stays
on the disk, and a later worker deals with it.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from csi_s3.fs.base.few_lines import FewLines
from csi_s3.fs.base.json_file import NEW_SUFFIX
from csi_s3.fs.base.memory import Account
from csi_s3.fs.write.spool_description import Description
from csi_s3.fs.write.spool_directory import DESCRIPTION_SUFFIX, NAME, SpoolDirectory
from csi_s3.fs.write.spool_space import SpoolSpace
from csi_s3.obs.metrics import catalog as metrics

log = logging.getLogger(__name__)

# Of one leftover, besides its key: measured with tracemalloc, 1,000 and 10,000 of them: 296 to 311
RECORD_BYTES = 310
_STEP = 32  # files that are looked at without a turn for others: some 5 ms
_NAMED = 10  # in one line of the log


@dataclass(frozen=True, slots=True)
class Leftover:
    """size: its bytes on the disk, as they count. described_s: since the epoch."""

    number: int
    key: str
    size: int
    is_whole: bool
    was_whole: bool = False
    described_s: float = 0.0

    @property
    def memory_bytes(self) -> int:
        return RECORD_BYTES + sys.getsizeof(self.key)


@dataclass(frozen=True, slots=True)
class LeftoverTotal:
    """Of one kind. oldest_s: when the oldest was described, since the epoch; 0.0: there is none."""

    files: int
    size: int
    oldest_s: float


class SpoolLeftovers:
    """Lifetime: as the worker. Concurrency: plain code, but `scan`, which may run beside others.

    Their bytes count in space from `scan` or `add` on. kept_s: as in `SpoolRules`.
    """

    def __init__(
        self, directory: SpoolDirectory, space: SpoolSpace, account: Account, kept_s: float
    ) -> None:
        self._directory, self._space, self._account = directory, space, account
        self._kept_s = kept_s
        self._whole: dict[int, Leftover] = {}
        self._given_up: dict[int, Leftover] = {}
        self._unfinished: dict[int, Leftover] = {}  # the oldest first
        self._by_key: dict[str, list[int]] = {}
        self.unfinished_bytes = 0

    def __len__(self) -> int:
        return len(self._whole) + len(self._given_up) + len(self._unfinished)

    def _table(self, leftover: Leftover) -> dict[int, Leftover]:
        if leftover.is_whole:
            return self._whole
        return self._given_up if leftover.was_whole else self._unfinished

    def _get(self, number: int) -> Leftover | None:
        for table in (self._whole, self._given_up, self._unfinished):
            if (leftover := table.get(number)) is not None:
                return leftover
        return None

    def totals(self) -> dict[str, LeftoverTotal]:
        """By kind. Goes through all of them: for a scrape."""
        tables = {
            "whole": self._whole,
            "given-up": self._given_up,
            "unfinished": self._unfinished,
        }
        return {kind: self._total(table) for kind, table in tables.items()}

    def _total(self, table: Mapping[int, Leftover]) -> LeftoverTotal:
        oldest_s = min((one.described_s for one in table.values()), default=0.0)
        return LeftoverTotal(len(table), sum(one.size for one in table.values()), oldest_s)

    # the table

    def add(self, leftover: Leftover) -> None:
        """Remember a file whose bytes count in space; if there is memory for it."""
        if leftover.memory_bytes > self._account.free_bytes:
            return
        self._account.add(leftover.memory_bytes)
        self._by_key.setdefault(leftover.key, []).append(leftover.number)
        table = self._table(leftover)
        table[leftover.number] = leftover
        if table is self._unfinished:
            self.unfinished_bytes += leftover.size

    def described_s(self, number: int) -> float:
        """When this file was described last, since the epoch; 0.0: it is not."""
        return _mtime_s(self._directory.description(number))

    def pop(self, number: int) -> Leftover | None:
        """Forget a file; its bytes count further."""
        leftover = self._get(number)
        if leftover is None:
            return None
        table = self._table(leftover)
        del table[number]
        if table is self._unfinished:
            self.unfinished_bytes -= leftover.size
        self._account.add(-leftover.memory_bytes)
        numbers = self._by_key[leftover.key]
        numbers.remove(number)
        if not numbers:
            del self._by_key[leftover.key]
        return leftover

    def _remove(self, leftover: Leftover) -> None:
        self.pop(leftover.number)
        try:
            self._directory.remove(leftover.number)
        except OSError as exc:
            log.warning("%s cannot be removed: %s", self._directory.data(leftover.number), exc)
        self._space.add(-leftover.size)

    # while the mount is used

    def supersede(self, key: str, *, is_edit: bool) -> None:
        """A newer version of this object is in S3: never upload what was left of it.

        is_edit: the version has bytes of the one before, so that the bytes here may be in no
        version: they are kept for a person.
        """
        for number in tuple(self._by_key.get(key, ())):
            if is_edit:
                self.give_up(number)
                continue
            leftover = self._get(number)
            if leftover is None:
                continue
            self._remove(leftover)
            path = self._directory.data(number)
            log.info("%s: written again since: %s is removed", key, path)

    def give_up(self, number: int) -> None:
        """Nothing will upload this file: keep it for a person from now on, if it was whole."""
        leftover = self._whole.get(number)
        if leftover is None:
            return
        try:
            description = self._directory.read(number)
            self._directory.describe(number, _left(description))
        except (OSError, ValueError, TypeError) as exc:
            log.warning("%s cannot be changed: %s", self._directory.description(number), exc)
            return
        self.pop(number)
        dated_s = self.described_s(number)
        self.add(replace(leftover, is_whole=False, was_whole=True, described_s=dated_s))

    def make_room(self, n: int) -> None:
        """Remove what is unfinished, the oldest first, if files in use need n bytes.

        Not for more than half of the spool: so much is theirs.
        """
        if n > self._space.limit_bytes - self._space.used_bytes + self.unfinished_bytes:
            return  # it would not help
        removed = []
        half = self._space.limit_bytes // 2
        while self.unfinished_bytes > half and not self._space.has_room(n):
            leftover = next(iter(self._unfinished.values()))
            self._remove(leftover)
            removed.append(f"{leftover.key} ({self._directory.data(leftover.number)})")
        if removed:
            metrics.SPOOL_REMOVED.inc(len(removed), reason="room")
            log.warning(
                "%d files that were not uploaded and took more than half of spool-size were removed"
                " for those in use: %s%s",
                len(removed),
                ", ".join(removed[:_NAMED]),
                ", ..." if len(removed) > _NAMED else "",
            )

    # the start

    async def scan(self, live: Container[int], *, now_s: float) -> list[int]:
        """Find what earlier workers left, the last first: the numbers of whole files.

        What is kept for a person is named in the log, or removed after its time. Files that
        hold nothing are removed.
        live: files of this worker. now_s: since the epoch.
        """
        by_age = sorted([age async for age in self._described(live)])
        whole, kept, old = [], FewLines(log, logging.WARNING), FewLines(log, logging.WARNING)
        since_s = now_s - self._kept_s
        for at, (mtime_s, number) in enumerate(by_age):
            if at % _STEP == 0:
                await asyncio.sleep(0)
            description = None if number in live else self._read(number)
            if description is None:
                continue
            leftover = self._counted(number, description, mtime_s)
            path = self._directory.data(number)
            if leftover.is_whole:
                whole.append(number)
            elif description.is_left and mtime_s < since_s:
                self._remove(leftover)
                metrics.SPOOL_REMOVED.inc(reason="age")
                old.log(
                    "%s: was not uploaded, and its time is over: %s is removed", leftover.key, path
                )
            else:
                self._mark_left(number, description, now_s)
                kept.log(
                    "%s was being changed when the process that served it ended, or was changed in"
                    " S3 since; it was not uploaded, what was written to the node's disk is in %s:"
                    " copy what you need; it is removed after %d days%s",
                    leftover.key,
                    path,
                    self._kept_s // (24 * 3600),
                    "" if leftover.was_whole else ", or when other files need the room",
                )
        kept.end("%d more files were not uploaded and are in %s", self._directory.path)
        old.end("%d more files that were not uploaded are removed")
        return whole[::-1]

    async def _described(self, live: Container[int]) -> AsyncIterator[tuple[float, int]]:
        """The age and number of each file with a description; others are removed."""
        try:
            names = os.scandir(self._directory.path)
        except OSError:
            return
        with names:
            for at, entry in enumerate(names):
                if at % _STEP == 0:
                    await asyncio.sleep(0)
                match = NAME.fullmatch(entry.name)
                if match is None or (number := int(match[1])) in live:
                    continue
                if match[2] == DESCRIPTION_SUFFIX and self._has_data(number):
                    yield _mtime_s(entry.path), number
                elif match[2] in (DESCRIPTION_SUFFIX, NEW_SUFFIX) or self._is_bare(number):
                    _unlink(entry.path)

    def _has_data(self, number: int) -> bool:
        return os.path.lexists(self._directory.data(number))

    def _is_bare(self, number: int) -> bool:
        return not os.path.lexists(self._directory.description(number))

    def _read(self, number: int) -> Description | None:
        """None: it is not there any more, or cannot be read; then it counts, and is left alone.

        Where nothing was written yet, its worker died while it made the description.
        """
        try:
            return self._directory.read_head(number)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as exc:
            if not self._directory.has_bytes(number):
                with suppress(OSError):
                    self._directory.remove(number)
                return None
            path = self._directory.description(number)
            log.warning("%s cannot be read and is left alone: %s", path, exc)
            self._space.add(self._directory.size(number))
            return None

    def _counted(self, number: int, description: Description, mtime_s: float) -> Leftover:
        known = self._get(number)
        if known is not None:
            return known
        leftover = Leftover(
            number,
            description.key,
            self._directory.size(number),
            description.is_whole,
            description.was_whole,
            mtime_s,
        )
        self._space.add(leftover.size)
        self.add(leftover)
        return leftover

    def _mark_left(self, number: int, description: Description, now_s: float) -> None:
        """Let its time begin, where it was found by no worker before."""
        if not description.is_left:
            with suppress(OSError):  # a full disk: the next worker finds it
                self._directory.describe(number, _left(description))
            if (leftover := self._get(number)) is not None:
                self._table(leftover)[number] = replace(leftover, described_s=now_s)


def _left(description: Description) -> Description:
    was_whole = description.was_whole or description.is_whole
    return replace(description, is_whole=False, is_left=True, was_whole=was_whole)


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - as in `spool_directory`


def _mtime_s(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0
