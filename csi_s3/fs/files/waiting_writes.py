"""Where the bytes of a write are while it waits: in memory, or in an unlinked file of the spool.

The kernel's queue cannot be left alone where writes take too much: requests of all kinds come from
it in order, and a request that does not fit the buffer of the one who reads it is answered EIO. So
each write is taken, and the memory of those that wait has a bound.

Rejected: a write that is answered with fewer bytes, or none: programs take that for a full disk, or
repeat it at once. A smaller max_write: every program would make more requests, and ten times as
many threads would reach the same memory.
"""

from csi_s3.errors import OutOfMemoryError, SpoolFullError
from csi_s3.fs.base.memory import Memory, MemoryKind
from csi_s3.fs.base.progress_timeout import WAIT_BYTES
from csi_s3.fs.write.spool import Spool
from csi_s3.fs.write.waiting_bytes import WaitingBytes
from csi_s3.s3.store import Buffer

DATA_SHARE = 2 / 3  # of the bound of `requests`: the rest is for what each request takes itself


class WaitingWrites:
    """Lifetime: as the mount. Concurrency: plain code."""

    def __init__(self, memory: Memory, spool: Spool) -> None:
        self._account, self._spool = memory.account(MemoryKind.REQUESTS), spool

    def hold(self, data: Buffer, *, besides_bytes: int) -> WaitingBytes | None:
        """Decide where the bytes of one more write are to be. None: they may stay in memory.

        besides_bytes: of writes for which that was decided, and that are not counted yet.

        Raises:
            OutOfMemoryError: neither memory nor spool has room, or too many requests wait.

        """
        account = self._account
        in_memory = account.used_bytes + besides_bytes + len(data) + WAIT_BYTES
        if in_memory <= account.limit_bytes * DATA_SHARE and len(data) <= account.free_bytes:
            return None
        account.check(besides_bytes + WAIT_BYTES, "a write that waits")
        try:
            return self._spool.set_aside(data)
        except SpoolFullError as exc:
            raise OutOfMemoryError(
                "a write that waits: the volume's memory for waiting requests is in use, and the "
                "spool does not take it",
                "find out why the store is slow, or give the volume a larger memory-target or "
                "spool-size",
            ) from exc
