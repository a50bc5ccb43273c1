"""Which failures are told to the people behind a mount, and how often.

The kernel hands a program a number and no words, and after the last close not even that. Node makes
Events of what is told here; the log has all of it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from csi_s3.errors import IntegrityError, NotPermittedError, VolumeError
from csi_s3.link.report import Notice, Reason

log = logging.getLogger(__name__)

UPLOADS_EVERY_S = 60.0
# The words for all pods of the mount in place of an error's own, which name the file.
_PUBLIC = {
    Reason.UPLOAD_FAILED: "a file could not be stored",
    Reason.INTEGRITY: "the store has, or gave, other bytes than it should, or encrypted otherwise",
}


class Notices:
    """A missing option is told once, failed uploads and wrong bytes once a minute.

    Lifetime: `run` is its task. Concurrency: `take` is plain code.
    """

    def __init__(
        self,
        mount_id: str,
        send: Callable[[Notice], Awaitable[None]],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._mount_id, self._send, self._clock = mount_id, send, clock
        self._options: set[str] = set()
        self._told_at: dict[Reason, float] = {}
        self._waiting: asyncio.Queue[Notice] = asyncio.Queue()

    def take(self, op: str, error: VolumeError) -> None:
        """Take a failed operation of the mount."""
        reason = _reason(op, error)
        if reason is not None and self._is_due(reason, error):
            error.public = error.public or _PUBLIC.get(reason, "")
            self._put(reason, error)

    def take_stranger(self, uid: int, gid: int) -> None:
        """Take a program that runs as somebody to whom the modes allow no change."""
        error = NotPermittedError(
            f"a program runs as user {uid}, group {gid}, and all files are root's, who alone may"
            " change them",
            f"give the PersistentVolume the mountOptions uid={uid} and gid={gid}, or the pod a"
            " securityContext with fsGroup, and create the pods anew",
        )
        log.warning("%s", error, extra={"code": error.code})
        self._put(Reason.NOT_WRITABLE, error)

    async def run(self) -> None:
        while True:
            await self._send(await self._waiting.get())
            self._waiting.task_done()

    async def all_told(self) -> None:
        """Wait until `run` has sent what was heard so far."""
        await self._waiting.join()

    def _put(self, reason: Reason, error: VolumeError) -> None:
        self._waiting.put_nowait(Notice(mount_id=self._mount_id, reason=reason, error=error))

    def _is_due(self, reason: Reason, error: VolumeError) -> bool:
        if isinstance(error, NotPermittedError):
            new = error.option not in self._options
            self._options.add(error.option)
            return new
        now = self._clock()
        due = now - self._told_at.get(reason, now - UPLOADS_EVERY_S) >= UPLOADS_EVERY_S
        if due:
            self._told_at[reason] = now
        return due


def last_words(failures: Sequence[VolumeError]) -> VolumeError | None:
    """The failure to report of files that could not be stored at the mount's end: the first."""
    for failure in failures:
        failure.public = failure.public or _PUBLIC[Reason.UPLOAD_FAILED]
        return failure
    return None


def _reason(op: str, error: VolumeError) -> Reason | None:
    if isinstance(error, NotPermittedError):
        return Reason.MISSING_OPTION if error.option else None
    if isinstance(error, IntegrityError):
        return Reason.INTEGRITY
    return Reason.UPLOAD_FAILED if op == "release" else None
