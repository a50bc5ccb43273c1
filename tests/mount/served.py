"""A FUSE session in this process, for programs that tests run: there is one for each process.

from tests.mount.served import served
async with served(path, operations) as session: ...
"""

import asyncio
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pyfuse3

from csi_s3.fuse.session import Session
from csi_s3.kernel import mount

INIT_WITHIN_S = 10


class EmptyRoot(pyfuse3.Operations):
    """A root in which no name exists."""

    async def getattr(self, inode, ctx):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode = inode, stat.S_IFDIR | 0o755
        return entry

    async def lookup(self, parent, name, ctx):
        raise pyfuse3.FUSEError(2)


@asynccontextmanager
async def served(
    path: str,
    operations: Callable[[Session], pyfuse3.Operations],
    change_init: Callable[[bytes], bytes] = bytes,
) -> AsyncIterator[Session]:
    """Mount at path and answer, until the block is left.

    The session has a task of its own and ends in order, also when the block fails: its tasks would
    go on if it were cancelled, and use what libfuse has freed (SIGSEGV). Then the connection is
    aborted, so that programs which wait there get an error.
    """
    fd = mount.open_fuse()
    mount.mount_fuse(fd, path, source_name="test")
    session = Session(fd, change_init(mount.read_init(fd, INIT_WITHIN_S)))
    serving = asyncio.create_task(session.serve(operations(session)))
    has_failed = True
    try:
        await session.is_answered.wait()
        yield session
        has_failed = False
    finally:
        await asyncio.to_thread(mount.umount, path, force=has_failed)
        if has_failed:
            cancel_requests()
        await serving


def cancel_requests() -> None:
    """A request may wait for what the failed block was to do."""
    for task in asyncio.all_tasks():
        if task.get_coro().__qualname__.startswith("RequestTasks.start_soon."):
            task.cancel()


def run_program(program: str, *words: object, within_s: float) -> str:
    """Run one in a process of its own, which must succeed; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=within_s,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    return done.stdout
