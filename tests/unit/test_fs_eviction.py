"""More names than their share of memory, over kernels that forget at once, late or never.

What it costs is counted in calls of functions, never in time.
"""

import asyncio
import stat
import sys
from contextlib import contextmanager
from functools import partial

import pytest

from csi_s3.errors import OutOfMemoryError
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.names import eviction, idle, inodes, tree
from csi_s3.fs.names.eviction import BATCH
from csi_s3.fs.names.inodes import ROOT
from tests.model.forgetting import Drops, NameCache
from tests.unit.fs_mount import WITHIN_S, mount, mounts, paged

__all__ = ["mount", "mounts"]

LIMIT = 40
SLACK = LIMIT // 4
FILE_BYTES = 720  # as it is counted here: names of 5 to 9 characters
POOL_BYTES = 2 * LIMIT * FILE_BYTES  # the kernel is asked above half of it


@pytest.fixture
def small(mounts):
    """Make a mount whose inodes may be LIMIT before the kernel is asked, and its kernel."""

    def make(drops: Drops, names: int = 0, *, room_within_s: float = 0.001, **options):
        options = {"records_bytes": POOL_BYTES, **options}
        mount = mounts(room_within_s=room_within_s, **options)
        for n in range(names):
            mount.store.put_now(f"{n:05}")
        mount.time.now_s += 2
        return mount, NameCache(mount, drops)

    return make


def used(mount) -> int:
    return mount.fs.usage().memory_bytes["inodes"]


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


def refused(calls) -> int:
    """How many of the calls were refused because there was no memory."""
    n = 0
    for call in calls:
        try:
            call()
        except OutOfMemoryError:
            n += 1
    return n


def ways():
    """Each makes n names known, and returns how many were refused."""

    def list_(mount, n):
        assert len(mount.ls()) == n
        return 0

    def look_up(mount, n):
        return refused(partial(mount.lookup, f"{i:05}") for i in range(n))

    def create(mount, n):
        def one(i):
            mount.close_file(mount.create(f"new{i:05}"))

        return refused(partial(one, i) for i in range(n))

    def make_links(mount, n):
        def one(i):
            made = mount.run(mount.fs.links.make(ROOT, b"link%05d" % i, b"target"))
            mount.held.append(made.ino)

        return refused(partial(one, i) for i in range(n))

    def make_directories(mount, n):
        return refused(partial(mount.mkdir, f"dir{i:05}") for i in range(n))

    return [list_, look_up, create, make_links, make_directories]


WAYS = pytest.mark.parametrize("way", ways(), ids=lambda way: way.__name__)


@WAYS
def test_each_name_costs_the_same_and_is_asked_for_once(small, way):
    cost = {}
    for n in (3 * LIMIT, 30 * LIMIT):
        mount, kernel = small(Drops.AT_ONCE, n)
        with counted() as steps:
            assert way(mount, n) == 0
            mount.settle()
        cost[n] = steps.n
        assert kernel.longest <= BATCH
        assert set(kernel.asked.values()) == {1}
        assert LIMIT * 0.7 < mount.fs.usage().inodes_limit < LIMIT * 2.5
        assert used(mount) <= POOL_BYTES * 0.7
        assert mount.fs.usage().inodes_asked == 0
    assert cost[30 * LIMIT] < 15 * cost[3 * LIMIT], "the share that stays within the limit is free"


@WAYS
@pytest.mark.parametrize("drops", Drops)
def test_the_table_never_takes_more_memory_than_its_bound(small, way, drops):
    """What the kernel cannot drop in time is refused; a listing shows all names in any case."""
    for n in (3 * LIMIT, 30 * LIMIT):
        mount, kernel = small(
            drops, n, room_within_s=WITHIN_S if drops is Drops.SOON else 0.001, allow_delete=False
        )
        refusals = way(mount, n)
        mount.settle()
        assert kernel.most_bytes <= POOL_BYTES
        assert used(mount) <= POOL_BYTES
        if drops in (Drops.AT_ONCE, Drops.SOON):
            assert refusals == 0
        elif way.__name__ != "list_" and n > 3 * LIMIT:
            assert refusals >= n - 8 * LIMIT
            before = dict(mount.store.requests)
            with pytest.raises(OutOfMemoryError):
                mount.mkdir("one-more")
            assert mount.store.requests["PUT"] == before.get("PUT", 0), "refused before"
            kernel.catch_up()
            if drops is Drops.LATE:
                mount.mkdir("one-more")


def test_at_the_bound_a_file_can_be_removed_and_a_known_one_used(small):
    """Promise: ENOMEM: the memory for files and directories in use is taken (some 45,000 with a
    `memory-target` of 148 MiB), and the kernel drops none within 5 seconds. Nothing was changed;
    names are still listed, and files that are known can be used.
    """
    mount, kernel = small(Drops.NEVER, 30 * LIMIT)
    assert refused(partial(mount.lookup, f"{i:05}") for i in range(30 * LIMIT))
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
    known = 30 * LIMIT - refused(partial(mount.lookup, f"{i:05}") for i in range(30 * LIMIT))
    mount.fs._tree.eviction._wait_within_s = WITHIN_S
    waiting = [mount.start(mount.fs.lookup(ROOT, b"%05d" % i)) for i in range(known, known + LIMIT)]
    mount.settle()
    assert not any(task.done() for task in waiting)
    while not all(task.done() for task in waiting):
        kernel.catch_up()
        mount.run(asyncio.sleep(0.01))
    assert used(mount) <= POOL_BYTES
    for task in waiting:
        mount.held.append(task.result().ino)


def test_what_the_kernel_had_in_use_is_asked_for_again_while_someone_waits(small):
    mount, kernel = small(Drops.NEVER, 30 * LIMIT, room_within_s=WITHIN_S)
    for i in range(LIMIT):
        mount.lookup(f"{i:05}")
    kernel.drops = Drops.AT_ONCE
    assert refused(partial(mount.lookup, f"{i:05}") for i in range(30 * LIMIT)) == 0


def test_what_other_records_hold_is_not_left_to_names(small):
    mount, kernel = small(Drops.AT_ONCE, 30 * LIMIT)
    handles = mount.fs._context.memory.account(MemoryKind.HANDLES)
    handles.charge(POOL_BYTES // 2, "a test")
    for i in range(30 * LIMIT):
        mount.lookup(f"{i:05}")
    mount.settle()
    assert used(mount) <= POOL_BYTES * 0.4
    assert kernel.most_bytes <= POOL_BYTES // 2
    handles.add(-POOL_BYTES // 2)


@pytest.mark.parametrize("drops", Drops)
def test_directories_that_nothing_uses_are_asked_for_as_files_are(small, drops):
    mount, kernel = small(drops, room_within_s=WITHIN_S if drops is Drops.SOON else 0.001)
    n = 10 * LIMIT
    for i in range(n):
        mount.store.put_now(f"tree/{i:05}/file")
    mount.time.now_s += 2

    def visit(i):
        assert mount.ls(f"tree/{i:05}") == ["file"]

    refusals = refused(partial(visit, i) for i in range(n))
    assert kernel.most_bytes <= POOL_BYTES
    assert (refusals == 0) == (drops in (Drops.AT_ONCE, Drops.SOON))
    assert {b"file"} < {name.name for name in kernel.asked}


def test_a_directory_in_use_is_not_asked_for(small):
    mount, kernel = small(Drops.AT_ONCE, 3 * LIMIT, dir_markers=False)
    for path in ("open/x/", "above/x/file", "kept/x/file", "writing/x/file", "idle/x/file"):
        mount.put(path)
    fh = mount.run(mount.fs.opendir(mount.ino("open/x")))
    held = mount.open("above/x/file")
    mount.unlink("kept/x/file")
    written = mount.create("writing/x/new")
    mount.lookup("idle/x")
    made = mount.mkdir("made")
    for _ in range(2):
        for i in range(3 * LIMIT):
            mount.lookup(f"{i:05}")
    mount.settle()
    asked = {name.ino for name in kernel.asked}
    for path in ("open", "open/x", "above", "above/x", "kept/x", "writing/x", "made"):
        assert mount.ino(path) not in asked, path
    assert made.ino not in asked
    assert b"idle" in {name.name for name in kernel.asked}
    mount.fs.releasedir(fh)
    mount.release(held)
    mount.close_file(written)


def test_an_older_kernel_is_not_asked_for_directories(small):
    mount, kernel = small(Drops.AT_ONCE, LIMIT)
    mount.kernel.can_drop_directories = False
    assert refused(partial(mount.mkdir, f"d{n}") for n in range(10 * LIMIT))
    assert kernel.most_bytes <= POOL_BYTES
    assert all(name.name.isdigit() for name in kernel.asked), "no directory"


def test_a_name_that_is_used_again_is_asked_for_again(small):
    mount, kernel = small(Drops.NEVER, 3 * LIMIT)
    mount.ls()
    mount.settle()
    first = set(kernel.asked)
    again = min(first)
    for n in range(LIMIT):
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
    mount, kernel = small(Drops.AT_ONCE, 3 * LIMIT)
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
    mount.kernel.can_drop_directories = False  # one that locks directories is an older one
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
    assert mount.fs.usage().inodes <= LIMIT + 2 * SLACK
    mount.fs.releasedir(fh)


def test_a_directory_that_is_read_when_the_kernel_comes_to_it_is_left_for_later(small):
    mount, kernel = small(Drops.AT_ONCE, 3 * LIMIT, room_within_s=WITHIN_S)
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
    assert len(without) > 3 * LIMIT
    assert without == found[-len(without) :]
    assert mount.fs.usage().inodes == len(found) - len(without) + 1
    assert kernel.most_bytes <= POOL_BYTES * 0.85
    assert all(0 < e.attributes.ino < 1 << 32 for e in without)
    kinds = {e.name: stat.S_IFMT(e.attributes.mode) for e in without}
    assert kinds[b"x-directory"] == stat.S_IFDIR
    assert kinds[b"x-link"] == stat.S_IFLNK
    assert kinds[b"%05d" % (5 * LIMIT - 1)] == stat.S_IFREG
    assert [e.attributes.ino for e in mount.run(read(mount, fh))[-9:]] == [
        e.attributes.ino for e in found[-9:]
    ]
    mount.fs.releasedir(fh)


def test_where_each_name_must_bring_an_inode_the_listing_is_refused_at_the_bound(small):
    mount, kernel = small(Drops.NEVER, 5 * LIMIT)
    fh = mount.run(mount.fs.opendir(ROOT))
    with pytest.raises(OutOfMemoryError):
        mount.run(read(mount, fh, needs_inodes=True))
    assert kernel.most_bytes <= POOL_BYTES
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


def low(mount) -> int:
    return int(mount.fs._tree.eviction._low_bytes)


def give_back(mount, unused_s: float = 20.0) -> None:
    mount.run(mount.fs.give_back(unused_s=unused_s))
    mount.settle()


@pytest.mark.parametrize("drops", [Drops.AT_ONCE, Drops.SOON, Drops.NEVER])
def test_of_a_volume_that_nothing_uses_few_names_stay(small, drops):
    """Promise: An inode number stays while the kernel holds the inode. On a volume with little use
    it is asked to drop names that were not read or written, all but some 1,400 of them; they have
    other numbers afterwards.
    """
    cost = {}
    for n in (LIMIT, 10 * LIMIT):
        mount, kernel = small(drops, n, records_bytes=20 * POOL_BYTES)
        for i in range(n):
            mount.lookup(f"{i:05}")
        assert not kernel.asked
        mount.fs._tree.eviction.low_bytes = LIMIT // 4 * FILE_BYTES
        with counted() as steps:
            give_back(mount)
            give_back(mount)
        cost[n] = steps.n
        mount.run(asyncio.sleep(0.02))
        stay = used(mount) if drops is not Drops.NEVER else used(mount) - pending(mount)
        assert low(mount) * 0.8 < stay <= low(mount)
        assert set(kernel.asked.values()) == {1}
        assert {name.name for name in kernel.asked} == {
            b"%05d" % i for i in range(len(kernel.asked))
        }
        assert kernel.longest <= BATCH
    assert cost[10 * LIMIT] < 15 * cost[LIMIT]


def pending(mount) -> int:
    return mount.fs._inodes.pending_bytes


def test_files_with_pages_or_set_times_and_what_is_open_stay_however_long_nothing_uses_them(small):
    mount, kernel = small(Drops.AT_ONCE, 10 * LIMIT, records_bytes=20 * POOL_BYTES)
    mount.fs._tree.eviction.low_bytes = 0
    held = mount.open("00000")
    for i in range(1, LIMIT):
        mount.cat(f"{i:05}")
    mount.run(mount.fs.setattr(mount.lookup(f"{LIMIT:05}").ino, mtime_ns=1))
    for i in range(LIMIT + 1, 10 * LIMIT):
        mount.lookup(f"{i:05}")
    give_back(mount)
    assert {name.name for name in kernel.asked} == {
        b"%05d" % i for i in range(LIMIT + 1, 10 * LIMIT)
    }
    give_back(mount)
    with counted() as steps:
        give_back(mount)
    assert steps.n < LIMIT, "they are not looked at again"
    mount.release(held)


def test_directories_that_nothing_uses_go_after_what_is_in_them(small):
    mount, _ = small(Drops.AT_ONCE, records_bytes=20 * POOL_BYTES)
    mount.fs._tree.eviction.low_bytes = 0
    for i in range(LIMIT):
        mount.store.put_now(f"tree/{i:05}/file")
    mount.time.now_s += 2
    for i in range(LIMIT):
        assert mount.ls(f"tree/{i:05}") == ["file"]
    for _ in range(4):
        give_back(mount)
    assert mount.fs.usage().inodes == 1
    assert mount.fs.usage().memory_bytes["listings"] > 0, "until metadata-ttl"
    mount.time.now_s += 2
    give_back(mount)
    assert mount.fs._context.memory.account(MemoryKind.LISTINGS).used_bytes == 0


def test_an_older_kernel_keeps_directories_that_nothing_uses(small):
    mount, _ = small(Drops.AT_ONCE, records_bytes=20 * POOL_BYTES)
    mount.kernel.can_drop_directories = False
    mount.fs._tree.eviction.low_bytes = 0
    for i in range(LIMIT):
        mount.store.put_now(f"{i:05}/file")
    mount.time.now_s += 2
    for i in range(LIMIT):
        assert mount.ls(f"{i:05}") == ["file"]
    give_back(mount)
    assert mount.fs.usage().inodes == LIMIT + 1


def test_what_the_kernel_may_answer_for_metadata_ttl_stays(small):
    mount, kernel = small(
        Drops.AT_ONCE,
        LIMIT,
        records_bytes=20 * POOL_BYTES,
        metadata_ttl_s=60.0,
        metadata_ttl_by_hand=True,
    )
    mount.fs._tree.eviction.low_bytes = 0
    mount.ls()
    give_back(mount, 60.0)
    assert not kernel.asked
    give_back(mount, 70.0)
    assert len(kernel.asked) == LIMIT


def test_a_volume_that_is_used_meanwhile_has_room(small):
    """A pass over names that stay ends, and does not keep new ones out."""
    mount, kernel = small(Drops.LATE, 10 * LIMIT, room_within_s=WITHIN_S)
    mount.fs._tree.eviction.low_bytes = 0
    for i in range(LIMIT // 2):
        mount.cat(f"{i:05}")
    task = mount.start(mount.fs.give_back(unused_s=20.0))
    kernel.drops = Drops.SOON
    for i in range(10 * LIMIT):
        mount.lookup(f"{i:05}")
    mount.wait(task)
    assert used(mount) <= POOL_BYTES


def test_the_tables_take_no_more_than_those_need_that_are_left(small):
    mount, _ = small(Drops.AT_ONCE, records_bytes=100 * POOL_BYTES)
    mount.fs._tree.eviction.low_bytes = LIMIT * FILE_BYTES
    for i in range(50 * LIMIT):
        mount.store.put_now(f"d/{i:05}")
    mount.time.now_s += 2
    mount.ls("d")
    inodes = mount.fs._inodes
    give_back(mount)
    assert LIMIT / 2 < len(inodes) <= LIMIT + 2
    for table in (inodes._by_number, inodes.get(mount.ino("d")).runtime.names):
        assert LIMIT / 2 < len(table) <= LIMIT + 2
        assert sys.getsizeof(table) < 120 * LIMIT
