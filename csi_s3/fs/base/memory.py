"""The one accountant of a worker: what it holds in memory whose size a program or a bucket decides.

There are two limits, both fixed at mount. Buffers (bytes of files) have a budget for which writers
wait: `base.budget`. Everything else (inodes, listings, open handles, ...) is records: each kind has
an account, and all accounts share one pool. What refills by itself is a cache, and gives way when
another kind needs the room. What cannot give way is refused for the program that asks, before
anything is changed.

docs/memory.md has a row for each kind: how it is counted, its bound, and what happens there.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Self

from csi_s3.errors import OutOfMemoryError, TooManyOpenFilesError
from csi_s3.fs.base.budget import MemoryBudget


class MemoryKind(StrEnum):
    """The values of the label `kind` of csi_s3_memory_bytes."""

    BUFFERS = "buffers"  # read windows, upload parts, tails of files being changed
    INODES = "inodes"  # files, directories and links that the kernel or a program refers to
    LISTINGS = "listings"  # pages of names; a cache
    HANDLES = "handles"  # open files and directories
    CHANGES = "changes"  # of names, while requests that may not show them are under way
    DIRTY_FILES = "dirty-files"  # the records of files being changed, and maps of their bytes
    RENAMES = "renames"  # what a rename of a directory has copied
    LEFTOVERS = "leftovers"  # what earlier workers could not upload, on the node's disk
    REQUESTS = "requests"  # of the kernel that wait


class _Limit(NamedTuple):
    """share: of the pool that one kind may take. error: what a refusal raises."""

    share: float
    error: type[OutOfMemoryError | TooManyOpenFilesError] = OutOfMemoryError


_LIMITS: Mapping[MemoryKind, _Limit] = {
    MemoryKind.INODES: _Limit(1.0),
    MemoryKind.LISTINGS: _Limit(0.5),
    MemoryKind.HANDLES: _Limit(0.5, TooManyOpenFilesError),
    MemoryKind.CHANGES: _Limit(0.25),
    MemoryKind.DIRTY_FILES: _Limit(0.75, TooManyOpenFilesError),
    MemoryKind.RENAMES: _Limit(0.5),
    MemoryKind.LEFTOVERS: _Limit(0.25),
    MemoryKind.REQUESTS: _Limit(0.75),
}


class Account:
    """What one kind holds. Concurrency: plain code."""

    def __init__(self, memory: "Memory", kind: MemoryKind, limit: _Limit) -> None:
        self.kind, self.used_bytes = kind, 0
        self.limit_bytes = int(memory.pool_bytes * limit.share)
        self.is_cache = False  # set by `Memory.cache`
        self._memory, self._error = memory, limit.error

    @property
    def free_bytes(self) -> int:
        """How much more this kind may hold now, if caches give way. Below 0: it holds too much."""
        own, memory = self.limit_bytes - self.used_bytes, self._memory
        in_pool = memory.pool_bytes - memory.held_bytes
        if self.is_cache:
            in_pool -= self.used_bytes
        return min(in_pool, own)

    @property
    def pool_free_bytes(self) -> int:
        """How much more the pool may hold now, if caches give way: `free_bytes` without its limit.

        For a kind that cannot give way.
        """
        return self._memory.pool_bytes - self._memory.held_bytes

    def add(self, n: int) -> None:
        """Count n more bytes (fewer, below 0), even above the limit: for what is there already."""
        self.used_bytes += n
        memory = self._memory
        memory.used_in_all_bytes += n
        if not self.is_cache:
            memory.held_bytes += n
        if n > 0 and memory.used_in_all_bytes > memory.pool_bytes:
            memory.shrink_caches()

    def charge(self, n: int, what: str) -> None:
        """Count n more bytes, or refuse them.

        what: is refused, for the message.

        Raises:
            OutOfMemoryError, TooManyOpenFilesError: by kind; nothing is counted then.

        """
        if n > self.free_bytes:
            self.check(n, what)
        self.add(n)

    @contextmanager
    def reserved(self, n: int, what: str) -> Iterator[None]:
        """Have n bytes free at the end of a step that waits. Raises as `charge`, at its begin."""
        self.charge(n, what)
        try:
            yield
        finally:
            self.add(-n)

    def check(self, n: int, what: str) -> None:
        """Raises as `charge`, and counts nothing."""
        if n > self.free_bytes:
            raise self._error(
                f"{what}: the volume's {self.limit_bytes >> 20} MiB for {self.kind.value} are in"
                " use",
                "close files and directories that are no longer needed, or give the volume a larger"
                " memory-target",
            )


class Room:
    """Memory that is reserved while a request may add what takes it, which is counted when added.

    That there is so much was found out just before; nothing may be awaited until it is entered.
    """

    __slots__ = ("_account", "_n")

    def __init__(self, account: Account, n: int) -> None:
        self._account, self._n = account, n

    def __enter__(self) -> Self:
        self._account.add(self._n)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._account.add(-self._n)


class Memory:
    """Lifetime: as the mount. Concurrency: plain code, but waiting for `buffers`.

    used_in_all_bytes: of the pool, by all accounts. held_bytes: of them, what cannot give way.
    Both are counters: they are read for each name of a directory.
    """

    def __init__(self, buffers_bytes: int, pool_bytes: int) -> None:
        self.buffers = MemoryBudget(buffers_bytes)
        self.pool_bytes = pool_bytes
        self.used_in_all_bytes = self.held_bytes = 0
        self.accounts = {kind: Account(self, kind, limit) for kind, limit in _LIMITS.items()}
        self._caches: dict[MemoryKind, Callable[[int], None]] = {}

    def account(self, kind: MemoryKind) -> Account:
        return self.accounts[kind]

    def cache(self, kind: MemoryKind, shrink: Callable[[int], None]) -> Account:
        """The account of a kind that can give way. shrink: drop so many bytes, or what there is."""
        account = self.accounts[kind]
        if not account.is_cache:
            account.is_cache = True
            self.held_bytes -= account.used_bytes
        self._caches[kind] = shrink
        return account

    def shrink_caches(self) -> None:
        """Let caches give way until the pool holds no more than it may."""
        over = self.used_in_all_bytes - self.pool_bytes
        if over <= 0:
            return
        for kind, shrink in self._caches.items():
            before = self.accounts[kind].used_bytes
            shrink(over)
            over -= before - self.accounts[kind].used_bytes
            if over <= 0:
                return

    def used_bytes(self) -> Mapping[str, int]:
        """By kind, for metrics."""
        used = {kind.value: account.used_bytes for kind, account in self.accounts.items()}
        return {MemoryKind.BUFFERS.value: self.buffers.used_bytes, **used}

    def limit_bytes(self) -> Mapping[str, int]:
        """By kind, for metrics; the pool holds less than their sum."""
        limits = {kind.value: account.limit_bytes for kind, account in self.accounts.items()}
        return {MemoryKind.BUFFERS.value: self.buffers.total_bytes, **limits}
