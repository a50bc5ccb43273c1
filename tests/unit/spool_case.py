"""Spools by themselves, for tests: in blocks of the disk, with a map of what each file has."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from csi_s3.errors import StoreUnavailableError
from csi_s3.fs.base.memory import Memory
from csi_s3.fs.write.extents import Extents, Origin
from csi_s3.fs.write.spool import Spool, SpoolFile

BLOCK = 4096
DOWN = StoreUnavailableError("S3 is down")
LARGE = bytes(range(64))

T = TypeVar("T")


def spool_of(state: Path | None, *, blocks: int = 100, most_open: int = 8) -> Spool:
    memory = Memory(1 << 20, 16 << 20)
    return Spool(state, limit_bytes=blocks * BLOCK, memory=memory, most_open=most_open)


def put(file: SpoolFile, extents: Extents, start: int, data: bytes) -> None:
    """As `StagedFile` writes: what is between the map's end and start is a hole."""
    if extents.size < start:
        extents.put(extents.size, start, Origin.ZERO)
    file.write(start, data, extents)
    extents.put(start, start + len(data), Origin.SPOOL)


def cut(file: SpoolFile, extents: Extents, size: int) -> None:
    """As `StagedFile` cuts."""
    freed_bytes = file.cut_bytes(size, extents)
    extents.truncate(size)
    assert asyncio.run(file.cut(size))
    file.freed(freed_bytes)


def map_of(n: int) -> Extents:
    """A file of n bytes, each in another place than the one before."""
    extents = Extents()
    for at in range(n):
        extents.put(at, at + 1, Origin.SPOOL if at % 2 else Origin.ZERO)
    return extents


def leftovers(spool: Spool, now_s: float = 0.0) -> list[int]:
    return asyncio.run(spool.leftovers(now_s))


def measured_bytes(make: Callable[[], T]) -> tuple[T, int]:
    """What it makes, and how much memory that holds."""
    gc.collect()
    tracemalloc.start()
    try:
        made = make()
        gc.collect()
        return made, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def spooled(mounts, state):
    return mounts(write_part_bytes=8, min_part_bytes=4, state_dir=state)


def files(state):
    return sorted(p.name for p in state.iterdir()) if state.exists() else []
