"""The file system over the in-memory store, called as the kernel calls it."""

import asyncio
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import (
    NotDirectoryError,
    NotFoundError,
    ObjectChangedError,
    StaleError,
    StoreUnavailableError,
    UnsupportedError,
)
from csi_s3.fs.base.clock import Clock
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.memory import Memory
from csi_s3.fs.filesystem import FileSystem
from csi_s3.s3.memory_store import MemoryStore
from csi_s3.s3.store import Limits
from tests.model.caches import Caches
from tests.slow_steps import watched_steps

CALL_WITHIN_S = 60.0  # a call takes milliseconds; more, and it waits for what never comes
UNREADABLE = b"in an upload that is not complete: staging will keep it readable"
REPLACED = b"its stored beginning was replaced by another client: ESTALE"


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def clock(self) -> Clock:
        return Clock(
            monotonic_s=lambda: self.now_s, realtime_ns=lambda: int(self.now_s * 1_000_000_000)
        )


class Driver:
    """One mount with its own event loop; `run` makes one call of the kernel."""

    def __init__(
        self,
        config: TreeConfig,
        *,
        prefix: str = "",
        state_dir: Path | None = None,
        min_part_bytes: int = 1,
        abort_within_s: float = 100.0,
        room_within_s: float = 5.0,
        records_bytes: int | None = None,
        before: "Driver | None" = None,
    ) -> None:
        """before: the mount's previous worker, whose bucket and clock this one takes over.

        records_bytes: instead of the share that the configuration gives.
        """
        self.held: list[int] = []
        self.time, self.kernel = before.time if before else FakeClock(), Caches(self)
        if before is None:
            limits = Limits(min_part_bytes=min_part_bytes)
            self.store = MemoryStore(clock=self.now_s, limits=limits)
        else:
            self.store, self.store._clock = before.store, self.now_s
        self.config, self.prefix, self.state_dir = config, prefix, state_dir
        self.is_ended = False
        self.loop = asyncio.new_event_loop()
        watched_steps().watch(self.loop)
        self._end = asyncio.Event()
        self.fs: FileSystem
        ready = self.loop.create_future()

        async def live() -> None:
            async with asyncio.TaskGroup() as group:
                context = MountContext.create(self.store, config, group, self.time.clock())
                context = replace(
                    context, abort_within_s=abort_within_s, room_within_s=room_within_s
                )
                if records_bytes is not None:
                    memory = Memory(config.budget_bytes, records_bytes)
                    context = replace(context, memory=memory)
                self.fs = FileSystem(
                    context,
                    prefix=prefix,
                    kernel=self.kernel,
                    state_dir=state_dir,
                )
                ready.set_result(None)
                await self._end.wait()
                await self.fs.close()

        self._life = self.loop.create_task(live())
        both = asyncio.wait({self._life, ready}, return_when=asyncio.FIRST_COMPLETED)
        self.loop.run_until_complete(both)
        ready.result()

    def dirty_bytes(self) -> int:
        """Of all files that are being changed, as each of them says."""
        writers = [i.writer for i in self.fs._write_back._writers.values() if i.writer is not None]
        return sum(w.size for w in writers if w.state.is_dirty and not w.is_closed)

    def run(self, call):
        """Raises TimeoutError rather than wait for what never comes."""

        async def limited():
            async with asyncio.timeout(CALL_WITHIN_S):
                return await call

        return self.loop.run_until_complete(limited())

    def now_s(self) -> float:
        return self.time.now_s

    def close(self) -> None:
        if self.is_ended:
            return
        self.is_ended = True
        self._end.set()
        self.loop.run_until_complete(self._life)
        self.loop.close()

    def killed(self, new_state_dir: Path | None) -> None:
        """As by SIGKILL: nothing that it does from now on reaches bucket or state directory.

        The state directory is copied as it is now, for the next worker.
        """
        if self.state_dir is not None and self.state_dir.exists():
            shutil.copytree(self.state_dir, new_state_dir)
        gate, after = self.store.gate, self.store.after

        async def dead(_operation, _key):
            raise StoreUnavailableError("this worker is dead")

        self.store.gate = self.store.after = dead
        self.close()
        self.store.gate, self.store.after = gate, after

    def ino(self, path: str) -> int:
        """Walk a path by look-ups of each name."""
        return self.run(self.kernel.walk(path, again=True))

    def forget_all(self) -> None:
        for ino in self.held:
            self.fs.forget(ino, 1)
        self.held = []
        self.kernel.forget_unused()

    def read_all(self, path: str) -> bytes:
        async def read() -> bytes:
            fh = await self.kernel.open(path, os.O_RDONLY)
            try:
                size = (await self.fs.getattr(self.fs._handles.file(fh).inode.ino)).size
                try:
                    data = await self.kernel.read(fh, 0, 1000)
                except UnsupportedError:
                    return UNREADABLE
                except (StaleError, ObjectChangedError):
                    return REPLACED
            finally:
                await self.kernel.release(fh)
            assert len(data) == size
            return data

        return self.run(read())

    def tree(self) -> dict[str, bytes | None]:
        """Everything, by listing and reading; a listing and a look-up must agree."""
        shown: dict[str, bytes | None] = {}

        async def names(ino: int) -> list[tuple[str, bool]]:
            fh = await self.fs.opendir(ino)
            found = [
                (e.name.decode(), stat.S_ISDIR(e.attributes.mode))
                async for e in self.fs.readdir(fh, 0)
            ]
            self.fs.releasedir(fh)
            return found

        def walk(path: str) -> None:
            found = self.run(names(self.ino(path)))
            assert len({n for n, _ in found}) == len(found), f"repeated name in {path!r}"
            self.time.now_s += 2  # listings are too old now to answer look-ups
            for name, is_dir in found:
                below = f"{path}/{name}" if path else name
                if is_dir:
                    shown[below] = None
                    walk(below)
                else:
                    shown[below] = self.read_all(below)

        walk("")
        return shown

    def exists(self, path: str) -> bool:
        try:
            self.ino(path)
        except (NotFoundError, NotDirectoryError):
            return False
        return True
