"""A mount over the in-memory store, spoken to by paths, as a shell does; the clock stands still.

`mounts` makes them; at the end of its test each must have ended, and, where every handle was
released, must have given back all memory and every observation of a directory.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import StaleError
from csi_s3.fs.names.attributes import Attributes
from csi_s3.s3.memory_store import MemoryStore, _open
from csi_s3.s3.store import ListPage
from tests.model.machine import Driver

WRITE_NEW = os.O_WRONLY | os.O_CREAT
REWRITE = os.O_WRONLY | os.O_TRUNC
WITHIN_S = 10.0
NAMES_IN_A_REPLY = 128  # about as many as a page of READDIRPLUS holds
FREE = TreeConfig(allow_delete=True, allow_overwrite=True)


class Mount(Driver):
    """One mount. `start` begins a request of the kernel, `settle` lets everything run that can.

    successors: where the test's fixture finds it, and those that come after it, to end them.
    """

    successors: "list[Mount]"

    # names

    def parent(self, path: str) -> tuple[int, bytes]:
        above, _, name = path.rpartition("/")
        return self.ino(above), name.encode()

    def lookup(self, path: str) -> Attributes:
        ino, name = self.parent(path)
        found = self.run(self.fs.lookup(ino, name))
        self.held.append(found.ino)
        return found

    def stat(self, path: str) -> Attributes:
        return self.run(self.fs.getattr(self.ino(path)))

    def ls(self, path: str = "") -> list[str]:
        return self.run(self.names(self.ino(path)))

    async def names(self, ino: int) -> list[str]:
        fh = await self.fs.opendir(ino)
        try:
            return await self.entries(fh)
        finally:
            self.fs.releasedir(fh)

    async def entries(self, fh: int, start: int = 0) -> list[str]:
        """As the kernel reads them: it takes a reference to each, and asks again for each page."""
        found = []
        async for entry in self.fs.readdir(fh, start):
            if entry.has_inode:
                self.fs.remember(entry.attributes.ino)
                self.held.append(entry.attributes.ino)
            found.append(entry.name.decode())
            if len(found) % NAMES_IN_A_REPLY == 0:
                await asyncio.sleep(0)
        return found

    def mkdir(self, path: str) -> Attributes:
        ino, name = self.parent(path)
        made = self.run(self.fs.mkdir(ino, name))
        self.held.append(made.ino)
        return made

    def rmdir(self, path: str) -> None:
        """The kernel looks a name up before it removes it."""
        self.lookup(path)
        self.run(self.fs.rmdir(*self.parent(path)))

    def unlink(self, path: str) -> None:
        self.lookup(path)
        self.run(self.fs.unlink(*self.parent(path)))

    def rename(self, old: str, new: str, *, may_replace: bool = True) -> None:
        """The kernel looks both names up before it renames."""
        self.lookup(old)
        if self.exists(new):
            self.lookup(new)
        self.rename_now(old, new, may_replace=may_replace)

    def rename_now(self, old: str, new: str, *, may_replace: bool = True) -> None:
        self.wait(self.renaming(old, new, may_replace=may_replace))

    def renaming(self, old: str, new: str, *, may_replace: bool = True) -> "asyncio.Task[None]":
        call = self.fs.rename(*self.parent(old), *self.parent(new), may_replace=may_replace)
        return self.start(call)

    def truncate(self, path: str, size: int) -> None:
        self.run(self.fs.setattr(self.ino(path), size=size))

    # files

    def create(self, path: str, flags: int = WRITE_NEW) -> int:
        ino, name = self.parent(path)
        fh, made = self.run(self.fs.files.create(ino, name, flags))
        self.held.append(made.ino)
        return fh

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """ESTALE has the kernel look the path up once more, and open what is there then."""
        try:
            return self.run(self.fs.files.open(self.ino(path), flags))
        except StaleError:
            return self.run(self.fs.files.open(self.ino(path), flags))

    async def opened(self, ino: int, flags: int = os.O_RDONLY) -> int:
        """As the kernel opens a file that is a mount point: after ESTALE it asks for attributes."""
        try:
            return await self.fs.files.open(ino, flags)
        except StaleError:
            await self.fs.getattr(ino)
            return await self.fs.files.open(ino, flags)

    def read(self, fh: int, offset: int = 0, length: int = 1 << 20) -> bytes:
        return b"".join(self.run(self.fs.files.read(fh, offset, length)))

    def write(self, fh: int, data: bytes, offset: int = 0) -> None:
        assert self.run(self.fs.files.write(fh, offset, data)) == len(data)

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        self.run(self.fs.files.fallocate(fh, mode, offset, length))

    def copy_range(self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, n: int) -> int:
        call = self.fs.files.copy_file_range(fh_in, offset_in, fh_out, offset_out, n)
        return self.run(call)

    def flush(self, fh: int) -> None:
        self.run(self.fs.files.flush(fh))

    def fsync(self, fh: int) -> None:
        self.run(self.fs.files.fsync(fh))

    def release(self, fh: int) -> None:
        self.run(self.fs.files.release(fh))

    def close_file(self, fh: int) -> None:
        """close(2): FLUSH, whose error the caller sees, and RELEASE, whatever that said."""
        try:
            self.flush(fh)
        finally:
            self.release(fh)

    def write_file(self, path: str, data: bytes) -> None:
        fh = self.create(path)
        self.write(fh, data)
        self.close_file(fh)

    def rewrite(self, path: str, data: bytes) -> None:
        fh = self.open(path, REWRITE)
        self.write(fh, data)
        self.close_file(fh)

    def cat(self, path: str) -> bytes:
        fh = self.open(path)
        try:
            return self.read(fh)
        finally:
            self.release(fh)

    # what goes on

    def start(self, call: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        return self.loop.create_task(call)

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(60):
                await asyncio.sleep(0)

        self.run(turns())

    def wait(self, task: "asyncio.Task[Any]") -> Any:
        return self.run(asyncio.wait_for(task, WITHIN_S))

    @property
    def budget(self):
        return self.fs._context.memory.buffers

    def put(self, key: str, data: bytes = b"", **more: Any) -> None:
        """By another client, long enough ago for every cache to have expired."""
        self.store.put_now(key, data, **more)
        self.time.now_s += 2

    def delete(self, key: str) -> None:
        self.store.delete_now(key)
        self.time.now_s += 2

    def data(self, key: str) -> bytes | None:
        stored = self.store.objects.get(key)
        return None if stored is None else stored.data

    @contextmanager
    def requests(self, **expected: int) -> Iterator[None]:
        """Exactly these requests are sent, LIST=1 for example, and no other."""
        before = self.store.requests.copy()
        yield
        assert self.store.requests - before == Counter(expected)

    @property
    def spool(self):
        return self.fs._write_back._spool

    def spooled(self) -> list[str]:
        """The names of the spool's files."""
        return sorted(p.name for p in self.state_dir.glob("*")) if self.state_dir else []

    def restarted(self) -> "Mount":
        """The mount's next worker, after this one has ended in order."""
        self.end()
        return self._next(self.state_dir)

    def succeeded(self) -> "Mount":
        """The mount's next worker, after this one was killed."""
        state_dir = self.state_dir.with_name(f"{self.state_dir.name}+")
        self.killed(state_dir)
        return self._next(state_dir)

    def _next(self, state_dir: Path) -> "Mount":
        mount = Mount(self.config, prefix=self.prefix, state_dir=state_dir, before=self)
        mount.successors = self.successors
        self.successors.append(mount)
        return mount

    def store_works(self) -> None:
        """End what `fail` or `Held` began."""
        self.store.gate = self.store.after = _open

    def recover(self) -> None:
        self.run(self.fs.recover())

    def end(self) -> None:
        if self.is_ended:
            return
        self.settle()
        inodes = self.fs._inodes._by_number.values()
        memory = self.fs._context.memory
        uncounted = [i for i in inodes if i.is_counted and i.table_bytes != i.memory_bytes]
        assert not uncounted, "what an inode takes has changed, and was not counted"
        assert self.fs.usage().dirty_bytes == self.dirty_bytes()
        accounts = memory.accounts.values()
        assert memory.held_bytes == sum(a.used_bytes for a in accounts if not a.is_cache)
        if len(self.fs._handles) == 0:
            assert self.fs._context.key_lock.is_free, "a key range is locked"
            held = self.fs._context.memory.used_bytes()
            lasting = ("inodes", "listings", "leftovers")  # the kernel's, a cache, the disk's
            assert not any(n for kind, n in held.items() if kind not in lasting), held
            known = [
                d
                for i in self.fs._inodes._by_number.values()
                if (d := i.runtime.directory) is not None
            ]
            assert not any(d.changes.is_observed for d in known), "an observation goes on"
        self.is_ended = True
        self._end.set()
        self.run(asyncio.wait_for(self._life, WITHIN_S))
        self.loop.close()


class Held:
    """Stops requests of one kind (before they take effect, or after) until `let_go`."""

    def __init__(self, store: MemoryStore, kind: str, *, after: bool = False) -> None:
        self.waiting, self._kind = 0, kind
        self._open = asyncio.Event()
        setattr(store, "after" if after else "gate", self._stop)

    async def _stop(self, operation: str, _key: str) -> None:
        if operation == self._kind:
            self.waiting += 1
            await self._open.wait()

    def let_go(self) -> None:
        self._open.set()


def fail(
    store: MemoryStore, kind: str, error: Exception, *, times: int = 1, after: bool = False
) -> None:
    """The next requests of that kind fail, or take effect and their answers are lost."""
    left = times

    async def one(operation: str, _key: str) -> None:
        nonlocal left
        if operation == kind and left > 0:
            left -= 1
            raise error

    setattr(store, "after" if after else "gate", one)


def paged(store: MemoryStore, size: int) -> None:
    """Let every page of a listing have at most `size` entries."""
    whole = store.list_page

    async def list_page(prefix: str, *, max_keys: int = 1000, **rest: Any) -> ListPage:
        return await whole(prefix, max_keys=min(max_keys, size), **rest)

    store.list_page = list_page


@pytest.fixture
def mounts():
    """Make a mount: `mounts(**TreeConfig fields)`, with both guards open if nothing is said."""
    made = []

    def make(
        config: TreeConfig | None = None,
        *,
        prefix: str = "",
        state_dir: Path | None = None,
        min_part_bytes: int = 1,
        abort_within_s: float = 100.0,
        room_within_s: float = 5.0,
        records_bytes: int | None = None,
        **options: Any,
    ) -> Mount:
        given = {"allow_delete": True, "allow_overwrite": True, **options}
        mount = Mount(
            config or TreeConfig(**given),
            prefix=prefix,
            state_dir=state_dir,
            min_part_bytes=min_part_bytes,
            abort_within_s=abort_within_s,
            room_within_s=room_within_s,
            records_bytes=records_bytes,
        )
        made.append(mount)
        mount.successors = made
        return mount

    yield make
    for mount in made:
        mount.end()


@pytest.fixture
def mount(mounts) -> Mount:
    return mounts()
