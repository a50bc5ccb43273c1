"""Names that this mount changes while a directory is listed: bounded, and none is lost."""

import asyncio
import tracemalloc

import pytest

from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.listings.changes import STEP, Changes
from csi_s3.fs.listings.entries import Special
from csi_s3.fs.listings.merging import Merge, Relevant
from csi_s3.s3.store import ListPage
from tests.unit.fs_mount import Held, mount, mounts
from tests.unit.listing_case import INFO, listings, make_up, name, used

__all__ = ["mount", "mounts"]


@pytest.mark.parametrize("changes", [2000, 10_000])
def test_an_open_scandir_remembers_no_change(mount, changes):
    """The second page has come, and is not read."""
    make_up(mount.store, 1001)
    fh = mount.run(mount.fs.opendir(mount.ino("d")))

    async def first():
        entries = mount.fs.readdir(fh, 0)
        await anext(entries)
        await entries.aclose()

    mount.run(first())
    mount.settle()
    directory = mount.fs._tree.directory(mount.fs._inodes.get(mount.ino("d")))
    for n in range(changes):
        directory.note(f"new-{n}", Special.DIRECTORY)
    assert used(mount, MemoryKind.CHANGES) == 0
    assert used(mount, MemoryKind.LISTINGS) < 1 << 20
    mount.fs.releasedir(fh)


def test_creating_tasks_that_overlap_all_the_time_remember_no_change(mount):
    mount.put("d/")
    ino, most = mount.ino("d"), 0

    async def create(task):
        nonlocal most
        for n in range(30):
            made = await mount.fs.mkdir(ino, f"{task}-{n}".encode())
            mount.held.append(made.ino)
            most = max(most, used(mount, MemoryKind.CHANGES))

    async def all_at_once():
        async with asyncio.TaskGroup() as group:
            for task in range(64):
                group.create_task(create(task))

    mount.run(all_at_once())
    assert most == 0
    assert len(mount.ls("d")) == 64 * 30


@pytest.mark.parametrize("changes", [500, 5000])
def test_a_page_that_takes_too_many_changes_is_asked_for_again(mount, changes):
    """Nothing is lost: what was made since then is there, and what was removed is not."""
    account = mount.fs._context.memory.account(MemoryKind.CHANGES)
    account.limit_bytes = 500_000
    for n in range(3):
        mount.put(f"d/old-{n}")
    directory = mount.fs._tree.directory(mount.fs._inodes.get(mount.ino("d")))
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    held = Held(mount.store, "LIST", after=True)
    before = mount.store.requests["LIST"]
    reading = mount.start(mount.entries(fh))
    mount.settle()
    mount.store.delete_now("d/old-1")
    directory.note("old-1", Special.ABSENT)
    for n in range(changes):
        directory.note(f"gone-{n}", Special.ABSENT)
        assert account.used_bytes <= account.limit_bytes
    held.let_go()
    assert mount.wait(reading) == ["old-0", "old-2"]
    assert mount.store.requests["LIST"] - before == (1 if changes < 5000 else 2)
    mount.fs.releasedir(fh)


@pytest.mark.parametrize("changes", [10_000, 100_000])
def test_very_many_changes_are_merged_in_short_steps(mounts, monkeypatch, changes):
    """One name of ten was made while the LIST took, the others were removed."""
    mount = mounts(records_bytes=1 << 30)
    mount.put("d/old")
    directory = mount.fs._tree.directory(mount.fs._inodes.get(mount.ino("d")))
    fh = mount.run(mount.fs.opendir(mount.ino("d")))
    held = Held(mount.store, "LIST", after=True)
    steps, add = [0], Relevant.add

    def counted(relevant, *change):
        steps[-1] += 1
        add(relevant, *change)

    async def turns():
        while not reading.done():
            steps.append(0)
            await asyncio.sleep(0)

    monkeypatch.setattr(Relevant, "add", counted)
    reading = mount.start(mount.entries(fh))
    mount.settle()
    made = [name(n) for n in range(0, changes, 10)]
    for n in range(changes):
        directory.note(name(n), Special.ABSENT if n % 10 else Special.DIRECTORY)
    for one in made:
        mount.store.put_now(f"d/{one}/")
    held.let_go()
    mount.run(turns())
    assert mount.wait(reading) == [*made, "old"]
    assert sum(steps) == changes
    assert max(steps) <= STEP
    assert used(mount, MemoryKind.CHANGES) == 0
    mount.fs.releasedir(fh)


def test_a_change_counts_what_it_takes(mount):
    account = mount.fs._context.memory.account(MemoryKind.CHANGES)
    changes = Changes(account)
    names = [f"a-name-{n:08}" for n in range(7000)]
    infos = [INFO._replace(key=f"d/{n}", etag=f'"{i:032x}"') for i, n in enumerate(names)]
    tracemalloc.start()
    with changes.observe_page():
        for one, info in zip(names, infos, strict=True):
            changes.note(f"{one}+", info._replace(etag=f"{info.etag}x"))
        held, _ = tracemalloc.get_traced_memory()
        assert 0.75 * held < account.used_bytes < 1.3 * held, held / len(names)
    tracemalloc.stop()
    assert account.used_bytes == 0


@pytest.mark.parametrize("names", [500, 4500])
def test_names_that_only_this_mount_has_are_listed_in_pages(mounts, names):
    mount = mounts(dir_markers=False)
    mount.put("d/")
    directory = mount.fs._tree.directory(mount.fs._inodes.get(mount.ino("d")))
    ino = mount.ino("d")
    for n in range(names):
        made = mount.run(mount.fs.mkdir(ino, name(n).encode()))
        mount.held.append(made.ino)
    fh = mount.run(mount.fs.opendir(ino))
    with mount.requests(LIST=1 + names // 4097):
        assert mount.run(mount.entries(fh)) == [name(n) for n in range(names)]
    pages = listings(mount)[0]._pages
    assert max(len(p) for p in pages) <= 4096
    assert len(directory._local_order) == names
    mount.fs.releasedir(fh)


def test_a_page_that_local_names_make_too_long_loses_no_name_that_is_shown_behind_it():
    """`x` is listed first, and shown at the place of `x/`."""
    objects = [INFO._replace(key=f"d/{name}") for name in ("x", "x-0", "x-9")]
    answer = ListPage(objects=objects, prefixes=[], next_token="d/x-9")
    first = Merge("d/", "", {}, has_links=False)
    first.take(answer, {})
    first.add_local([f"x-1{n}" for n in range(4)])
    assert first.cut(3)
    assert [name for name, _, _ in first.names] == ["x-0", "x-10", "x-11"]
    second = Merge("d/", first.low, first.pending, has_links=False)
    second.take(answer, {})
    second.take(ListPage(objects=[], prefixes=[], next_token=None), {})
    assert [name for name, _, _ in second.names] == ["x-9", "x"]
