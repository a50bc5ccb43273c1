"""What a program's children cost, which close what they inherit: a FLUSH by each of them."""

import io
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faulty import Faulty, faulty
from tests.mount.command import WITHIN_S, free_directory, mount
from tests.mount.mounted import env, minio
from tests.servers import Server

__all__ = ["env", "minio"]

CHILDREN = 10
MIB = 1 << 20


@pytest.fixture
def proxy(minio: Server) -> Iterator[Faulty]:
    with faulty(minio.endpoint) as through:
        yield through


@pytest.fixture
def here(proxy: Faulty, env: dict[str, str]) -> Iterator[Path]:
    with free_directory() as path:
        done = mount(
            *("data", path, "--allow-delete", "--allow-overwrite"),
            env={**env, "AWS_ENDPOINT_URL": proxy.endpoint},
        )
        assert done.returncode == 0, done.stderr
        yield path


def stores(proxy: Faulty) -> int:
    """How many requests have made an object."""
    puts = [path for method, path in proxy.asked if method == "PUT" and "partNumber" not in path]
    completed = [path for method, path in proxy.asked if method == "POST" and "uploadId=" in path]
    return len(puts) + len(completed)


def children(inherited: int, *, n: int, before_they_end: Callable[[], None]) -> None:
    """Processes that have inherited a descriptor, and close it by their end, all at once."""
    reading, writing = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, reading)
        started = [
            stack.enter_context(subprocess.Popen(["cat"], stdin=reading, pass_fds=[inherited]))
            for _ in range(n)
        ]
        try:
            before_they_end()
        finally:
            os.close(writing)
        assert [process.wait(WITHIN_S) for process in started] == [0] * n


def child(inherited: int) -> None:
    children(inherited, n=1, before_they_end=lambda: None)


def write(file: io.FileIO, size: int) -> None:
    for _ in range(0, size, MIB):
        file.write(bytes(min(size, MIB)))


@pytest.mark.parametrize("size", [5, 30 * MIB])
def test_children_of_a_program_store_what_it_has_written_once(here, proxy, size):
    """The first that ends stores it, for nobody can tell it from the program.

    Promise: Bytes that a FLUSH has stored are not stored again: of ten children that a program
    starts after a write, the first that ends stores the file, the others do nothing.
    """
    with (here / "f").open("wb", buffering=0) as file:
        write(file, size)
        for _ in range(CHILDREN):
            child(file.fileno())
        assert stores(proxy) == 1
    assert stores(proxy) == 1
    assert (here / "f").stat().st_size == size


@pytest.mark.parametrize("size", [5, 30 * MIB])
def test_children_that_end_together_store_it_once(here, proxy, size):
    with (here / "f").open("wb", buffering=0) as file:
        children(file.fileno(), n=CHILDREN, before_they_end=lambda: write(file, size))
        assert stores(proxy) == 1
    assert stores(proxy) == 1


def test_children_before_any_write_store_nothing(here, proxy):
    with (here / "f").open("wb", buffering=0) as file:
        for _ in range(CHILDREN):
            child(file.fileno())
        assert stores(proxy) == 0
        file.write(b"x")
    assert stores(proxy) == 1


def test_readers_of_a_file_that_is_being_written_do_not_store_it(here, proxy):
    """Promise: A FLUSH of a handle that cannot write does nothing: closing a reader of a file that
    is being written does not store it.
    """
    with (here / "f").open("wb", buffering=0) as file:
        for n in range(CHILDREN):
            file.write(b"line\n")
            assert (here / "f").read_bytes() == b"line\n" * (n + 1)
        assert stores(proxy) == 0
    assert stores(proxy) == 1
