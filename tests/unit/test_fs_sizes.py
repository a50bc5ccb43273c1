"""No file is opened in a version whose size the kernel may not know, whoever found that version."""

import os

import pytest

from csi_s3.errors import StaleError
from tests.unit.fs_mount import Held, mount, mounts

__all__ = ["mount", "mounts"]

WAYS = pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND])
TTL_S = 1


def opening(mount, ino, flags=os.O_RDONLY):
    return mount.start(mount.fs.files.open(ino, flags))


def is_stale(mount, task):
    try:
        mount.release(mount.wait(task))
    except StaleError:
        return True
    return False


@WAYS
def test_an_open_that_finds_another_version_is_stale_once(mount, flags):
    mount.put("f", b"old")
    ino = mount.ino("f")
    mount.store.put_now("f", b"newer")
    assert is_stale(mount, opening(mount, ino, flags))
    assert mount.ino("f") == ino
    assert not is_stale(mount, opening(mount, ino, flags))


@WAYS
def test_it_costs_one_request_more_and_the_look_ups_between_none(mount, flags):
    mount.put("f", b"")
    ino = mount.ino("f")
    mount.store.put_now("f", b"newer")
    with mount.requests(HEAD=1):
        assert is_stale(mount, opening(mount, ino, flags))
    with mount.requests():
        assert mount.run(mount.fs.lookup(1, b"f")).size == 5
        mount.held.append(ino)
    with mount.requests(**({"GET": 1} if flags == os.O_RDONLY else {"HEAD": 1})):
        fh = mount.run(mount.fs.files.open(ino, flags))
    mount.release(fh)


@WAYS
def test_an_open_sent_before_another_request_found_the_version_is_stale(mount, flags):
    """Its program was let in with the old size; the answer to the other one may come late."""
    mount.put("f", b"")
    ino = mount.ino("f")
    mount.store.put_now("f", b"newer")
    held = Held(mount.store, "HEAD")
    task = opening(mount, ino, flags)
    mount.settle()
    mount.store_works()
    mount.time.now_s += 2 * TTL_S
    assert mount.stat("f").size == 5
    assert mount.stat("f").size == 5  # the kernel gets it now
    held.let_go()
    assert is_stale(mount, task)


def test_an_answer_that_the_kernel_will_ignore_does_not_count(mount):
    """The request was sent before the kernel had to drop what it has: see attr_version."""
    mount.put("f", b"old")
    ino = mount.ino("f")
    mount.put("f", b"newer")
    assert mount.run(mount.fs.getattr(ino)).size == 5
    with mount.requests():
        assert is_stale(mount, opening(mount, ino)), "without a question to S3"
        assert mount.run(mount.fs.getattr(ino)).size == 5
    assert not is_stale(mount, opening(mount, ino))


def test_a_version_without_its_size_in_the_kernel_is_shown_no_longer_than_it_is_fresh(mount):
    mount.put("f", b"old")
    ino = mount.ino("f")
    mount.put("f", b"newer")
    mount.run(mount.fs.getattr(ino))
    mount.time.now_s += 0.75
    with mount.requests():
        assert mount.run(mount.fs.getattr(ino)).ttl_s == 0.25
    mount.put("f", b"the newest")
    assert mount.run(mount.fs.getattr(ino)).size == 10
    mount.time.now_s += 2 * TTL_S
    mount.store.put_now("f", b"")
    assert mount.run(mount.fs.getattr(ino)).size == 0


def test_a_listing_that_was_answered_before_does_not_count_either(mount):
    mount.put("f", b"old")
    ino = mount.ino("f")
    began = mount.fs.now
    mount.put("f", b"newer")
    mount.run(mount.fs.getattr(ino))
    mount.fs.note_answers([ino], start=began)
    assert is_stale(mount, opening(mount, ino))
    mount.run(mount.fs.getattr(ino))
    began = mount.fs.now
    mount.put("f", b"the newest")
    mount.ls()
    assert is_stale(mount, opening(mount, ino))
    mount.fs.note_answers([ino], start=mount.fs.now)
    assert not is_stale(mount, opening(mount, ino))


def test_the_same_version_and_own_changes_are_never_stale(mount):
    mount.put("f", b"old")
    ino = mount.ino("f")
    dropped = []
    mount.kernel.invalidate_attributes = dropped.append
    for n in range(3):
        mount.rewrite("f", b"x" * n)
        mount.truncate("f", 7)
        for flags in (os.O_RDONLY, os.O_RDWR):
            assert not is_stale(mount, opening(mount, ino, flags))
        mount.write_file(f"new{n}", b"data")
        assert not is_stale(mount, opening(mount, mount.ino(f"new{n}")))
    assert dropped == []


def test_a_truncation_by_path_tells_the_kernel_the_size(mount):
    mount.put("f", b"old")
    ino = mount.ino("f")
    mount.store.put_now("f", b"much newer")
    mount.run(mount.fs.setattr(ino, size=4))
    assert mount.data("f") == b"much"
    assert not is_stale(mount, opening(mount, ino))


def test_a_page_of_a_listing_that_was_asked_for_before_brings_no_older_version_back(mount):
    for name in ("e", "f"):
        mount.put(name, b"old")
    ino = mount.ino("f")
    held = Held(mount.store, "LIST", after=True)
    fh = mount.run(mount.fs.opendir(1))
    listing = mount.start(mount.entries(fh))
    mount.settle()
    mount.store.put_now("f", b"newer")
    assert is_stale(mount, opening(mount, ino))
    mount.run(mount.fs.getattr(ino))
    mount.store_works()
    held.let_go()
    assert mount.wait(listing) == ["e", "f"]
    assert mount.run(mount.fs.getattr(ino)).size == 5
    mount.fs.releasedir(fh)
    assert not is_stale(mount, opening(mount, ino))


@pytest.mark.parametrize("look", ["lookup", "getattr"])
def test_an_answer_to_a_question_that_began_before_brings_no_older_version_back(mount, look):
    """A look-up's HEAD is answered at once, and its LIST late."""
    mount.put("f", b"old")
    ino = mount.ino("f")
    held = Held(mount.store, "LIST")
    task = mount.start(mount.fs.lookup(1, b"f") if look == "lookup" else mount.fs.getattr(ino))
    mount.settle()
    mount.store.put_now("f", b"newer")
    assert is_stale(mount, opening(mount, ino))
    mount.run(mount.fs.getattr(ino))
    mount.store_works()
    held.let_go()
    assert mount.wait(task).size == 5
    if look == "lookup":
        mount.held.append(ino)
    assert not is_stale(mount, opening(mount, ino))


def test_of_two_answers_that_of_the_newer_question_stays_in_whatever_order_they_come(mount):
    """The older one was taken over after the newer question began: it does not count as newer."""
    mount.put("f", b"")
    ino = mount.ino("f")
    mount.store.put_now("f", b"old")
    late = Held(mount.store, "LIST")
    look = mount.start(mount.fs.lookup(1, b"f"))  # its HEAD says "old"
    mount.settle()
    mount.store.put_now("f", b"newer")
    held = Held(mount.store, "HEAD", after=True)
    task = opening(mount, ino)
    mount.settle()
    late.let_go()
    assert mount.wait(look).size == 3
    mount.held.append(ino)
    held.let_go()
    assert is_stale(mount, task)
    assert mount.lookup("f").size == 5
    assert not is_stale(mount, opening(mount, ino))


def test_a_version_found_while_another_is_held_open_is_looked_up_in_the_listing_too(mount):
    for name in ("e", "f"):
        mount.put(name, b"old")
    mount.ls()
    fh = mount.open("f")
    ino = mount.ino("f")
    mount.store.put_now("f", b"newer")
    assert is_stale(mount, opening(mount, ino))
    with mount.requests():
        found = mount.lookup("f")
    assert (found.ino == ino, found.size) == (False, 5)
    assert not is_stale(mount, opening(mount, found.ino))
    mount.release(fh)
