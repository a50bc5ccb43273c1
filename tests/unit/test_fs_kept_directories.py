"""Directories that exist without a key in S3: how many, and what happens above that."""

import pytest

from csi_s3.errors import NotFoundError, NotPermittedError, OutOfMemoryError
from csi_s3.fs.base.memory import Memory, MemoryKind
from csi_s3.fs.names.recent_keys import KEY_BYTES, RecentKeys
from tests.unit.fs_mount import mount, mounts

__all__ = ["mount", "mounts"]

POOL_BYTES = 400_000


def emptied(mount, n: int) -> None:
    for i in range(n):
        mount.put(f"{i:05}/file")
        mount.unlink(f"{i:05}/file")
        mount.forget_all()


@pytest.mark.parametrize("times", [2, 20])
def test_of_directories_that_were_emptied_the_last_are_kept(mounts, times):
    """Promise: Directories that exist here without a key in S3 have a limit, 5,500 with a
    `memory-target` of 148 MiB and in proportion with others. Above it, of those that were emptied
    the first exists only if S3 has keys below it again, and mkdir with `dir-markers=off` gives
    ENOMEM. Of those made here, the latest 11,000 are exempt from `allow-delete`.
    """
    mount = mounts(records_bytes=POOL_BYTES)
    limit = mount.fs._tree.local_names.limit
    n = times * limit
    emptied(mount, n)
    assert mount.fs.usage().inodes == limit + 1
    assert mount.ls() == [f"{i:05}" for i in range(n - limit, n)]
    mount.ls(f"{n - 1:05}")
    with pytest.raises(NotFoundError):
        mount.lookup("00000")
    mount.rmdir(f"{n - 1:05}")
    mount.forget_all()
    assert mount.fs.usage().inodes == limit


@pytest.mark.parametrize("times", [1, 3])
def test_local_directories_are_refused_above_the_limit_until_files_are_in_them(mounts, times):
    mount = mounts(records_bytes=POOL_BYTES, dir_markers=False)
    limit = mount.fs._tree.local_names.limit
    for i in range(times * limit):
        mount.mkdir(f"{i:05}")
        if i < (times - 1) * limit:
            mount.write_file(f"{i:05}/file", b"x")
        mount.forget_all()
    with pytest.raises(OutOfMemoryError, match="without dir-markers=off"):
        mount.mkdir("one-more")
    assert len(mount.ls()) == times * limit
    mount.rmdir(f"{times * limit - 1:05}")
    mount.mkdir("one-more")


def test_the_directories_made_last_are_exempt_from_allow_delete(mounts):
    mount = mounts(records_bytes=POOL_BYTES, allow_delete=False)
    n = 3 * int(POOL_BYTES / 32 / KEY_BYTES)
    for i in range(n):
        mount.mkdir(f"{i:05}")
        mount.forget_all()
    mount.rmdir(f"{n - 1:05}")
    mount.rmdir(f"{2 * n // 3:05}")
    with pytest.raises(NotPermittedError):
        mount.rmdir("00000")
    mount.forget_all()
    assert mount.fs.usage().inodes == 1


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_keys_that_were_noted_take_no_more_memory_than_twice_the_limit(n):
    account = Memory(0, 1 << 30).account(MemoryKind.INODES)
    keys = RecentKeys(account, limit=100)
    for i in range(n):
        keys.add(f"{i}")
        assert account.used_bytes <= 200 * KEY_BYTES
    assert all(f"{i}" in keys for i in range(n - 100, n))
    for i in range(n):
        keys.discard(f"{i}")
    assert (account.used_bytes, bool(keys)) == (0, False)
