"""What every part of one mount's file system shares, so that it is passed as one argument.

Each of these exists once per mount: a second budget, clock or lock of keys would be a bug. What
only some parts need (inodes, handles, spool, journal) is passed to them by name.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Literal, Self

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import NotPermittedError
from csi_s3.fs.base.clock import Clock
from csi_s3.fs.base.key_range_lock import KeyRangeLock
from csi_s3.fs.base.memory import Memory, MemoryKind
from csi_s3.fs.base.progress_timeout import ProgressTimeout
from csi_s3.s3.store import ObjectStore


@dataclass(slots=True)
class DirtyBytes:
    """The size of all files that are not in the store as they are; each counts its own."""

    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MountContext:
    """group: the mount's root task group, in which all of its tasks run."""

    store: ObjectStore
    config: TreeConfig
    group: asyncio.TaskGroup
    clock: Clock
    memory: Memory
    progress_timeout: ProgressTimeout
    key_lock: KeyRangeLock
    dirty: DirtyBytes = field(default_factory=DirtyBytes)
    abort_within_s: float = 100.0  # for an answer to the abort of an upload
    room_within_s: float = 5.0  # for the kernel to drop names, where there is no room for another

    @classmethod
    def create(
        cls,
        store: ObjectStore,
        config: TreeConfig,
        group: asyncio.TaskGroup,
        clock: Clock | None = None,
    ) -> Self:
        """Of a mount that begins now."""
        clock = clock or Clock()
        memory = Memory(config.budget_bytes, config.records_bytes)
        waiting = memory.account(MemoryKind.REQUESTS)
        return cls(
            store=store,
            config=config,
            group=group,
            clock=clock,
            memory=memory,
            progress_timeout=ProgressTimeout(group, clock, held=waiting.add),
            key_lock=KeyRangeLock(),
        )

    def check_allowed(self, option: Literal["allow-delete", "allow-overwrite"], what: str) -> None:
        """Whether the mount option lets existing objects be removed, or replaced.

        Raises:
            NotPermittedError: the option is not given.

        """
        is_delete = option == "allow-delete"
        if not (self.config.allow_delete if is_delete else self.config.allow_overwrite):
            raise NotPermittedError(what, f"needs the mount option {option}", option=option)
