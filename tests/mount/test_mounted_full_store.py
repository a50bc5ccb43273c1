"""A server whose disk is full: the program's error, and what becomes of its bytes."""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.command import WITHIN_S, directory
from tests.mount.mounted import errno_of
from tests.mount.test_mounted_never_lost import environment, mounted, unmount, wait_logged
from tests.servers import Server, running

__all__ = ["directory"]

MIB = 1 << 20
PROBE_BYTES = 200 << 10  # a body that MinIO reads, whatever it answers


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", path], check=True, timeout=WITHIN_S
    )
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True, timeout=WITHIN_S)


@pytest.fixture(params=["minio", "versitygw"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server on a small disk with the bucket `data`, and the file that takes up its room."""
    with (
        small_disk(tmp_path / "disk") as disk,
        running(request.param, data_parent=disk) as server,
    ):
        server.create_bucket("data")
        yield server, disk / "filler"


def wait_put(server: Server, expected: int) -> None:
    """Until a PUT is answered so: MinIO looks at its disk once in a while."""
    deadline = time.monotonic() + WITHIN_S
    while (status := server.request("PUT", "/data/probe", bytes(PROBE_BYTES))[0]) != expected:
        assert time.monotonic() < deadline, status
        time.sleep(0.2)


@pytest.mark.parametrize("size", [MIB, 12 * MIB], ids=["one PUT", "parts"])
def test_a_full_store_is_enospc_and_what_was_written_is_uploaded_once_there_is_room(
    full, directory, tmp_path, size
):
    server, filler = full
    env = environment(server, server.endpoint, tmp_path)
    mounted("data", directory, env)
    (directory / "before").write_bytes(b"old")
    free = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - PROBE_BYTES // 4)
    wait_put(server, 507)
    data = os.urandom(size)
    fd = os.open(directory / "f", os.O_WRONLY | os.O_CREAT)
    for at in range(0, size, MIB):
        os.write(fd, data[at : at + MIB])
    assert errno_of(lambda: os.fsync(fd)) == errno.ENOSPC
    assert errno_of(lambda: os.close(fd)) == errno.ENOSPC
    assert (directory / "before").read_bytes() == b"old"
    wait_logged(env, "^f could not be uploaded and is kept in ")
    assert server.request("GET", "/data/f")[0] == 404
    unmount(directory)
    filler.unlink()
    wait_put(server, 200)
    mounted("data", directory, env)
    wait_logged(env, "^f: uploaded what an earlier worker could not")
    assert server.request("GET", "/data/f") == (200, data)
    unmount(directory)
