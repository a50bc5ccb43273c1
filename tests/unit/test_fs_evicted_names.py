"""Which names the kernel is asked to drop: what nothing uses, the oldest first."""

import asyncio
from functools import partial

import pytest

from tests.model.forgetting import Drops
from tests.unit.eviction_case import (
    BOUND_BYTES,
    FILE_BYTES,
    LIMIT,
    LOCKED_BYTES,
    LOOK_UP_BYTES,
    MADE_BYTES,
    MARGIN_BYTES,
    SLACK,
    SOFT_BYTES,
    refused,
    small,
    used,
)
from tests.unit.fs_mount import WITHIN_S, mount, mounts, paged

__all__ = ["mount", "mounts", "small"]


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
    assert kernel.most_bytes <= BOUND_BYTES
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
    assert kernel.most_bytes <= BOUND_BYTES
    assert all(name.name.isdigit() for name in kernel.asked), "no directory"


def test_a_look_up_does_not_wait_for_names_whose_directory_it_keeps_locked(small):
    """Before Linux 6.18 they go once it is answered: it may have more memory, up to a bound."""
    mount, kernel = small(Drops.LATE, 30 * LIMIT, room_within_s=1000 * WITHIN_S)
    mount.kernel.can_drop_directories = False
    assert refused(partial(mount.lookup, f"{n:05}") for n in range(30 * LIMIT)) > 0, "at once"
    assert BOUND_BYTES < kernel.most_bytes <= BOUND_BYTES + LOCKED_BYTES
    assert mount.cat("00000") == b""
    kernel.catch_up()
    mount.lookup(f"{30 * LIMIT - 1:05}")


@pytest.mark.parametrize("is_made", [False, True])
def test_a_request_that_waits_gets_the_memory_of_names_in_other_directories(small, is_made):
    """Not in its own: the kernel would wait for that directory's lock, and it for the kernel."""
    mount, kernel = small(Drops.NEVER, room_within_s=WITHIN_S)
    mount.kernel.can_drop_directories = False
    for n in range(10 * LIMIT):
        mount.store.put_now(f"{'ab'[n % 2]}/{n:05}")
    mount.time.now_s += 2
    n, b, ask, dropped = 0, mount.ino("b"), kernel.drop_names, []
    while used(mount) < MADE_BYTES - 2 * LOOK_UP_BYTES:
        mount.lookup(f"{'ab'[n % 2]}/{n:05}")
        n += 1
    mount.settle()

    async def noted(names, *, is_read):
        dropped.append({name.parent for name in names if not is_read(name.parent)})
        return await ask(names, is_read=is_read)

    mount.kernel.drop_names, kernel.drops = noted, Drops.AT_ONCE
    for at in range(n + n % 2, n + SLACK, 2):
        mount.mkdir(f"a/new-{at}") if is_made else mount.lookup(f"a/{at:05}")
        if any(dropped):
            break
    assert next(filter(None, dropped)) == {b}


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
    assert mount.fs.usage().inodes_asked == SLACK, "those of b: in use when they were asked for"
    one = FILE_BYTES + len("a/")
    soft = SOFT_BYTES + SLACK * one // 2  # half of them is taken to stay
    assert soft - one < used(mount) <= soft + 2 * MARGIN_BYTES
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
