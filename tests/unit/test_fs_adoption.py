"""An inode may be gone when a request that has found it goes on: eviction forgets at any time."""

import asyncio
from contextlib import suppress

from csi_s3.errors import StaleError
from tests.unit.fs_mount import REWRITE, mount, mounts

__all__ = ["mount", "mounts"]


class SlowPages:
    """Lets a test act while the kernel drops the pages of an inode."""

    def __init__(self, mount, meanwhile):
        self._meanwhile = meanwhile
        mount.kernel.invalidate_inode = self._drop

    async def _drop(self, ino):
        self._meanwhile(ino)


def with_pages(mount):
    """A file of which the kernel has pages, and of which another version is in S3."""
    mount.put("f", b"old")
    mount.cat("f")
    ino = mount.ino("f")
    mount.put("f", b"newer")
    return ino


def forget_all(mount, ino):
    mount.fs.forget(ino, mount.held.count(ino))
    mount.held[:] = [i for i in mount.held if i != ino]


def test_a_file_forgotten_while_its_name_is_looked_up_is_another_inode(mount):
    old = with_pages(mount)
    SlowPages(mount, lambda ino: forget_all(mount, ino))
    found = mount.lookup("f")
    assert found.size == 5
    assert mount.run(mount.fs.getattr(found.ino)).size == 5, "the kernel was given a number of none"
    assert found.ino != old


def test_a_file_forgotten_while_it_is_listed_fails_no_listing(mount):
    with_pages(mount)
    SlowPages(mount, lambda ino: forget_all(mount, ino))
    assert mount.ls() == ["f"]


def test_a_file_opened_for_writing_while_it_is_listed_can_be_opened_again(mount):
    """The listing has another version of it, and its turn comes after that of the open."""
    mount.put("f", b"old")
    mount.cat("f")
    ino = mount.ino("f")
    gate = asyncio.Event()

    async def another_request():
        async with mount.fs._tree.versions.hold(ino):
            await gate.wait()

    first = mount.start(another_request())
    mount.settle()
    opening = mount.start(mount.fs.files.open(ino, REWRITE))
    mount.settle()
    mount.store.put_now("f", b"newer")
    listing = mount.start(mount.names(1))
    mount.settle()
    gate.set()
    mount.wait(first)
    fh = mount.wait(opening)
    assert mount.wait(listing) == ["f"]
    mount.write(fh, b"!")
    with suppress(StaleError):  # what was opened was replaced
        mount.flush(fh)
    mount.release(fh)
    mount.time.now_s += 2
    assert mount.cat("f") == mount.data("f")
