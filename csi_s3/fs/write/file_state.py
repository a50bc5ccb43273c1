"""The state of a file that is being changed, as data, and which state may follow which.

    opened to edit             created, or truncated to be rewritten
          |                                  |
          v       write, truncate            v
        CLEAN ---------------------------> DIRTY <---------------------------+
          ^                                 | ^                              |
          | stored                     save | | not stored                   |
          |                                 v |                              |
          +------------------------------ STORING                            |
                                                                             |
    DIRTY --- bytes were in an upload alone, and it failed ---> FAILED       |
    FAILED --- truncate to nothing ------------------------------------------+
    CLEAN, DIRTY, FAILED --- its name is removed ---> DISCARDED
    any --- close ---> CLOSED

Facts that may hold in most states are not states, and have one owner each. `StagedFile`: what is
in memory. `MappedBytes`: where all else is (spool, base, parts of an upload), whether the spool
keeps the file for the next worker. `RemoteObject`: whether there is an upload, whether the outcome
of a request is unknown.
"""

from dataclasses import dataclass
from enum import Enum

from csi_s3.errors import VolumeError


class FilePhase(Enum):
    CLEAN = "clean"  # the store has all of it
    DIRTY = "dirty"  # the store does not have all of it
    STORING = "storing"  # as DIRTY, and an attempt to store it is under way
    FAILED = "failed"  # bytes were lost with an upload: it can never be stored whole
    DISCARDED = "discarded"  # it has no name, and is never stored
    CLOSED = "closed"


NEXT = {
    FilePhase.CLEAN: {FilePhase.DIRTY, FilePhase.DISCARDED, FilePhase.CLOSED},
    FilePhase.DIRTY: set(FilePhase) - {FilePhase.CLEAN},
    FilePhase.STORING: {FilePhase.CLEAN, FilePhase.DIRTY, FilePhase.CLOSED},
    FilePhase.FAILED: {FilePhase.DIRTY, FilePhase.DISCARDED, FilePhase.CLOSED},
    FilePhase.DISCARDED: {FilePhase.DISCARDED, FilePhase.CLOSED},
    FilePhase.CLOSED: {FilePhase.CLOSED},
}


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt to store a file. error: why it failed, for callers that waited for it."""

    error: VolumeError | None = None


@dataclass(frozen=True, slots=True)
class FileState:
    """A phase, and what belongs to it.

    error: to be raised `again`. FAILED: what was lost, also once it is DISCARDED. CLOSED: it could
        not be stored.
    was_written: since it was stored, created or emptied, so that a FLUSH stores it.
    attempt: STORING.
    """

    phase: FilePhase
    error: VolumeError | None = None
    was_written: bool = False
    attempt: Attempt | None = None

    def then(
        self, phase: FilePhase, error: VolumeError | None = None, *, was_written: bool | None = None
    ) -> "FileState":
        """The state that follows; RuntimeError, a bug, where it cannot.

        was_written: as before, if it is not given; a CLEAN file is not.
        """
        if phase not in NEXT[self.phase]:
            raise RuntimeError(f"a file that is {self.phase.value} cannot become {phase.value}")
        written = self.was_written if was_written is None else was_written
        attempt = Attempt() if phase is FilePhase.STORING else None
        return FileState(phase, error, written and phase is not FilePhase.CLEAN, attempt)

    @property
    def is_dirty(self) -> bool:
        """The store does not have all of it, and should."""
        if self.phase is FilePhase.CLOSED:
            return self.error is not None
        return self.phase in (FilePhase.DIRTY, FilePhase.STORING, FilePhase.FAILED)
