"""Look-ups, stats and listings: what they cost, how fresh they are, and that own changes win."""

import asyncio
import os
import stat

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    CredentialsError,
    NotFoundError,
    StoreUnavailableError,
)
from tests.unit.fs_mount import Held, fail, mount, mounts

__all__ = ["mount", "mounts"]


@pytest.mark.parametrize("key", ["f", "f/x", "f.rclonelink"])
def test_a_cold_name_costs_one_round_trip_whatever_it_is(mount, key):
    mount.put(key, b"x")
    asked = set()

    async def gate(operation, key):
        asked.add((operation, key))
        while len(asked) < 3:  # none is answered before all are asked
            await asyncio.sleep(0)

    mount.store.gate = gate
    with mount.requests(HEAD=2, LIST=1):
        mount.run(mount.fs.lookup(1, b"f"))
    assert asked == {("HEAD", "f"), ("HEAD", "f.rclonelink"), ("LIST", "f/")}


def test_a_look_up_of_a_directory_cancels_no_request(mount):
    """A cancelled request costs its connection, and a path has many directories."""
    mount.put("d/x")
    ended = []

    async def gate(operation, _key):
        if operation == "HEAD":
            for _ in range(5):
                await asyncio.sleep(0)
        ended.append(operation)

    mount.store.gate = gate
    assert stat.S_ISDIR(mount.run(mount.fs.lookup(1, b"d")).mode)
    assert sorted(ended) == ["HEAD", "HEAD", "LIST"]


@pytest.mark.parametrize("n", [0, 1, 999, 1000, 1001, 2500])
def test_ls_l_costs_its_list_requests_and_nothing_else(mount, n):
    """Promise: Attributes that came with a listing answer look-ups and stats while a handle of that
    directory is open and for `metadata-ttl` after its last close, so that `ls -l`, `find`, `du` and
    rsync cost LIST requests only."""
    for i in range(n):
        mount.store.put_now(f"d/{i:05}", b"x" * (i % 7))
    if n == 0:
        mount.store.put_now("d/")
    ino = mount.ino("d")
    pages = max(1, -(-n // 1000))
    with mount.requests(LIST=pages):
        fh = mount.run(mount.fs.opendir(ino))
        shown = mount.run(mount.entries(fh))
        assert len(shown) == n
        for name in shown[::50]:
            found = mount.run(mount.fs.lookup(ino, name.encode()))
            assert mount.run(mount.fs.getattr(found.ino)).size == int(name) % 7
        mount.fs.releasedir(fh)
        mount.time.now_s += 0.9
        for name in shown[:3]:
            mount.run(mount.fs.lookup(ino, name.encode()))
    mount.time.now_s += 0.2
    if n:
        with mount.requests(HEAD=1, LIST=1):
            mount.run(mount.fs.lookup(ino, b"00000"))


def test_a_stat_asks_again_each_time_the_kernel_asks(mount):
    """Promise: Results of look-up and stat are at most `metadata-ttl` old, 1 s by default."""
    mount.put("f", b"x")
    assert mount.lookup("f").ttl_s == 1.0
    mount.store.put_now("f", b"longer")
    assert mount.stat("f").size == 6


@pytest.mark.parametrize("ttl_s", [0.0, 60.0, float("inf")])
def test_the_metadata_ttl_is_the_options(mounts, ttl_s):
    mount = mounts(metadata_ttl_s=ttl_s)
    mount.put("f")
    assert mount.stat("f").ttl_s == ttl_s


def test_a_name_that_was_not_found_is_asked_for_again(mount):
    """Promise: Names that were not found are not cached, unless `negative-metadata-ttl` is set."""
    for _ in range(2):
        with mount.requests(HEAD=2, LIST=1), pytest.raises(NotFoundError):
            mount.lookup("f")
    mount.store.put_now("f", b"x")
    assert mount.lookup("f").size == 1


def test_a_directory_that_is_held_open_still_asks_for_names_it_did_not_list(mount):
    mount.put("f")
    fh = mount.run(mount.fs.opendir(1))
    assert mount.run(mount.entries(fh)) == ["f"]
    mount.store.put_now("g", b"new")
    assert mount.lookup("g").size == 3
    mount.fs.releasedir(fh)


# own changes and questions under way


@pytest.fixture
def listed_late(mount):
    """A LIST of the root that has been answered by S3, and whose answer is still on its way."""

    class Late:
        def __init__(self):
            for key in ("a", "b", "d/x"):
                mount.store.put_now(key, b"old")
            self.ino = mount.ino("b")
            self.fh = mount.run(mount.fs.opendir(1))
            held = Held(mount.store, "LIST", after=True)
            self.task = mount.start(mount.entries(self.fh))
            mount.settle()
            assert held.waiting == 1
            mount.store.after = Held(mount.store, "none", after=True)._stop
            self.held = held

        def names(self):
            self.held.let_go()
            shown = mount.wait(self.task)
            mount.fs.releasedir(self.fh)
            return shown

    return Late()


def test_a_list_under_way_cannot_bring_back_what_was_removed_here(mount, listed_late):
    mount.unlink("a")
    assert listed_late.names() == ["b", "d"]
    with pytest.raises(NotFoundError):
        mount.lookup("a")


def test_a_list_under_way_cannot_hide_what_was_made_here(mount, listed_late):
    mount.write_file("c", b"new")
    mount.mkdir("e")
    fh = mount.create("w")
    assert set(listed_late.names()) == {"a", "b", "c", "d", "e", "w"}
    assert mount.lookup("c").size == 3
    mount.close_file(fh)


def test_a_list_under_way_cannot_bring_back_an_old_version(mount, listed_late):
    mount.rewrite("b", b"ours, longer")
    assert listed_late.names() == ["a", "b", "d"]
    assert mount.stat("b").size == 12
    assert mount.run(mount.fs.getattr(listed_late.ino)).size == 12


def test_a_list_under_way_cannot_bring_back_a_directory(mount, listed_late):
    mount.unlink("d/x")
    mount.rmdir("d")
    assert listed_late.names() == ["a", "b"]


def test_a_lookup_under_way_cannot_bring_back_what_was_removed_here(mount):
    mount.put("f", b"x")
    mount.ino("f")
    held = Held(mount.store, "HEAD", after=True)
    looking = mount.start(mount.fs.lookup(1, b"f"))
    mount.settle()
    mount.run(mount.fs.unlink(1, b"f"))
    held.let_go()
    with pytest.raises(NotFoundError):
        mount.wait(looking)


def test_a_lookup_under_way_cannot_hide_what_was_made_here(mount):
    held = Held(mount.store, "HEAD")
    looking = mount.start(mount.fs.lookup(1, b"f"))
    mount.settle()
    fh, made = mount.run(mount.fs.files.create(1, b"f", os.O_WRONLY))
    held.let_go()
    assert mount.wait(looking).ino == made.ino
    mount.release(fh)


def test_a_stat_under_way_cannot_bring_back_an_old_version(mount):
    mount.put("f", b"x")
    ino = mount.ino("f")
    held = Held(mount.store, "HEAD", after=True)
    asking = mount.start(mount.fs.getattr(ino))
    mount.settle()
    mount.run(rewrite(mount, ino, b"ours"))
    held.let_go()
    assert mount.wait(asking).size == 4
    assert mount.run(mount.fs.getattr(ino)).size == 4


async def rewrite(mount, ino, data):
    fh = await mount.fs.files.open(ino, os.O_WRONLY | os.O_TRUNC)
    await mount.fs.files.write(fh, 0, data)
    await mount.fs.files.flush(fh)
    await mount.fs.files.release(fh)


# rights


def test_head_refused_while_list_is_allowed_list_decides(mount):
    """Promise: If HEAD is refused (403) while LIST is allowed, the LIST decides what exists."""
    mount.put("f", b"xyz")
    mount.put("f-1", b"x")
    mount.put("d/x", b"x")
    fail(mount.store, "HEAD", AccessDeniedError("HEAD: 403"), times=99)
    with mount.requests(HEAD=2, LIST=2):
        assert mount.run(mount.fs.lookup(1, b"f")).size == 3
    assert stat.S_ISDIR(mount.lookup("d").mode)
    with pytest.raises(NotFoundError):
        mount.lookup("nothing")
    with pytest.raises(NotFoundError):
        mount.lookup("f-")


def test_list_refused_while_head_is_allowed_shows_files(mount):
    mount.put("f", b"xyz")
    fail(mount.store, "LIST", AccessDeniedError("LIST: 403"), times=99)
    assert mount.lookup("f").size == 3
    with pytest.raises(AccessDeniedError):
        mount.lookup("nothing")


def test_both_refused_is_eacces_not_enoent(mount):
    async def gate(operation, key):
        raise CredentialsError("expired")

    mount.store.gate = gate
    with pytest.raises(CredentialsError) as caught:
        mount.run(mount.fs.lookup(1, b"f"))
    assert caught.value.errno == 13


@pytest.mark.parametrize(("kind", "a_look_up"), [("HEAD", 2), ("LIST", 1)])
def test_a_question_that_fails_is_an_error_never_a_missing_file(mount, kind, a_look_up):
    """Promise: ENOENT: the name does not exist. A request that S3 did not answer is never
    ENOENT.
    """
    mount.put("f", b"xyz")
    fail(mount.store, kind, StoreUnavailableError("503"), times=2 * a_look_up)
    with pytest.raises(StoreUnavailableError):
        mount.run(mount.fs.lookup(1, b"f"))
    with pytest.raises(StoreUnavailableError):
        mount.run(mount.fs.mkdir(1, b"f"))
    assert mount.lookup("f").size == 3
