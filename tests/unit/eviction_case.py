"""A mount with little memory for names, over a kernel that forgets at once, late or never.

The bounds are in bytes; how many names they are follows from what is counted for each.
"""

from functools import partial
from sys import getsizeof

import pytest

from csi_s3.errors import OutOfMemoryError
from csi_s3.fs.names import eviction, idle, inodes, tree
from csi_s3.fs.names.inode import NEW_INODE_BYTES
from tests.model.forgetting import Drops, NameCache
from tests.name_bounds import NameBounds, directory_bytes, file_bytes

POOL_BYTES = 57_600
BOUNDS = NameBounds(POOL_BYTES)
BOUND_BYTES, SOFT_BYTES, MARGIN_BYTES = BOUNDS.bound, BOUNDS.soft, BOUNDS.margin
LISTED_BYTES, MADE_BYTES, LOCKED_BYTES = BOUNDS.listed, BOUNDS.made, BOUNDS.locked

ROOT_BYTES, FILE_BYTES = directory_bytes(""), file_bytes("00000")
LIMIT = (SOFT_BYTES - ROOT_BYTES) // FILE_BYTES  # files that are there before one is asked for
SLACK = LIMIT // 4
# A request that may add an inode has room for the largest one with that name, before S3 is asked.
LOOK_UP_BYTES = NEW_INODE_BYTES + 2 * getsizeof("00000") + getsizeof("")
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
