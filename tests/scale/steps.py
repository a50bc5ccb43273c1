"""The longest steps of the event loop with many names, handles, extents and dirty files.

    python -m tests.scale.steps [--n N] [CASE ...]

Each case runs the file system over the store in memory, with each step timed, and prints its
longest steps in ms of CPU, worst first: the coroutine, and where it waited afterwards. Garbage
collection is left out; `mounter.memory_upkeep` decides when that happens. The rows of
`*` are calls of plain code, which are a step or a part of one.
"""

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lxml import etree
from typing_extensions import override

from csi_s3.config.volume import TreeConfig
from csi_s3.fs.write.extents import Origin
from csi_s3.fuse.bridge import Bridge
from csi_s3.link.report import Usage
from csi_s3.mounter.metrics.request_counts import metrics_message
from csi_s3.obs.slow_steps import SlowSteps, _place
from csi_s3.s3 import xml
from csi_s3.s3.list_objects import page_of
from tests.unit.fs_mount import WRITE_NEW, Mount

ROWS = 5


class LongestSteps(SlowSteps):
    """Keeps the longest step of each coroutine at each place, however short."""

    def __init__(self) -> None:
        super().__init__(0.0, is_suite=True)
        self.longest_s: dict[tuple[str, str], float] = {}
        self.is_of_the_store = False  # the step that ends next

    @override
    def ended(self, began, coro, name) -> None:
        cpu_s = time.thread_time() - began.cpu_s - (self._collecting_s - began.collecting_s)
        place = _place(coro)
        if self.is_of_the_store:
            self.is_of_the_store = False
        elif cpu_s > 0.002:
            self.add(name.rpartition(".")[2], place, cpu_s)

    def add(self, name: str, place: str, cpu_s: float) -> None:
        at = (name, place)
        self.longest_s[at] = max(cpu_s, self.longest_s.get(at, 0.0))

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        began_s = time.thread_time()
        yield
        self.add("* " + name, "", time.thread_time() - began_s)

    def table(self) -> list[str]:
        worst = sorted(self.longest_s.items(), key=lambda item: -item[1])[:ROWS]
        return [f"  {s * 1000:8.1f} ms  {name}  {place}" for (name, place), s in worst]


@contextmanager
def mount(steps: LongestSteps, *, state_dir: Path | None = None) -> Iterator[Mount]:
    config = TreeConfig(allow_delete=True, allow_overwrite=True, memory_bytes=16 << 30)
    made = Mount(config, state_dir=state_dir)
    steps.watch(made.loop)

    async def before(_operation: str, _key: str) -> None:
        await asyncio.sleep(0)

    async def after(_operation: str, _key: str) -> None:
        steps.is_of_the_store = True
        await asyncio.sleep(0)

    made.store.gate, made.store.after = before, after
    try:
        yield made
    finally:
        made.close()


def names_in_one_directory(steps: LongestSteps, n: int) -> None:
    with mount(steps) as m:
        for i in range(n):
            m.store.put_now(f"big/{i:08}")
        m.time.now_s += 2
        assert len(m.ls("big")) == n
        with steps.call(f"usage() with {n} inodes"):
            usage = m.fs.usage()
        with steps.call("a metrics message"):
            metrics_message(Usage(inodes=usage.inodes), None)
        m.stat("big/00000001")
        m.put("big/new")
        m.lookup("big/new")
        m.run(Bridge(m.fs).forget([(ino, 1) for ino in m.held]))
        m.held = []


def names_in_a_tree(steps: LongestSteps, n: int) -> None:
    """Then the tree is renamed above its known inodes."""
    with mount(steps) as m:
        for i in range(n):
            m.store.put_now(f"top/{i // 1000:05}/{i % 1000:03}")
        m.time.now_s += 2
        for i in range(n // 1000):
            m.ls(f"top/{i:05}")
        for old, new in (("top", "moved"), ("empty", "moved-empty")):
            if old == "empty":
                m.mkdir("empty")
            m.lookup(old)
            parent, name = m.parent(old)
            renaming = m.fs.rename(parent, name, parent, new.encode(), may_replace=True)
            m.loop.run_until_complete(renaming)


def open_handles(steps: LongestSteps, n: int) -> None:
    with mount(steps) as m:
        for i in range(n):
            m.store.put_now(f"{i:08}", b"x")
        m.time.now_s += 2
        m.ls()
        fhs = [m.open(f"{i:08}") for i in range(n)]
        m.write_file("written", b"x")
        m.unlink("00000000")
        m.rename("00000001", "renamed")
        m.fs.usage()
        for fh in fhs:
            m.release(fh)


def extents(steps: LongestSteps, n: int) -> None:
    """A byte in each page of a stored file, kept in the spool, and then stored."""
    with tempfile.TemporaryDirectory() as spool, mount(steps, state_dir=Path(spool)) as m:
        m.store.put_now("stored", bytes(n * 4096))
        m.time.now_s += 2
        fh = m.open("stored", os.O_WRONLY)

        async def writes(start: int, end: int) -> None:
            for i in range(start, end):
                await m.fs.files.write(fh, i * 4096 + 7, b"x")
                if i % 64 == 0:
                    await asyncio.sleep(0)

        for start in range(0, n, 1000):
            m.run(writes(start, min(n, start + 1000)))
        m.loop.run_until_complete(m.fs.files.fsync(fh))
        m.release(fh)


def dirty_files(steps: LongestSteps, n: int) -> None:
    with mount(steps) as m:
        for i in range(n):
            m.write(m.create(f"{i:08}", WRITE_NEW), b"x")
        m.fs.usage()
        assert m.run(m.fs.drain()) == []


def kept_files(steps: LongestSteps, n: int) -> None:
    """The store is away at the mount's end: all files are kept in the spool."""
    with tempfile.TemporaryDirectory() as spool, mount(steps, state_dir=Path(spool)) as m:
        for i in range(n):
            m.write(m.create(f"{i:08}", WRITE_NEW), b"x")
        m.run(m.fs.drain())
        fhs = [m.open(f"{i:08}", os.O_WRONLY) for i in range(n)]
        for fh in fhs:
            m.write(fh, b"y")
        m.loop.run_until_complete(m.fs.keep())
        m.close()


def directories(steps: LongestSteps, n: int) -> None:
    """A directory with so many below it is renamed."""
    with mount(steps) as m:
        for i in range(n):
            m.store.put_now(f"top/{i // 1000:05}/{i % 1000:03}/")
        m.time.now_s += 2
        for i in range(n // 1000):
            m.ls(f"top/{i:05}")
        m.lookup("top")
        parent, name = m.parent("top")
        m.loop.run_until_complete(m.fs.rename(parent, name, parent, b"moved", may_replace=True))


def open_directories(steps: LongestSteps, n: int) -> None:
    """So many are open and have listed pages, and one above them is renamed."""
    with mount(steps) as m:
        for i in range(n):
            m.store.put_now(f"top/{i:08}/f")
        m.time.now_s += 2
        m.ls("top")
        fhs = [m.run(m.fs.opendir(m.ino(f"top/{i:08}"))) for i in range(n)]
        for fh in fhs:
            assert m.run(m.entries(fh)) == ["f"]
        m.lookup("top")
        parent, name = m.parent("top")
        m.loop.run_until_complete(m.fs.rename(parent, name, parent, b"moved", may_replace=True))
        for fh in fhs:
            m.fs.releasedir(fh)


def changed_maps(steps: LongestSteps, n: int) -> None:
    """A file of n extents is cut, written over, and its smallest gaps are found."""
    size = 4 * n
    with tempfile.TemporaryDirectory() as spool, mount(steps, state_dir=Path(spool)) as m:
        m.put("f", bytes(size))
        fh = m.open("f", os.O_RDWR)
        m.write(fh, b"x", 1)
        staged = m.fs._inodes.get(m.ino("f")).writer._staged

        def fill() -> None:
            for at in range(0, size, 8):
                staged.extents.put(at, at + 4, Origin.BASE)
                staged.extents.put(at + 4, at + 8, Origin.SPOOL)

        fill()
        m.loop.run_until_complete(m.loop.create_task(staged.fetch._smallest_gaps(n // 16)))
        with steps.call(f"write over {len(staged.extents)} extents"):
            staged.overwrite(1, memoryview(bytes(size - 2)))
        fill()
        m.truncate("f", 1)
        m.release(fh)


def delete_many(steps: LongestSteps, n: int) -> None:
    """The body of DeleteObjects: 1,000 keys of 1,000 bytes."""
    keys = [f"{i:04}" + "\u00e4&" * 330 for i in range(min(n, 1000))]
    with steps.call("DeleteObjects: keys"):
        for key in keys:
            assert xml.is_xml_text(key)
            xml.escape(key)


def listing_page(steps: LongestSteps, n: int) -> None:
    """One answer to LIST: 1,000 keys of 1,000 bytes, every character of them encoded."""
    entry = (
        "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        '<ETag>"{i:032x}"</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>'
    )
    rows = "".join(entry.format(key="%C3%A4" * 498 + f"{i:04}", i=i) for i in range(min(n, 1000)))
    text = f"<ListBucketResult><EncodingType>url</EncodingType>{rows}</ListBucketResult>"
    with steps.call("LIST: XML"):
        root = etree.fromstring(text)
    with asyncio.Runner() as runner:
        steps.watch(runner.get_loop())
        assert len(runner.run(page_of(root)).objects) == min(n, 1000)


CASES: dict[str, tuple[Callable[[LongestSteps, int], None], int]] = {
    "names": (names_in_one_directory, 100_000),
    "tree": (names_in_a_tree, 100_000),
    "handles": (open_handles, 100_000),
    "extents": (extents, 10_000),
    "dirty": (dirty_files, 10_000),
    "kept": (kept_files, 10_000),
    "directories": (directories, 100_000),
    "open-directories": (open_directories, 4000),
    "maps": (changed_maps, 100_000),
    "list-page": (listing_page, 1000),
    "delete-many": (delete_many, 1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.steps", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--n", type=int)
    given = parser.parse_args()
    for name in given.cases or CASES:
        case, usual = CASES[name]
        n, steps = given.n or usual, LongestSteps()
        print(f"{name}, n = {n}", flush=True)
        try:
            case(steps, n)
        finally:
            steps.close()
            gc.collect()
        print("\n".join(steps.table()), flush=True)


if __name__ == "__main__":
    main()
