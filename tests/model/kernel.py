"""What the kernel does between a program's call and the file system's methods."""

import asyncio
import contextlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import NotDirectoryError, NotFoundError, StoreUnavailableError
from csi_s3.fs.base.memory import MemoryKind
from tests.model.machine import Driver
from tests.unit.fs_mount import paged

PART_BYTES = 4
TAIL_BYTES = 4 << 10  # the memory of a tail, at least
PAGE_BYTES = 3000  # more than one page of a listing, less than two
CONFIG = TreeConfig(
    allow_delete=True,
    allow_overwrite=True,
    write_part_bytes=PART_BYTES,
    read_part_bytes=4,
    unlinked_open_bytes=1 << 20,
)


class Kernel:
    """One mount, its successive workers, and the faults of its store."""

    def __init__(self, *, has_little_memory: bool = False) -> None:
        """has_little_memory: for one tail and one page; pages have two names each."""
        self._top = Path(tempfile.mkdtemp(prefix="csi-s3-model-"))
        self.generation = 0
        self._has_little_memory = has_little_memory
        self._config = replace(CONFIG, memory_bytes=TAIL_BYTES) if has_little_memory else CONFIG
        self.mount = Driver(self._config, state_dir=self._state_dir())
        self._limit_memory()
        if has_little_memory:
            paged(self.mount.store, 2)
        self.is_armed = self.was_met = False

    def _limit_memory(self) -> None:
        if self._has_little_memory:
            memory = self.mount.fs._context.memory
            memory.account(MemoryKind.LISTINGS).limit_bytes = PAGE_BYTES

    def _state_dir(self) -> Path:
        return self._top / f"state-{self.generation}"

    def close(self) -> None:
        self.disarm()
        self.mount.close()
        shutil.rmtree(self._top)

    @property
    def bucket(self):
        return self.mount.store.objects

    def etag(self, path: str) -> str | None:
        stored = self.bucket.get(path)
        return None if stored is None else stored.info.etag

    # faults

    def arm(self, kind: str, *, lost_answer: bool) -> None:
        async def fail(operation, _key):
            if operation == kind and self.is_armed:
                self.is_armed, self.was_met = False, True
                raise StoreUnavailableError(f"{kind}: injected")

        self.disarm()
        self.is_armed = True
        setattr(self.mount.store, "after" if lost_answer else "gate", fail)

    def disarm(self) -> None:
        async def pass_(_operation, _key):
            pass

        self.is_armed = False
        self.mount.store.gate = self.mount.store.after = pass_

    # workers

    def restart(self) -> None:
        """Stop the worker as node does: files are drained first."""
        self.mount.run(self.mount.fs.drain())
        self.mount.close()
        self._next()

    def kill(self) -> None:
        self.generation += 1
        self.mount.killed(self._state_dir())
        self._next()

    def _next(self) -> None:
        self.mount = Driver(self._config, state_dir=self._state_dir(), before=self.mount)
        self._limit_memory()
        self.mount.run(self.mount.fs.recover())

    def killed_in_rename(self, old: str, new: str, n: int, *, after: bool) -> bool:
        """Kill the worker in a rename: before or after its nth request but HEAD, or at its end.

        Returns whether there was such a request.
        """
        seen, never = 0, asyncio.Event()
        reached = False

        async def stop(operation, _key):
            nonlocal seen, reached
            if operation != "HEAD":
                seen += 1
                if seen == n + 1:
                    reached = True
                    await never.wait()

        async def go():
            try:
                at = [part for path in (old, new) for part in await self._looked_up(path)]
            except (NotFoundError, NotDirectoryError):
                return
            setattr(self.mount.store, "after" if after else "gate", stop)
            work = asyncio.create_task(self.mount.fs.rename(*at, may_replace=True))
            for _ in range(200):
                await asyncio.sleep(0)
            work.cancel()
            (done,), _ = await asyncio.wait({work})
            if not done.cancelled():
                done.exception()

        self.mount.run(go())
        self.disarm()
        self.kill()
        return reached

    async def _looked_up(self, path: str) -> tuple[int, bytes]:
        """The directory's inode and the name, after the look-ups that the kernel makes before.

        Raises:
            NotFoundError, NotDirectoryError: there is no such directory.

        """
        fs, ino = self.mount.fs, 1
        *above, name = path.split("/")
        for component in above:
            ino = (await fs.lookup(ino, component.encode())).ino
            self.mount.held.append(ino)
        with contextlib.suppress(NotFoundError):
            self.mount.held.append((await fs.lookup(ino, name.encode())).ino)
        return ino, name.encode()

    def leftovers(self) -> int:
        """Number of files that are kept for the next worker, or that a killed one left."""
        directory = self._state_dir()
        return len(list(directory.glob("*.json"))) if directory.exists() else 0

    def intents(self):
        return self._state_dir().glob("rename-*")

    # calls

    def _at(self, path: str) -> tuple[int, bytes]:
        above, _, name = path.rpartition("/")
        return self.mount.ino(above), name.encode()

    def mkdir(self, path: str) -> str:
        made = self.mount.run(self.mount.fs.mkdir(*self._at(path)))
        self.mount.held.append(made.ino)
        return "made"

    def rmdir(self, path: str) -> str:
        self.mount.ino(path)
        self.mount.run(self.mount.fs.rmdir(*self._at(path)))
        return "removed"

    def unlink(self, path: str) -> str:
        self.mount.ino(path)
        self.mount.run(self.mount.fs.unlink(*self._at(path)))
        return "removed"

    def rename(self, old: str, new: str, *, may_replace: bool) -> str:
        self.mount.ino(old)
        if self.mount.exists(new):
            self.mount.ino(new)
        call = self.mount.fs.rename(*self._at(old), *self._at(new), may_replace=may_replace)
        self.mount.run(call)
        return "renamed"

    def open(self, path: str, flags: int) -> int:
        return self.mount.run(self.mount.kernel.open(path, flags))

    def look(self, path: str, how: str) -> None:
        """stat, or a listing of the directory."""
        caches = self.mount.kernel
        above = path.rpartition("/")[0]
        self.mount.run(caches.stat(path) if how == "stat" else caches.list(above))

    def write(self, fh: int, offset: int, data: bytes) -> int:
        return self.mount.run(self.mount.kernel.write(fh, offset, data))

    def append(self, fh: int, data: bytes) -> int:
        return self.mount.run(self.mount.kernel.append(fh, data))

    def read(self, fh: int, offset: int, length: int) -> bytes:
        return self.mount.run(self.mount.kernel.read(fh, offset, length))

    def read_mapped(self, fh: int, offset: int, length: int) -> bytes:
        return self.mount.run(self.mount.kernel.read_mapped(fh, offset, length))

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> str:
        self.mount.run(self.mount.kernel.fallocate(fh, mode, offset, length))
        return "done"

    def copy_range(self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, n: int) -> int:
        call = self.mount.kernel.copy_range(fh_in, offset_in, fh_out, offset_out, n)
        return self.mount.run(call)

    def must_be_stored_to_move(self, fh: int) -> bool:
        """Whether bytes of a file that is being changed are only in an upload to its key."""
        writer = self.mount.fs._handles.file(fh).inode.writer
        return writer is not None and writer.must_be_stored_to_move

    def lseek(self, fh: int, offset: int, whence: int) -> int:
        return self.mount.run(self.mount.kernel.lseek(fh, offset, whence))

    def syncfs(self) -> str:
        self.mount.run(self.mount.fs.syncfs())
        return "done"

    def truncate(self, path: str, size: int) -> str:
        self.mount.run(self.mount.kernel.truncate(path, size))
        return "done"

    def fsync(self, fh: int) -> str:
        self.mount.run(self.mount.fs.files.fsync(fh))
        return "done"

    def flush(self, fh: int) -> str:
        self.mount.run(self.mount.fs.files.flush(fh))
        return "done"

    def release(self, fh: int) -> str:
        self.mount.run(self.mount.kernel.release(fh))
        return "done"
