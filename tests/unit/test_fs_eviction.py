"""More names than their share of memory, over kernels that forget at once, late or never.

What it costs is counted in calls of functions, never in time.
"""

import asyncio
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from sys import getsizeof

import pytest

from csi_s3.errors import OutOfMemoryError
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.names.eviction import BATCH
from csi_s3.fs.names.inode import NEW_INODE_BYTES, RECORD_BYTES, RUNTIME_BYTES
from csi_s3.fs.names.inodes import ROOT
from csi_s3.fs.names.recent_keys import KEY_BYTES
from tests.model.forgetting import Drops
from tests.name_bounds import file_bytes
from tests.unit.costs import counted_calls
from tests.unit.eviction_case import (
    BOUND_BYTES,
    FILE_BYTES,
    KNOWN,
    LIMIT,
    LISTED_BYTES,
    LOOK_UP_BYTES,
    MADE_BYTES,
    MARGIN_BYTES,
    POOL_BYTES,
    ROOT_BYTES,
    SOFT_BYTES,
    TABLE,
    look_up,
    refused,
    small,
    used,
)
from tests.unit.fs_mount import WITHIN_S, mount, mounts

__all__ = ["mount", "mounts", "small"]

MADE_HERE = POOL_BYTES // 32 // KEY_BYTES  # so many of them at least are remembered
TARGET = b"target"


@dataclass(frozen=True)
class Way:
    """One way in which names become known.

    make: makes n of them known, and returns how many were refused. bytes_of: what n of them take,
    with the root. example: one of the names.
    """

    make: Callable
    bytes_of: Callable[[int], int]
    example: str
    has_last_part: bool = False  # of the bound, which is left to look-ups

    @property
    def known(self) -> int:
        """How many are let in, if the kernel drops none."""
        needed = NEW_INODE_BYTES + 2 * getsizeof(self.example) + getsizeof("")
        free = (BOUND_BYTES if self.has_last_part else MADE_BYTES) - needed
        return next(n for n in count() if self.bytes_of(n) > free)


def list_names(mount, n):
    assert len(mount.ls()) == n
    return 0


def create(mount, n):
    def one(i):
        mount.close_file(mount.create(f"new{i:05}"))

    return refused(partial(one, i) for i in range(n))


def make_links(mount, n):
    def one(i):
        made = mount.run(mount.fs.links.make(ROOT, b"link%05d" % i, TARGET))
        mount.held.append(made.ino)

    return refused(partial(one, i) for i in range(n))


def make_directories(mount, n):
    return refused(partial(mount.mkdir, f"dir{i:05}") for i in range(n))


def bytes_of_files(example, n):
    return ROOT_BYTES + n * file_bytes(example)


def bytes_of_links(n):
    """Targets are kept as long as listings would bring inodes."""
    bare = file_bytes("link00000") + len(".rclonelink")
    target, total = RUNTIME_BYTES + getsizeof(TARGET), ROOT_BYTES
    for _ in range(n):
        total += bare
        total += target if total + target <= LISTED_BYTES else 0
    return total


def bytes_of_directories(n):
    remembered = n if n < MADE_HERE else MADE_HERE + n % MADE_HERE
    one = RECORD_BYTES + getsizeof("dir00000")
    return ROOT_BYTES + n * one + remembered * KEY_BYTES


WAYS = {
    "list": Way(list_names, partial(bytes_of_files, "00000"), "00000"),
    "look up": Way(look_up, partial(bytes_of_files, "00000"), "00000", has_last_part=True),
    "create": Way(create, partial(bytes_of_files, "new00000"), "new00000"),
    "make links": Way(make_links, bytes_of_links, "link00000"),
    "make directories": Way(make_directories, bytes_of_directories, "dir00000"),
}
EACH_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@EACH_WAY
def test_each_name_costs_the_same_and_is_asked_for_once(small, way):
    cost = {}
    largest = way.bytes_of(1) - ROOT_BYTES
    for n in (3 * LIMIT, 10 * LIMIT, 30 * LIMIT):
        mount, kernel = small(Drops.AT_ONCE, n)
        with counted_calls(TABLE) as calls:
            assert way.make(mount, n) == 0
            mount.settle()
        cost[n] = calls.n
        assert kernel.longest <= BATCH
        assert set(kernel.asked.values()) == {1}
        assert SOFT_BYTES - largest < used(mount) <= SOFT_BYTES + 2 * MARGIN_BYTES
        usage = mount.fs.usage()
        assert usage.inodes_limit == SOFT_BYTES * usage.inodes // used(mount)
        assert usage.inodes_asked == 0
    first, then = ((cost[m] - cost[n]) / (m - n) for n, m in pairwise(cost))
    assert then < 1.1 * first, "for each name above the limit"


@EACH_WAY
@pytest.mark.parametrize("drops", Drops)
def test_the_table_never_takes_more_memory_than_its_bound(small, way, drops):
    """What the kernel cannot drop in time is refused; a listing shows all names in any case."""
    for n in (3 * LIMIT, 30 * LIMIT):
        mount, kernel = small(
            drops, n, room_within_s=WITHIN_S if drops is Drops.SOON else 0.001, allow_delete=False
        )
        refusals = way.make(mount, n)
        mount.settle()
        assert max(kernel.most_bytes, used(mount)) <= BOUND_BYTES
        if drops in (Drops.AT_ONCE, Drops.SOON):
            assert refusals == 0
        elif way.make is list_names:
            assert refusals == 0
            assert LISTED_BYTES < kernel.most_bytes <= LISTED_BYTES + FILE_BYTES
        else:
            assert refusals == n - way.known
            before = dict(mount.store.requests)
            with pytest.raises(OutOfMemoryError):
                mount.mkdir("one-more")
            assert mount.store.requests["PUT"] == before.get("PUT", 0), "refused before"
            kernel.catch_up()
            if drops is Drops.LATE:
                mount.mkdir("one-more")


def test_at_the_bound_a_file_can_be_removed_and_a_known_one_used(small):
    """Promise: ENOMEM: the memory for files and directories in use is taken (some 45,000 with a
    `memory-target` of 148 MiB), and the kernel drops none within 5 seconds: for a look-up, create,
    mkdir, symlink or opendir. Nothing was changed; names are still listed, and files that are known
    can be used.
    """
    mount, kernel = small(Drops.NEVER, 30 * LIMIT)
    assert look_up(mount, 30 * LIMIT) == 30 * LIMIT - KNOWN
    with pytest.raises(OutOfMemoryError):
        mount.create("new")
    assert mount.cat("00000") == b""
    mount.fs.releasedir(mount.run(mount.fs.opendir(ROOT)))
    for i in range(30 * LIMIT):
        ino = mount.lookup(f"{i:05}").ino
        mount.unlink(f"{i:05}")
        kernel.forget(ino)
    assert mount.ls() == []


def test_those_that_wait_have_a_deadline_each_and_go_on_when_the_kernel_forgets(small):
    mount, kernel = small(Drops.LATE, 30 * LIMIT)
    assert look_up(mount, 30 * LIMIT) == 30 * LIMIT - KNOWN
    mount.fs._tree.eviction._wait_within_s = WITHIN_S
    waiting = [mount.start(mount.fs.lookup(ROOT, b"%05d" % i)) for i in range(KNOWN, KNOWN + LIMIT)]
    mount.settle()
    assert not any(task.done() for task in waiting)
    while not all(task.done() for task in waiting):
        kernel.catch_up()
        mount.run(asyncio.sleep(0.01))
    assert used(mount) <= BOUND_BYTES
    for task in waiting:
        mount.held.append(task.result().ino)


def test_what_the_kernel_had_in_use_is_asked_for_again_while_someone_waits(small):
    mount, kernel = small(Drops.NEVER, 30 * LIMIT, room_within_s=WITHIN_S)
    for i in range(LIMIT):
        mount.lookup(f"{i:05}")
    kernel.drops = Drops.AT_ONCE
    assert look_up(mount, 30 * LIMIT) == 0


def test_the_bound_of_names_that_metrics_show_is_what_they_may_take(small):
    mount, _ = small(Drops.NEVER, 30 * LIMIT)
    look_up(mount, 30 * LIMIT)
    bound = mount.fs.usage().memory_limit_bytes["inodes"]
    assert bound - LOOK_UP_BYTES < used(mount) <= bound == BOUND_BYTES


def test_what_other_records_hold_is_not_left_to_names(small):
    mount, kernel = small(Drops.AT_ONCE, 30 * LIMIT)
    handles = mount.fs._context.memory.account(MemoryKind.HANDLES)
    handles.charge(POOL_BYTES // 2, "a test")
    for i in range(30 * LIMIT):
        mount.lookup(f"{i:05}")
    mount.settle()
    left = POOL_BYTES // 2
    soft = left * 5 // 8
    assert soft - FILE_BYTES < used(mount) <= soft + 2 * (left >> 7)
    assert kernel.most_bytes <= left
    handles.add(-POOL_BYTES // 2)


async def read(mount, fh: int, **how) -> list:
    """The entries, each of whose inodes the kernel takes."""
    found = []
    async for entry in mount.fs.readdir(fh, 0, **how):
        if entry.has_inode:
            mount.fs.remember(entry.attributes.ino)
            mount.held.append(entry.attributes.ino)
        found.append(entry)
    return found


def test_names_come_without_inodes_while_the_kernel_does_not_forget(small):
    """Promise: Of a directory with more names than fit the mount's memory, readdir may show other
    inode numbers (`d_ino`) than stat does: only `find -inum` and `ls -i` look at them.
    """
    mount, kernel = small(Drops.NEVER, 5 * LIMIT)
    mount.put("x-directory/file")
    mount.put("x-link.rclonelink", b"target")
    fh = mount.run(mount.fs.opendir(ROOT))
    found = mount.run(read(mount, fh))
    assert len(found) == 5 * LIMIT + 2
    without = [entry for entry in found if not entry.has_inode]
    with_inodes = 1 + (LISTED_BYTES - ROOT_BYTES) // FILE_BYTES
    assert len(without) == len(found) - with_inodes
    assert without == found[-len(without) :]
    assert mount.fs.usage().inodes == len(found) - len(without) + 1
    assert LISTED_BYTES < kernel.most_bytes <= LISTED_BYTES + FILE_BYTES
    assert all(0 < e.attributes.ino < 1 << 32 for e in without)
    kinds = {e.name: stat.S_IFMT(e.attributes.mode) for e in without}
    assert kinds[b"x-directory"] == stat.S_IFDIR
    assert kinds[b"x-link"] == stat.S_IFLNK
    assert kinds[b"%05d" % (5 * LIMIT - 1)] == stat.S_IFREG
    assert [e.attributes.ino for e in mount.run(read(mount, fh))[-9:]] == [
        e.attributes.ino for e in found[-9:]
    ]
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
