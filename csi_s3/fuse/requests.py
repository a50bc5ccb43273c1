"""The kernel's requests that are not answered yet, by the numbers that it gave them."""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Iterator
from operator import attrgetter

from typing_extensions import override

from csi_s3.fuse.protocol import RESEND, Opcode, opcode_name

log = logging.getLogger(__name__)

SHOWN = 10
HANGS_AFTER_S = 60.0

_NAMES = {int(opcode): opcode.name for opcode in Opcode}  # an Enum takes 1 µs for it
# They wait for an upload or a copy of any length, and end by themselves where nothing moves.
_MAY_TAKE_LONG = frozenset(
    {
        Opcode.WRITE,
        Opcode.SETATTR,
        Opcode.FLUSH,
        Opcode.FSYNC,
        Opcode.RELEASE,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.UNLINK,
        Opcode.MKNOD,
        Opcode.COPY_FILE_RANGE,
        Opcode.COPY_FILE_RANGE_64,
        Opcode.SYNCFS,
    }
)


class KernelRequest:
    """One request. uid, gid: of the program. began_s: of time.monotonic.

    task: answers it, once it has begun. closer: of FLUSH, see `parse_closer`; else 0.
    """

    __slots__ = ("began_s", "closer", "gid", "nodeid", "opcode", "task", "uid", "unique")

    def __init__(self, opcode: int, unique: int, nodeid: int, uid: int = 0, gid: int = 0) -> None:
        self.opcode, self.unique, self.nodeid, self.uid, self.gid = opcode, unique, nodeid, uid, gid
        self.began_s = time.monotonic()
        self.task: asyncio.Task[None] | None = None
        self.closer = 0

    @property
    def is_resent(self) -> bool:
        """Another process may have begun it: the kernel sends it again after a take-over."""
        return bool(self.unique & RESEND)

    @property
    def name(self) -> str:
        """As of its task: LOOKUP 4714."""
        name = _NAMES.get(self.opcode) or opcode_name(self.opcode)
        return f"{name} {self.unique & ~RESEND}"

    def describe(self, key: str) -> str:
        """key: of its inode, if that is known. Of a look-up or a change of a name: the directory's.

        LOOKUP 4714 of inode 7 (data/logs/), 65 s
        """
        name = f" ({key})" if key else ""
        again = ", sent again" if self.is_resent else ""
        age_s = time.monotonic() - self.began_s
        return f"{self.name} of inode {self.nodeid}{name}{again}, {age_s:.0f} s"

    @override
    def __repr__(self) -> str:
        return self.describe("")


class RequestsInFlight:
    """Lifetime: as the session. Concurrency: `end` may be called in a thread, all else in the loop.

    A program has one request for each thread at most, and the kernel MAX_BACKGROUND more.
    """

    def __init__(self, key_of: Callable[[int], str] = lambda _: "") -> None:
        """key_of: an inode's, for the log; "" if it is not known."""
        self._requests: dict[int, KernelRequest] = {}
        self._key_of = key_of

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[KernelRequest]:
        return iter(list(self._requests.values()))

    def add(self, request: KernelRequest) -> None:
        self._requests[request.unique] = request

    def get(self, unique: int) -> KernelRequest | None:
        return self._requests.get(unique)

    def end(self, request: KernelRequest) -> None:
        """It is answered, or needs no answer."""
        self._requests.pop(request.unique, None)

    def oldest(self) -> list[KernelRequest]:
        """Up to ten, the oldest first."""
        return heapq.nsmallest(SHOWN, self, key=attrgetter("began_s"))

    def check(self) -> None:
        """Log the oldest ones where one should have been answered long ago; once a minute."""
        late_s = time.monotonic() - HANGS_AFTER_S
        if any(r.began_s < late_s and r.opcode not in _MAY_TAKE_LONG for r in self):
            self.log(logging.WARNING)

    def log(self, level: int) -> None:
        """Log how many there are, and the oldest ones."""
        oldest = [request.describe(self._key_of(request.nodeid)) for request in self.oldest()]
        shown = f"; the oldest: {'; '.join(oldest)}" if oldest else ""
        log.log(
            level,
            "%d requests of programs wait for an answer%s",
            len(self),
            shown,
            extra={"code": "requests-waiting"},
        )
