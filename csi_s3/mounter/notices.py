"""Which failures are published as Events on the pods of a mount, and how often.

A program gets only an errno, and after the last close not even that. Node makes an Event of each
notice; the log has all failures.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from csi_s3.errors import IntegrityError, NotPermittedError, VolumeError
from csi_s3.link.report import Notice, Reason

log = logging.getLogger(__name__)

UPLOADS_EVERY_S = 60.0
QUEUED = 100  # for a keeper that does not read; the log has all failures
# In place of an error's own message, which names the file: the Event is on all pods of the mount.
_PUBLIC = {
    Reason.UPLOAD_FAILED: "a file could not be stored",
    Reason.INTEGRITY: "the store has or returned wrong bytes, or encrypted them otherwise",
}


class Notices:
    """One notice for each missing option; one a minute for failed uploads and for wrong bytes.

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
        self._sent_at: dict[Reason, float] = {}
        self._queue: asyncio.Queue[Notice] = asyncio.Queue(QUEUED)

    def take(self, op: str, error: VolumeError) -> None:
        reason = _reason(op, error)
        if reason is not None and self._is_due(reason, error):
            self._put(reason, error)

    def take_other_user(self, uid: int, gid: int) -> None:
        """Take a program whose user the modes of the files do not allow to write."""
        error = NotPermittedError(
            f"a program runs as user {uid}, group {gid}, and only root may change the files of"
            " this volume",
            f"give the PersistentVolume the mountOptions uid={uid} and gid={gid}, or the pod a"
            " securityContext with fsGroup, and delete and create the pods",
        )
        log.warning("%s", error, extra={"code": error.code})
        self._put(Reason.NOT_WRITABLE, error)

    async def run(self) -> None:
        while True:
            await self._send(await self._queue.get())
            self._queue.task_done()

    async def flush(self) -> None:
        """Wait until `run` has sent the notices of what was taken so far."""
        await self._queue.join()

    def _put(self, reason: Reason, error: VolumeError) -> None:
        if self._queue.full():
            return
        error = _published(error, _PUBLIC.get(reason, ""))
        self._queue.put_nowait(Notice(mount_id=self._mount_id, reason=reason, error=error))

    def _is_due(self, reason: Reason, error: VolumeError) -> bool:
        if isinstance(error, NotPermittedError):
            is_new = error.option not in self._options
            self._options.add(error.option)
            return is_new
        now = self._clock()
        is_due = now - self._sent_at.get(reason, now - UPLOADS_EVERY_S) >= UPLOADS_EVERY_S
        if is_due:
            self._sent_at[reason] = now
        return is_due


def final_error(failures: Sequence[VolumeError]) -> VolumeError | None:
    """The error to report at a mount's end: the first file that could not be stored."""
    return _published(failures[0], _PUBLIC[Reason.UPLOAD_FAILED]) if failures else None


def _published(error: VolumeError, public: str) -> VolumeError:
    """The error with a message for Events, if it has none of its own."""
    return type(error)(error.what, error.hint, public=error.public or public)


def _reason(op: str, error: VolumeError) -> Reason | None:
    if isinstance(error, NotPermittedError):
        return Reason.MISSING_OPTION if error.option else None
    if isinstance(error, IntegrityError):
        return Reason.INTEGRITY
    return Reason.UPLOAD_FAILED if op == "release" else None
