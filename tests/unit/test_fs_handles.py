"""Open handles: each is counted, there is a limit, and none costs more because there are others."""

import asyncio
import os
import tracemalloc
from types import SimpleNamespace

import pytest

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import NotFoundError, StaleError, StoreUnavailableError, TooManyOpenFilesError
from csi_s3.fs.base.budget import MemoryBudget
from csi_s3.fs.base.memory import Memory, MemoryKind
from csi_s3.fs.files.handles import HANDLE_BYTES, READER_BYTES, Handles
from csi_s3.fs.listings.listing import LISTING_BYTES
from csi_s3.fs.listings.listing import READER_BYTES as PLACE_BYTES
from csi_s3.fs.names.inode import ROOT, DirHandle, FileHandle, Kind
from csi_s3.fs.names.inodes import Inodes
from csi_s3.fs.read.reader import Reader
from csi_s3.s3.store import ObjectInfo
from tests.unit.costs import counted_calls
from tests.unit.fs_mount import REWRITE, WRITE_NEW, fail, mount, mounts

__all__ = ["mount", "mounts"]

MIB = 1 << 20


def account(mount):
    return mount.fs._context.memory.account(MemoryKind.HANDLES)


# the limit


OPEN = {
    "open": lambda mount: mount.open("f"),
    "open for writing": lambda mount: mount.open("f", REWRITE),
    "create": lambda mount: mount.create("new"),
    "create exclusively": lambda mount: mount.create("new", WRITE_NEW | os.O_EXCL),
    "opendir": lambda mount: mount.run(mount.fs.opendir(ROOT)),
}


@pytest.mark.parametrize("kind", OPEN)
def test_above_the_limit_an_open_is_refused_before_anything_is_asked(mount, kind):
    """Promise: ENFILE: open, create and opendir, where the memory for open files and directories is
    in use; no other program loses what it has open.
    """
    mount.put("f", b"data")
    mount.lookup("f")
    fh = mount.open("f")
    account(mount).limit_bytes = account(mount).used_bytes + HANDLE_BYTES - 1
    inodes = len(mount.fs._inodes)
    with pytest.raises(TooManyOpenFilesError, match="for handles are in use"), mount.requests():
        OPEN[kind](mount)
    assert len(mount.fs._inodes) == inodes
    assert mount.data("f") == b"data"
    assert mount.read(fh) == b"data"
    mount.release(fh)
    if kind == "opendir":  # its listing is counted as well
        account(mount).limit_bytes += LISTING_BYTES + PLACE_BYTES
    opened = OPEN[kind](mount)
    if kind == "opendir":
        mount.fs.releasedir(opened)
    else:
        mount.release(opened)
    assert account(mount).used_bytes == 0


def test_an_open_that_fails_gives_its_place_back(mount):
    mount.put("f", b"data")
    ino = mount.lookup("f").ino
    fail(mount.store, "GET", StoreUnavailableError("down"))
    with pytest.raises(StoreUnavailableError):
        mount.open("f")
    with pytest.raises(StaleError):
        mount.run(mount.fs.opendir(99))
    mount.store_works()
    mount.delete("f")
    with pytest.raises((NotFoundError, StaleError)):
        mount.run(mount.fs.files.open(ino, os.O_RDONLY))
    assert account(mount).used_bytes == 0


def test_a_reader_is_counted_from_its_first_read(mount):
    mount.put("f", b"data" * MIB)
    ino = mount.lookup("f").ino
    first = mount.open("f")  # the answer brings bytes along
    second = mount.run(mount.fs.files.open(ino, os.O_RDONLY))
    assert account(mount).used_bytes == 2 * HANDLE_BYTES + READER_BYTES
    for _ in range(2):
        mount.read(second, 2 * MIB, 4096)
        assert account(mount).used_bytes == 2 * (HANDLE_BYTES + READER_BYTES)
    mount.rename("f", "g")
    assert bytes(mount.read(second, 2 * MIB, 4096)) == b"data" * 1024
    assert account(mount).used_bytes == 2 * (HANDLE_BYTES + READER_BYTES)
    for fh in (first, second):
        mount.release(fh)
    assert account(mount).used_bytes == 0


def test_a_hundred_thousand_readers_fit_a_volume_of_512_mib():
    config = TreeConfig(memory_bytes=512 * MIB)
    memory = Memory(config.budget_bytes, config.records_bytes)
    limit = memory.account(MemoryKind.HANDLES).limit_bytes
    assert limit // (HANDLE_BYTES + READER_BYTES) >= 100_000


# what is counted


def held_by(make):
    tracemalloc.start()
    try:
        kept = make()
        return tracemalloc.get_traced_memory()[0], kept
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("n", [1000, 10_000])
def test_a_handle_takes_the_bytes_that_are_counted(n, kind):
    memory = Memory(0, 1 << 40)
    inodes = Inodes("", account=memory.account(MemoryKind.INODES))
    handles = Handles(Memory(0, 1 << 30))
    is_dir = kind == "directory"
    made = [inodes.add(ROOT, f"{i}", Kind.DIRECTORY if is_dir else Kind.FILE) for i in range(n)]

    def fill():
        for inode in made:
            handle = DirHandle(inode, None) if is_dir else FileHandle(inode)
            handles.opening("").add(handle)

    held, _ = held_by(fill)
    assert 0.75 * HANDLE_BYTES < held / n < 1.25 * HANDLE_BYTES


@pytest.mark.parametrize("n", [1000, 10_000])
def test_a_reader_takes_the_bytes_that_are_counted(n):
    context = SimpleNamespace(
        store=None,
        memory=SimpleNamespace(buffers=MemoryBudget(MIB)),
        group=None,
        config=TreeConfig(),
    )
    info = ObjectInfo(key="k", size=1 << 40, etag='"e"', last_modified=1.0)

    def read_somewhere():
        readers = [Reader(context, info) for _ in range(n)]
        for i, reader in enumerate(readers):
            reader._expected = reader._head = (1 << 30) + i
            reader._stream_start = (1 << 20) + i
        return readers

    held, _ = held_by(read_somewhere)
    assert 0.75 * READER_BYTES < held / n < 1.25 * READER_BYTES


def test_first_bytes_that_the_budget_does_not_hold_are_dropped(mounts):
    mount = mounts(memory_bytes=8 * MIB)
    for i in range(20):
        mount.put(f"f{i}", b"x" * MIB)
    handles = [mount.open(f"f{i}") for i in range(20)]
    assert mount.budget.used_bytes <= 6 * MIB
    for fh in handles:
        assert len(mount.read(fh, 0, MIB)) == MIB
        mount.release(fh)
    assert mount.budget.used_bytes == 0


# the cost


def calls(work):
    with counted_calls() as counted:
        work()
    return counted.n


@pytest.mark.parametrize("is_writer", [False, True])
def test_the_cost_of_n_handles_on_one_file_is_proportional_to_n(mount, is_writer):
    mount.put("f", b"data")
    ino = mount.lookup("f").ino

    async def all_of(n):
        flags = os.O_WRONLY if is_writer else os.O_RDONLY
        handles = [await mount.fs.files.open(ino, flags) for _ in range(n)]
        await mount.fs.rename(ROOT, b"f", ROOT, b"g", may_replace=True)
        await mount.fs.rename(ROOT, b"g", ROOT, b"f", may_replace=True)
        for fh in handles:
            await mount.fs.files.release(fh)
            await asyncio.sleep(0)

    mount.run(all_of(2))
    few, many = (calls(lambda n=n: mount.run(all_of(n))) for n in (100, 1000))
    assert many < 11 * few
