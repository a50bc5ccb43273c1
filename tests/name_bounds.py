"""What inodes may take of a pool of records, as docs/memory.md says, and what they take.

`tests/unit/test_fs_inodes.py` compares what is counted for each with what it takes.
"""

from sys import getsizeof

from csi_s3.fs.names.inode import DIRECTORY_BYTES, NAMES_BYTES, RECORD_BYTES, VERSION_BYTES

ETAG_BYTES = getsizeof('"0123456789abcdef0123456789abcdef"')


class NameBounds:
    """Where other records take no more than the eighth of the pool that is left to them.

    soft: the kernel is asked for names above it. margin: it is asked above two of them, for so many
    names that at most one is left. listed: a listing brings inodes until they take more. made: new
    names may take so much; the rest of the bound is for look-ups. locked: so much more is for
    requests that keep the directory locked which has names to drop.
    """

    def __init__(self, pool_bytes: int) -> None:
        self.bound = pool_bytes * 7 // 8
        self.soft = self.bound * 5 // 8
        self.margin = self.bound >> 7
        self.listed = self.bound * 13 // 16
        self.made = self.bound * 15 // 16
        self.locked = pool_bytes // 16


def file_bytes(name: str, above: str = "") -> int:
    """A file of that name; above: the key of its directory."""
    return RECORD_BYTES + getsizeof(name) + VERSION_BYTES + getsizeof(f"{above}{name}") + ETAG_BYTES


def directory_bytes(name: str) -> int:
    """A directory with children."""
    return RECORD_BYTES + getsizeof(name) + DIRECTORY_BYTES + NAMES_BYTES
