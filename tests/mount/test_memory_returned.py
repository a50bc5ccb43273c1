"""After the program ends, the worker's memory comes down to about where it was."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from csi_s3.kernel.process_memory import memory_of
from tests.mount.command import worker
from tests.mount.mounted import env, here, minio, mounted

__all__ = ["env", "here", "minio", "mounted"]

MIB = 1 << 20
NEAR_BYTES = 20 * MIB
WITHIN_S = 60  # the worker looks every ten seconds
OPEN_FILES = 1000


def write_read_remove(path: Path, size_mib: int) -> None:
    """In WRITE and READ requests of 128 KiB, and so in parts of an upload."""
    data = os.urandom(MIB)
    with path.open("wb", buffering=0) as file:
        for _ in range(size_mib):
            file.write(data)
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass
    path.unlink()


def hold_many_open(directory: Path) -> None:
    files = [(directory / f"f{n:05}").open("wb", buffering=0) for n in range(OPEN_FILES)]
    for file in files:
        file.write(b"x")
        Path(file.name).unlink()
    for file in files:
        file.close()


def test_memory_comes_down_after_many_large_files_and_many_open_ones(mounted, here):
    pid = worker(mounted.path)
    write_read_remove(here / "first", 1)  # connections, and what else is made once
    before = memory_of(pid).rss
    most = before
    for count, size_mib in ((12, 30), (64, 9)):
        with ThreadPoolExecutor(count) as pool:
            paths = [here / f"{size_mib}-{n}" for n in range(count)]
            list(pool.map(write_read_remove, paths, [size_mib] * count))
        most = max(most, memory_of(pid).rss)
    hold_many_open(here)
    until = time.monotonic() + WITHIN_S
    while memory_of(pid).rss > before + NEAR_BYTES and time.monotonic() < until:
        time.sleep(1)
    after = memory_of(pid).rss
    assert after <= before + NEAR_BYTES, [n // MIB for n in (before, most, after)]
