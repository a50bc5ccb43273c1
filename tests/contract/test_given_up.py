"""Requests of the kernel that are given up at each of their awaits, before a real S3 server.

The server has done what it was asked to, and its answer is held back: so it is at a store that
hangs when a program is killed. Once it answers again, the file system is as if nothing had been.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from csi_s3.errors import ExistsError
from tests.contract.conftest import Names
from tests.contract.holding import Held, Place, holding_mount, run_case
from tests.servers import Server, running

MOST_AWAITS = 120
WRITE_NEW, REWRITE = os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC


@pytest.fixture(scope="module")
def gateway() -> Iterator[Server]:
    with running("versitygw") as server:
        yield server


@pytest.fixture
async def held(
    gateway: Server, bucket_names: Names, aws_environment: pytest.MonkeyPatch
) -> AsyncIterator[Held]:
    for variable, value in gateway.env().items():
        aws_environment.setenv(variable, value)
    async with holding_mount(gateway, gateway.create_bucket(bucket_names())) as mount:
        yield mount


async def lookup(p: Place):
    p.put("f")
    task = yield p.fs.lookup(p.ino, b"f")
    assert task.cancelled()
    assert await p.exists("f")


async def getattr_(p: Place):
    p.put("f", b"old")
    ino = await p.lookup("f")
    p.put("f", b"newer")
    task = yield p.fs.getattr(ino)
    assert task.cancelled()
    assert await p.read("f") == b"newer"


async def open_to_read(p: Place):
    p.put("f", b"data")
    task = yield p.fs.files.open(await p.lookup("f"), os.O_RDONLY)
    assert task.cancelled()
    assert await p.read("f") == b"data"


async def read(p: Place):
    data = os.urandom(3 << 20)
    p.put("f", data)
    fh = await p.open("f", os.O_RDONLY)
    task = yield p.fs.files.read(fh, 1 << 20, 1 << 20)
    assert task.cancelled()
    assert b"".join(await p.fs.files.read(fh, 1 << 20, 1 << 20)) == data[1 << 20 : 2 << 20]
    await p.fs.files.release(fh)


async def open_with_truncation(p: Place):
    p.put("f", b"old")
    ino = await p.lookup("f")
    fh = await p.open("f", os.O_RDWR)
    await p.fs.files.write(fh, 0, b"new")
    store = asyncio.create_task(p.fs.files.flush(fh))  # the open waits for it
    await asyncio.sleep(0)
    task = yield p.fs.files.open(ino, REWRITE)
    await store
    assert task.cancelled()
    await p.close(fh)
    assert p.stored("f") in (b"new", b"")
    await p.close(await p.open("f", REWRITE))
    assert p.stored("f") == b""


async def write_while_it_is_stored(p: Place):
    fh = await p.create("f")
    await p.fs.files.write(fh, 0, b"1234")
    store = asyncio.create_task(p.fs.files.flush(fh))
    await asyncio.sleep(0)
    task = yield p.fs.files.write(fh, 4, b"5678")
    await store
    accepted = 0 if task.cancelled() else task.result()
    await p.fs.files.write(fh, 4 + accepted, b"5678"[accepted:])
    await p.close(fh)
    assert p.stored("f") == b"12345678"


async def flush(p: Place):
    fh = await p.create("f")
    await p.fs.files.write(fh, 0, b"data")
    yield p.fs.files.flush(fh)
    assert p.stored("f") == b"data", "the store went on"
    await p.fs.files.write(fh, 4, b"!")
    await p.close(fh)
    assert p.stored("f") == b"data!"


async def flush_of_an_edit(p: Place):
    p.put("f", b"old bytes")
    fh = await p.open("f", os.O_RDWR)
    await p.fs.files.write(fh, 0, b"new")
    yield p.fs.files.flush(fh)
    assert p.stored("f") == b"new bytes"
    await p.close(fh)
    assert await p.read("f") == b"new bytes"


async def fsync(p: Place):
    fh = await p.create("f")
    await p.fs.files.write(fh, 0, b"data")
    yield p.fs.files.fsync(fh)
    assert p.stored("f") == b"data"
    await p.close(fh)


async def create(p: Place):
    task = yield p.fs.files.create(p.ino, b"f", WRITE_NEW)
    assert task.cancelled()
    assert not await p.exists("f")


async def create_exclusively(p: Place):
    task = yield p.fs.files.create(p.ino, b"f", WRITE_NEW | os.O_EXCL)
    assert task.cancelled()
    if not await p.exists("f"):
        await p.close(await p.create("f", WRITE_NEW | os.O_EXCL))
    assert p.stored("f") == b""
    assert await p.names() == ["f"]


async def mkdir(p: Place):
    task = yield p.fs.mkdir(p.ino, b"d")
    assert task.cancelled()
    if not await p.exists("d"):
        p.references.append((await p.fs.mkdir(p.ino, b"d")).ino)
    with pytest.raises(ExistsError):
        await p.fs.mkdir(p.ino, b"d")
    assert p.stored("d/") == b""
    assert await p.names() == ["d"]


async def rmdir(p: Place):
    p.put("d/", b"")
    await p.lookup("d")
    yield p.fs.rmdir(p.ino, b"d")
    if await p.exists("d"):
        await p.fs.rmdir(p.ino, b"d")
    assert p.stored("d/") is None
    assert await p.names() == []


async def unlink(p: Place):
    p.put("f")
    await p.lookup("f")
    yield p.fs.unlink(p.ino, b"f")
    if await p.exists("f"):
        await p.fs.unlink(p.ino, b"f")
    assert p.stored("f") is None
    assert await p.names() == []


async def unlink_of_an_open_file(p: Place):
    p.put("f", b"old bytes")
    fh = await p.open("f", os.O_RDWR)
    await p.fs.files.write(fh, 0, b"new")
    yield p.fs.unlink(p.ino, b"f")
    if await p.exists("f"):
        await p.fs.unlink(p.ino, b"f")
    assert b"".join(await p.fs.files.read(fh, 0, 100))[:3] == b"new"
    await p.close(fh)
    assert p.stored("f") is None


async def rename(p: Place):
    p.put("a", b"moved")
    await p.lookup("a")
    yield p.fs.rename(p.ino, b"a", p.ino, b"b", may_replace=True)
    if await p.exists("a"):
        assert not await p.exists("b")
        await p.fs.rename(p.ino, b"a", p.ino, b"b", may_replace=True)
    assert (p.stored("a"), p.stored("b")) == (None, b"moved")
    assert await p.names() == ["b"]


async def rename_over_a_file(p: Place):
    p.put("a", b"moved")
    p.put("b", b"replaced")
    await p.lookup("a")
    await p.lookup("b")
    yield p.fs.rename(p.ino, b"a", p.ino, b"b", may_replace=True)
    if await p.exists("a"):
        assert await p.read("b") == b"replaced"
        await p.lookup("b")
        await p.fs.rename(p.ino, b"a", p.ino, b"b", may_replace=True)
    assert (p.stored("a"), p.stored("b")) == (None, b"moved")
    assert await p.names() == ["b"]


async def rename_of_a_directory(p: Place):
    for key in ("d/", "d/a", "d/e/b"):
        p.put(key, key.encode() if key[-1] != "/" else b"")
    await p.lookup("d")
    yield p.fs.rename(p.ino, b"d", p.ino, b"n", may_replace=True)
    if await p.exists("d"):
        await p.fs.rename(p.ino, b"d", p.ino, b"n", may_replace=True)
    assert (p.stored("n/a"), p.stored("n/e/b")) == (b"d/a", b"d/e/b")
    assert (p.stored("d/a"), p.stored("d/e/b")) == (None, None)
    assert await p.names() == ["n"]


async def symlink(p: Place):
    task = yield p.fs.links.make(p.ino, b"l", b"target")
    assert task.cancelled()
    if not await p.exists("l"):
        p.references.append((await p.fs.links.make(p.ino, b"l", b"target")).ino)
    assert await p.fs.links.read(await p.lookup("l")) == b"target"


async def readlink(p: Place):
    p.put("l.rclonelink", b"target")
    ino = await p.lookup("l")
    task = yield p.fs.links.read(ino)
    assert task.cancelled()
    assert await p.fs.links.read(ino) == b"target"


async def truncate(p: Place):
    p.put("f", b"old bytes")
    ino = await p.lookup("f")
    yield p.fs.setattr(ino, size=3)
    assert p.stored("f") in (b"old", b"old bytes")
    await p.fs.setattr(await p.lookup("f"), size=3)
    assert p.stored("f") == await p.read("f") == b"old"


async def readdir(p: Place):
    for name in "abc":
        p.put(name)
    fh = await p.fs.opendir(p.ino)

    async def names():
        return [e.name async for e in p.fs.readdir(fh, 0)]

    task = yield names()
    assert task.cancelled()
    assert await names() == [b"a", b"b", b"c"]
    p.fs.releasedir(fh)


CASES = [
    lookup, getattr_, open_to_read, read, open_with_truncation, write_while_it_is_stored, flush,
    flush_of_an_edit, fsync, create, create_exclusively, mkdir, rmdir, unlink,
    unlink_of_an_open_file, rename, rename_over_a_file, rename_of_a_directory, symlink, readlink,
    truncate, readdir,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_a_request_that_is_given_up_leaves_nothing_behind(held, case):
    n = 1
    while await run_case(held, case, n):
        n += 1
        assert n < MOST_AWAITS
    assert n > 1 or case is create, "it has no await: nothing was given up"
