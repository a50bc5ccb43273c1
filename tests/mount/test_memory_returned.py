"""After the program ends, the worker's memory comes down to about where it was."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from csi_s3.kernel.process_memory import memory_of
from tests.mount.command import free_directory, mount, worker
from tests.mount.mounted import env, here, minio, mounted
from tests.scraping import free_port

__all__ = ["env", "here", "minio", "mounted"]

MIB = 1 << 20
NEAR_BYTES = 20 * MIB
WITHIN_S = 60  # the worker looks every ten seconds
OPEN_FILES = 1000
LISTED_WITHIN_S = 500
METADATA_TTL_S = 5  # names go when they were not used for longer


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
    after = returned(pid, before)
    assert after <= before + NEAR_BYTES, [n // MIB for n in (before, most, after)]


def returned(pid: int, before: int) -> int:
    """Wait until the worker is near what it had before. Returns what it has then, or at the end."""
    until = time.monotonic() + WITHIN_S
    while (now := memory_of(pid).rss) > before + NEAR_BYTES and time.monotonic() < until:
        time.sleep(1)
    return now


@contextmanager
def many_names(n: int) -> Iterator[str]:
    """The endpoint of a bucket with n names in big/."""
    port = free_port()
    words = [sys.executable, "-m", "tests.scale.made_up_bucket", str(port)]
    words.append(json.dumps({"big": {"n": n}}))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "serving\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def memory_around_a_listing(n: int) -> tuple[int, int, int]:
    """Resident bytes of a worker before `ls -l` of n names, when it ends, and then."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    options = ("--metadata-ttl", METADATA_TTL_S)
    with many_names(n) as endpoint, free_directory() as path:
        done = mount("data", path, "--endpoint-url", endpoint, *options, env={**os.environ, **keys})
        assert done.returncode == 0, done.stderr
        pid = worker(path)
        (path / "big" / "f0000000").stat()
        before = memory_of(pid).rss
        listed = subprocess.run(
            ["ls", "-l", path / "big"], check=True, capture_output=True, timeout=LISTED_WITHIN_S
        )
        assert listed.stdout.count(b"\n") == n + 1
        most = memory_of(pid).rss
        return before, most, returned(pid, before)


@pytest.mark.timeout(1200)
def test_memory_comes_down_after_a_listing_and_what_stays_does_not_grow_with_the_names():
    mib = []
    for n in (10_000, 100_000):
        before, most, after = memory_around_a_listing(n)
        mib.append([size // MIB for size in (before, most, after)])
        assert after <= before + NEAR_BYTES, mib
    assert most > before + NEAR_BYTES, mib  # so there was something to return
