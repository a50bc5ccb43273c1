"""More names than their share of memory, over kernels that forget at once, late or never.

What it costs is counted in calls of functions, never in time.
"""

import asyncio
import sys
from contextlib import contextmanager

import pytest

from csi_s3.fs.names import eviction, idle, inodes, tree
from csi_s3.fs.names.eviction import BATCH
from csi_s3.fs.names.inodes import ROOT
from csi_s3.fs.names.tree import INODE_BYTES, INODES_SHARE
from tests.model.forgetting import Drops, NameCache
from tests.unit.fs_mount import mount, mounts, paged

__all__ = ["mount", "mounts"]

LIMIT = 40
SLACK = LIMIT // 4


@pytest.fixture
def small(mounts):
    """Make a mount whose inodes may be LIMIT, and its kernel."""

    def make(drops: Drops, names: int = 0, **options):
        mount = mounts(memory_bytes=LIMIT * INODE_BYTES * INODES_SHARE, **options)
        for n in range(names):
            mount.store.put_now(f"{n:05}")
        mount.time.now_s += 2
        return mount, NameCache(mount, drops)

    return make


class Steps:
    n = 0


@contextmanager
def counted():
    """Calls of the functions (and steps of the generators) that keep the table."""
    files, steps = {m.__file__ for m in (eviction, idle, inodes, tree)}, Steps()

    def count(frame, event, _arg):
        steps.n += event == "call" and frame.f_code.co_filename in files

    sys.setprofile(count)
    try:
        yield steps
    finally:
        sys.setprofile(None)


def ways():
    def list_(mount, n):
        assert len(mount.ls()) == n

    def look_up(mount, n):
        for i in range(n):
            mount.lookup(f"{i:05}")

    def create(mount, n):
        for i in range(n):
            mount.close_file(mount.create(f"new{i:05}"))

    def make_links(mount, n):
        for i in range(n):
            made = mount.run(mount.fs.links.make(ROOT, b"link%05d" % i, b"target"))
            mount.held.append(made.ino)

    return [list_, look_up, create, make_links]


WAYS = pytest.mark.parametrize("way", ways(), ids=lambda way: way.__name__)


@WAYS
@pytest.mark.parametrize("drops", Drops)
def test_each_name_costs_the_same_and_is_asked_for_once(small, way, drops):
    cost = {}
    for n in (3 * LIMIT, 30 * LIMIT):
        mount, kernel = small(drops, n)
        with counted() as steps:
            way(mount, n)
            mount.settle()
        cost[n] = steps.n
        assert kernel.longest <= BATCH
        assert set(kernel.asked.values()) == {1}
        assert len(kernel.asked) >= n - LIMIT - SLACK
        assert mount.fs.usage().inodes_limit == LIMIT
        if drops is Drops.AT_ONCE:
            assert mount.fs.usage().inodes <= LIMIT + SLACK
            assert mount.fs.usage().inodes_asked == 0
        else:
            assert mount.fs.usage().inodes == n + 1
            assert mount.fs.usage().inodes_asked == len(kernel.asked)
        kernel.catch_up()
        if drops is Drops.LATE:
            assert mount.fs.usage().inodes <= LIMIT + SLACK
            assert mount.fs.usage().inodes_asked == 0
    assert cost[30 * LIMIT] < 15 * cost[3 * LIMIT], "the share that stays within the limit is free"


@WAYS
def test_the_table_keeps_to_its_limit_over_a_kernel_that_forgets_at_once(small, way):
    """But for the names of one listing that is read without an end, as only a test does."""
    for n in (3 * LIMIT, 30 * LIMIT):
        mount, kernel = small(Drops.AT_ONCE, n)
        way(mount, n)
        if way.__name__ != "list_":
            assert kernel.most <= LIMIT + SLACK


def test_directories_that_are_made_bring_files_to_be_asked_for(small):
    mount, kernel = small(Drops.AT_ONCE, LIMIT)
    for n in range(LIMIT):
        mount.lookup(f"{n:05}")
    for n in range(LIMIT):
        mount.mkdir(f"d{n}")
    mount.settle()
    assert len(kernel.asked) >= LIMIT - SLACK
    assert {name.parent for name in kernel.asked} == {ROOT}
    assert all(name.name.isdigit() for name in kernel.asked), "no directory"


def test_a_name_that_is_used_again_is_asked_for_again(small):
    mount, kernel = small(Drops.NEVER, 3 * LIMIT)
    mount.ls()
    mount.settle()
    first = set(kernel.asked)
    again = min(first)
    mount.lookup(again.name.decode())
    for n in range(3 * LIMIT):
        mount.lookup(f"{n:05}")
    mount.settle()
    assert kernel.asked[again] == 2
    assert max(kernel.asked.values()) == 2


def test_what_was_used_last_is_kept(small):
    mount, kernel = small(Drops.AT_ONCE, 3 * LIMIT)
    for n in range(3 * LIMIT):
        mount.lookup(f"{n:05}")
        mount.lookup("00000")
    mount.settle()
    assert all(name.name != b"00000" for name in kernel.asked)


def test_an_open_file_is_not_asked_for_until_it_is_closed(small):
    mount, kernel = small(Drops.NEVER, 3 * LIMIT)
    fh, written = mount.open("00000"), mount.create("written")
    mount.ls()
    mount.settle()
    assert not {b"00000", b"written"} & {name.name for name in kernel.asked}
    mount.release(fh)
    mount.close_file(written)
    for n in range(1, 3 * LIMIT):
        mount.lookup(f"{n:05}")
    mount.settle()
    assert {b"00000", b"written"} <= {name.name for name in kernel.asked}


def test_names_of_a_directory_whose_listing_waits_for_the_store_are_asked_for_afterwards(small):
    """The kernel has it locked; those of others do not wait for it."""
    mount, kernel = small(Drops.AT_ONCE)
    for n in range(2 * LIMIT):
        for directory in ("a", "b"):
            mount.store.put_now(f"{directory}/{n:05}")
    mount.time.now_s += 2
    a, b = mount.ino("a"), mount.ino("b")
    paged(mount.store, LIMIT)
    fh = mount.run(mount.fs.opendir(a))
    answered, waiting = asyncio.Event(), []

    async def hold(operation, key):
        if (operation, key) == ("LIST", "a/"):
            waiting.append(key)
            await answered.wait()

    mount.store.gate = hold
    reading = mount.start(mount.entries(fh))
    mount.settle()
    assert waiting

    def look_up(directory, count):
        for n in range(count):
            found = mount.run(mount.fs.lookup(directory, b"%05d" % n))
            mount.held.append(found.ino)

    look_up(a, LIMIT + SLACK)
    mount.settle()
    assert not kernel.asked
    look_up(b, SLACK)
    mount.settle()
    assert {name.parent for name in kernel.asked} == {b}
    answered.set()
    assert len(mount.wait(reading)) == 2 * LIMIT
    mount.settle()
    assert {name.parent for name in kernel.asked} == {a, b}
    assert mount.fs.usage().inodes <= LIMIT + SLACK
    mount.fs.releasedir(fh)


def test_a_directory_that_is_read_when_the_kernel_comes_to_it_is_left_for_later(small):
    mount, kernel = small(Drops.AT_ONCE, 3 * LIMIT)
    ask, held_back = kernel.drop_names, []

    async def too_late(names, *, is_read):
        if held_back:
            return await ask(names, is_read=is_read)
        held_back.extend(names)
        return names

    mount.kernel.drop_names = too_late
    for n in range(3 * LIMIT):
        mount.lookup(f"{n:05}")
    mount.settle()
    assert held_back
    assert set(held_back) <= set(kernel.asked)
    assert mount.fs.usage().inodes_asked == 0


def test_a_listing_is_read_in_short_answers_while_the_kernel_does_not_forget(small):
    mount, _ = small(Drops.NEVER, 3 * LIMIT)
    fh = mount.run(mount.fs.opendir(ROOT))
    more = []

    async def read():
        async for entry in mount.fs.readdir(fh, 0):
            more.append(mount.fs.remember(entry.attributes.ino))
            mount.held.append(entry.attributes.ino)

    mount.run(read())
    assert more == [True] * (LIMIT + SLACK - 1) + [False] * (2 * LIMIT - SLACK + 1)
    mount.fs.releasedir(fh)


def test_the_end_of_a_mount_does_not_wait_for_the_kernel(small):
    mount, _ = small(Drops.NEVER, 3 * LIMIT)

    async def blocked(names, *, is_read):
        await asyncio.Event().wait()

    mount.kernel.drop_names = blocked
    mount.ls()
    mount.settle()
    mount.end()


def test_the_table_is_empty_in_the_end(small):
    mount, kernel = small(Drops.LATE, 3 * LIMIT)
    mount.ls()
    mount.rename("00000", "moved")
    mount.unlink("00001")
    mount.settle()
    kernel.catch_up()
    mount.forget_all()
    usage = mount.fs.usage()
    assert (usage.inodes, usage.inodes_asked) == (1, 0)
    assert not mount.fs._inodes.idle._directories
    assert not mount.fs._inodes.idle._ready
