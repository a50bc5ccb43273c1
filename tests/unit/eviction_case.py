"""A mount with little memory for names, over a kernel that forgets at once, late or never.

The bounds are those of docs/memory.md, in bytes; how many names they are follows from what the
table counts for each (`test_fs_inodes` compares that with what it takes).
"""

from functools import partial
from sys import getsizeof

import pytest

from csi_s3.errors import OutOfMemoryError
from csi_s3.fs.names import eviction, idle, inodes, tree
from csi_s3.fs.names.inode import (
    DIRECTORY_BYTES,
    NAMES_BYTES,
    NEW_INODE_BYTES,
    RECORD_BYTES,
    VERSION_BYTES,
)
from tests.model.forgetting import Drops, NameCache

POOL_BYTES = 57_600
BOUND_BYTES = POOL_BYTES * 7 // 8  # of inodes, where other records take no more than the rest
LISTED_BYTES = BOUND_BYTES * 13 // 16  # a listing brings inodes until they take more
SOFT_BYTES = BOUND_BYTES * 5 // 8  # the kernel is asked for some above it
MARGIN_BYTES = BOUND_BYTES >> 7  # above two it is asked, for so many that one at most is left
MADE_BYTES = BOUND_BYTES * 15 // 16  # the rest is for look-ups

NAME_BYTES = getsizeof("00000")
ROOT_BYTES = RECORD_BYTES + getsizeof("") + DIRECTORY_BYTES + NAMES_BYTES
ETAG_BYTES = getsizeof('"0123456789abcdef0123456789abcdef"')
FILE_BYTES = RECORD_BYTES + NAME_BYTES + VERSION_BYTES + NAME_BYTES + ETAG_BYTES
LIMIT = (SOFT_BYTES - ROOT_BYTES) // FILE_BYTES  # files that are there before one is asked for
SLACK = LIMIT // 4
# A request that may add an inode has room for the largest one with that name, before S3 is asked.
LOOK_UP_BYTES = NEW_INODE_BYTES + 2 * NAME_BYTES + getsizeof("")
KNOWN = 1 + (BOUND_BYTES - LOOK_UP_BYTES - ROOT_BYTES) // FILE_BYTES  # files, by look-ups

TABLE = {module.__file__ for module in (eviction, idle, inodes, tree)}  # whose calls are counted


@pytest.fixture
def small(mounts):
    """Make a mount of n files, of which LIMIT are known before the kernel is asked; its kernel."""

    def make(drops: Drops, n: int = 0, *, room_within_s: float = 0.001, **options):
        options = {"records_bytes": POOL_BYTES, **options}
        mount = mounts(room_within_s=room_within_s, **options)
        for i in range(n):
            mount.store.put_now(f"{i:05}")
        mount.time.now_s += 2
        return mount, NameCache(mount, drops)

    return make


def used(mount) -> int:
    return mount.fs.usage().memory_bytes["inodes"]


def refused(calls) -> int:
    """How many of the calls were refused because there was no memory."""
    n = 0
    for call in calls:
        try:
            call()
        except OutOfMemoryError:
            n += 1
    return n


def look_up(mount, n) -> int:
    """How many of the first n files were refused."""
    return refused(partial(mount.lookup, f"{i:05}") for i in range(n))
