"""What is written to /dev/fuse when the kernel is asked to drop names; a pipe is in its place."""

import os
import struct
import time
from pathlib import Path

import pytest

from csi_s3.fs.names.kernel_cache import CachedName
from csi_s3.fuse.notifier import STUCK_S, Notifier

NAMES = [CachedName(1, b"a", 11), CachedName(2, "\u00e9".encode(), 12), CachedName(1, b"c", 13)]
INODE, ENTRY, PRUNE = 2, 3, 9  # include/uapi/linux/fuse.h


@pytest.fixture
def fuse():
    """Make a notifier of a kernel of that minor version, and the end that reads."""
    ends = []

    def make(minor: int) -> tuple[Notifier, int]:
        out, into = os.pipe()
        os.set_blocking(out, False)
        notifier = Notifier(into, minor=minor)
        os.close(into)
        ends.append((out, notifier))
        return notifier, out

    yield make
    for out, notifier in ends:
        notifier.close()
        os.close(out)
        os.close(notifier._fd)


def notices(out: int) -> list[tuple[int, bytes]]:
    """Code and body of each."""
    data, found = os.read(out, 1 << 16), []
    while data:
        length, code, unique = struct.unpack_from("<IiQ", data)
        assert unique == 0, "a notice, not an answer"
        found.append((code, data[16:length]))
        data = data[length:]
    return found


def drop(notifier, names=NAMES, *, is_read=lambda _: False) -> list[CachedName]:
    """Returns the skipped."""
    skipped = []
    notifier.drop(iter(names), skipped, is_read=is_read)
    return skipped


def test_a_kernel_that_can_is_given_all_inodes_at_once(fuse):
    notifier, out = fuse(45)
    assert drop(notifier, is_read=lambda _: True) == []
    assert notices(out) == [(PRUNE, struct.pack("<IIQ3Q", 3, 0, 0, 11, 12, 13))]


def test_an_older_one_is_asked_for_one_name_after_the_other_but_not_where_it_reads(fuse):
    notifier, out = fuse(44)
    assert drop(notifier, is_read=lambda directory: directory == 2) == [NAMES[1]]
    assert notices(out) == [
        (ENTRY, struct.pack("<QII", 1, 1, 0) + b"a\0"),
        (ENTRY, struct.pack("<QII", 1, 1, 0) + b"c\0"),
    ]
    drop(notifier, [NAMES[1]])
    assert notices(out) == [(ENTRY, struct.pack("<QII", 2, 2, 0) + b"\xc3\xa9\0")]


def test_a_directory_for_which_a_thread_has_waited_long_is_passed_over(fuse):
    notifier, out = fuse(44)
    now_s = time.monotonic()
    notifier._waiting = {1: (1, now_s - 2 * STUCK_S), 2: (2, now_s)}
    assert drop(notifier) == [NAMES[0], NAMES[2]]
    assert [data for _, data in notices(out)] == [struct.pack("<QII", 2, 2, 0) + b"\xc3\xa9\0"]


def test_what_was_skipped_is_known_before_a_name_that_blocks_is_dropped(fuse):
    """Its caller gives up waiting for the thread, and must not lose them."""
    notifier, _ = fuse(44)
    skipped = []

    def names():
        yield NAMES[1]
        assert skipped == [NAMES[1]]
        yield NAMES[0]
        assert notifier._waiting == {}, "its own wait that is over is no other thread's"

    notifier.drop(names(), skipped, is_read=lambda directory: directory == 2)
    assert skipped == [NAMES[1]]


@pytest.mark.parametrize("minor", [44, 45])
def test_after_the_end_nothing_is_written_and_the_number_stays_taken(fuse, minor):
    notifier, out = fuse(minor)
    notifier.close()
    drop(notifier)
    assert os.read(out, 100) == b"", "the connection was let go of"
    assert os.fstat(notifier._fd).st_rdev == Path(os.devnull).stat().st_rdev


@pytest.mark.parametrize("minor", [44, 45])
def test_a_kernel_that_is_gone_is_no_error(minor):
    out, into = os.pipe()
    notifier = Notifier(into, minor=minor)
    os.close(into)
    os.close(out)
    drop(notifier)
    notifier.close()
    os.close(notifier._fd)


def test_pages_and_attributes_are_dropped_of_one_inode(fuse):
    notifier, out = fuse(31)
    assert notifier.drop_pages(11)
    assert notifier.drop_attributes(12)
    assert notices(out) == [
        (INODE, struct.pack("<Qqq", 11, 0, 0)),
        (INODE, struct.pack("<Qqq", 12, -1, 0)),
    ]


def test_names_are_dropped_one_after_the_other_in_a_thread(fuse):
    notifier, out = fuse(31)
    for name in NAMES:
        notifier.drop_soon(name.parent, name.name)
    os.set_blocking(out, True)
    found = []
    while len(found) < len(NAMES):
        found += notices(out)
    assert [body[:8] for _, body in found] == [struct.pack("<Q", n.parent) for n in NAMES]
    assert {code for code, _ in found} == {ENTRY}
    notifier.close()
    assert notifier._thread is not None
    notifier._thread.join(10)
    assert not notifier._thread.is_alive()
