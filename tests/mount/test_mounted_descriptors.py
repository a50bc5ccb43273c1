"""A real mount whose worker may have 256 descriptors: files being changed leave S3's alone."""

import os

import pytest

from tests.mount.command import free_directory, mount
from tests.mount.mounted import OPEN, Mounted, env, minio

__all__ = ["env", "minio"]

MIB = 1 << 20
FEW = ["prlimit", "--nofile=256:256"]


@pytest.fixture
def mounted(minio, env, tmp_path):
    with free_directory() as path:
        logs = path.parent / "logs"
        words = ("--log-directory", logs)
        done = mount("data", path, *OPEN, *words, env=env, before=FEW)
        assert done.returncode == 0, done.stderr
        yield Mounted(minio, path, logs, env)


@pytest.mark.parametrize("n", [300])
def test_more_files_than_descriptors_can_be_changed_at_once(mounted, n):
    """Each has 9 MiB, and a byte of it on the node's disk; all but ten are unlinked while open."""
    mounted.put("other", b"data")
    files = []
    for at in range(n):
        path = mounted.path / f"f{at}"
        files.append(fd := os.open(path, os.O_RDWR | os.O_CREAT))
        os.ftruncate(fd, 9 * MIB)
        os.pwrite(fd, b"!", 3 * MIB + at)
    assert (mounted.path / "other").read_bytes() == b"data"
    for at in range(10, n):
        (mounted.path / f"f{at}").unlink()
    for at, fd in enumerate(files):
        os.pwrite(fd, b"?", at)
        assert os.pread(fd, 3, 3 * MIB + at - 1) == b"\0!\0"
    for fd in files:
        os.close(fd)
    for at in range(10):
        expected = bytearray(9 * MIB)
        expected[at : at + 1], expected[3 * MIB + at : 3 * MIB + at + 1] = b"?", b"!"
        assert mounted.get(f"f{at}") == expected
    assert [line for line in mounted.log() if line["level"] in ("WARNING", "ERROR")] == []
