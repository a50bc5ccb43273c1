"""A file system over a real S3 server that holds its answers back, and requests that give up.

`HoldingProxy` passes requests on, and answers only while it lets them go: a change takes effect,
and no one knows. `given_up` cancels a request of the kernel at one of its awaits, by their number.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from csi_s3.config.volume import BucketConfig, TreeConfig
from csi_s3.errors import NotFoundError, StaleError
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fs.names.kernel_cache import CachedName
from csi_s3.s3.bucket import open_bucket
from tests.servers import Server

STUCK_S = 0.02  # without an await: it waits for an answer that is held back
ENDED_WITHIN_S = 60.0  # milliseconds; more, and it waits for what never comes


class HoldingProxy:
    """A TCP proxy on loopback. Lifetime: `holding_proxy`'s."""

    def __init__(self, behind: str) -> None:
        parts = urlsplit(behind)
        self._behind = parts.hostname, parts.port
        self._answers = asyncio.Event()
        self._answers.set()
        self.endpoint = ""

    def hold(self) -> None:
        self._answers.clear()

    def let_go(self) -> None:
        self._answers.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(*self._behind)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, to_there, holds=False))
                group.create_task(self._pass(there, writer, holds=True))
        finally:
            writer.close()
            to_there.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, holds: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if holds:
                    await self._answers.wait()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


class NoCache:
    """A kernel that caches nothing; the file system's `KernelCache`."""

    can_drop_directories = False

    async def invalidate_inode(self, ino: int) -> None:
        await asyncio.sleep(0)

    def invalidate_attributes(self, ino: int) -> None:
        pass

    def forget_name(self, parent: int, name: bytes) -> None:
        pass

    async def drop_names(
        self, names: Sequence[CachedName], *, is_read: Callable[[int], bool]
    ) -> Sequence[CachedName]:
        return names


class Held:
    """One mount, its bucket and the proxy between them."""

    def __init__(
        self, server: Server, bucket: str, proxy: HoldingProxy, context: MountContext
    ) -> None:
        self.server, self.bucket, self.proxy, self.context = server, bucket, proxy, context
        self.fs = FileSystem(context, prefix="", kernel=NoCache())
        self._places = 0

    async def place(self) -> "Place":
        """A new directory, for one case."""
        self._places += 1
        name = f"place-{self._places}"
        return Place(self, name, (await self.fs.mkdir(1, name.encode())).ino)

    async def check_nothing_is_held(self) -> None:
        """No lock, no memory, no handle, no inode but the root."""
        await asyncio.sleep(0)  # a task of the mount is counted until the turn after its end
        usage, tree = self.fs.usage(), self.fs._tree
        assert usage.open_files == 0
        assert usage.inodes == 1, [i.name for i in tree.inodes._by_number.values()]
        held = {kind: n for kind, n in usage.memory_bytes.items() if n}
        assert not held.keys() - {"inodes", "listings"}, held
        assert self.context.memory.buffers.leaving_bytes == 0
        assert self.context.key_lock.is_free
        assert not tree.versions._locks._locks
        assert not tree.name_changes._locks._locks
        assert not self.context.progress_timeout._tasks


class Place:
    """A directory of the mount. Names are relative to it; what was looked up is forgotten last."""

    def __init__(self, held: Held, name: str, ino: int) -> None:
        self.held, self.fs, self.name, self.ino = held, held.fs, name, ino
        self.references = [ino]

    def put(self, key: str, data: bytes = b"x") -> None:
        """By another client."""
        path = quote(f"/{self.held.bucket}/{self.name}/{key}")
        assert self.held.server.request("PUT", path, data)[0] == 200

    def stored(self, key: str) -> bytes | None:
        path = quote(f"/{self.held.bucket}/{self.name}/{key}")
        status, body = self.held.server.request("GET", path)
        return body if status == 200 else None

    async def lookup(self, name: str, parent: int | None = None) -> int:
        found = await self.fs.lookup(self.ino if parent is None else parent, name.encode())
        self.references.append(found.ino)
        return found.ino

    async def exists(self, name: str) -> bool:
        try:
            await self.lookup(name)
        except NotFoundError:
            return False
        return True

    async def create(self, name: str, flags: int = 0) -> int:
        fh, made = await self.fs.files.create(self.ino, name.encode(), flags)
        self.references.append(made.ino)
        return fh

    async def open(self, name: str, flags: int) -> int:
        """As the kernel: it looks the name up once more after ESTALE."""
        try:
            return await self.fs.files.open(await self.lookup(name), flags)
        except StaleError:
            return await self.fs.files.open(await self.lookup(name), flags)

    async def read(self, name: str) -> bytes:
        fh = await self.open(name, 0)
        try:
            return b"".join(await self.fs.files.read(fh, 0, 1 << 20))
        finally:
            await self.fs.files.release(fh)

    async def close(self, fh: int) -> None:
        try:
            await self.fs.files.flush(fh)
        finally:
            await self.fs.files.release(fh)

    async def names(self, ino: int | None = None) -> list[str]:
        fh = await self.fs.opendir(self.ino if ino is None else ino)
        try:
            return [e.name.decode() async for e in self.fs.readdir(fh, 0)]
        finally:
            self.fs.releasedir(fh)

    async def remove(self) -> None:
        """All of it, through the mount; then nothing of it is known."""
        await self._remove_below(self.ino)
        await self.fs.rmdir(1, self.name.encode())
        for ino in self.references:
            self.fs.forget(ino, 1)

    async def _remove_below(self, ino: int) -> None:
        for name in await self.names(ino):
            child = await self.lookup(name, ino)
            if self.fs._inodes.get(child).is_dir:
                await self._remove_below(child)
                await self.fs.rmdir(ino, name.encode())
            else:
                await self.fs.unlink(ino, name.encode())


class Counted:
    """Awaits a call, and counts how often it suspends. at_await: is called at the n-th."""

    def __init__(
        self, call: Coroutine[Any, Any, Any], n: int, at_await: Callable[[], None]
    ) -> None:
        self._call, self._n, self._at_await = call, n, at_await
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._call.send(None) if error is None else self._call.throw(error)
            except StopIteration as stop:
                return stop.value
            self.count, error = self.count + 1, None
            if self.count == self._n:
                self._at_await()
            try:
                yield waits_for
            except BaseException as exc:  # noqa: BLE001 - passed on to the call
                error = exc


async def given_up(
    proxy: HoldingProxy, call: Coroutine[Any, Any, Any], n: int
) -> "asyncio.Task[Any] | None":
    """Start a request, cancel it at its n-th await; the answers of the store are held back.

    They are let go while the request has not come so far. None: it has ended before.
    """
    reached = asyncio.Event()

    async def run() -> Any:
        return await Counted(call, n, reached.set)

    proxy.hold()
    task = asyncio.create_task(run())
    at_await = asyncio.create_task(reached.wait())
    try:
        await asyncio.wait({task, at_await}, timeout=STUCK_S, return_when=asyncio.FIRST_COMPLETED)
        if not reached.is_set():
            proxy.let_go()
            await asyncio.wait(
                {task, at_await}, timeout=ENDED_WITHIN_S, return_when=asyncio.FIRST_COMPLETED
            )
        if task.done():
            await task
            return None
        proxy.hold()
        task.cancel()
        await asyncio.wait({task}, timeout=ENDED_WITHIN_S)
        assert task.done(), "it waits for a store that does not answer"
        return task
    finally:
        at_await.cancel()
        await asyncio.wait({at_await})
        proxy.let_go()


Case = Callable[[Place], AsyncGenerator[Coroutine[Any, Any, Any], "asyncio.Task[Any]"]]


async def run_case(held: Held, case: Case, n: int) -> bool:
    """Run a case whose request is given up at its n-th await. False: it has fewer.

    The case yields the request, gets its task, and checks what has become of it.
    """
    place = await held.place()
    steps = case(place)
    call = await anext(steps)
    task = await given_up(held.proxy, call, n)
    if task is None:
        await steps.aclose()
        return False
    await held.context.progress_timeout.settled()
    try:
        await steps.asend(task)
    except StopAsyncIteration:
        pass
    else:
        raise AssertionError("a case has one request")
    await place.remove()
    await held.check_nothing_is_held()
    return True


@asynccontextmanager
async def holding_mount(server: Server, bucket: str) -> AsyncIterator[Held]:
    """A mount of the bucket, with small parts, whose store can be held."""
    proxy = HoldingProxy(server.endpoint)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    config = BucketConfig(
        bucket=bucket, endpoint_url=f"http://127.0.0.1:{port}", force_path_style=True
    )
    tree = TreeConfig(allow_delete=True, allow_overwrite=True, metadata_ttl_s=0)
    async with listening, open_bucket(config) as store, asyncio.TaskGroup() as group:
        context = MountContext.create(store, tree, group)
        context = replace(context, abort_within_s=5.0)
        held = Held(server, bucket, proxy, context)
        try:
            yield held
        finally:
            proxy.let_go()
            await held.fs.close()
