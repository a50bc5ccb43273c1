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

from pyfuse3 import FUSEError

from csi_s3.fs.names.attributes import Attributes
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.session import Session
from csi_s3.kernel import mount

INIT_WITHIN_S = 10


class EmptyRoot(Bridge):
    """A root in which no name exists, without a file system."""

    def __init__(self):
        pass

    def note_user(self, uid, gid):
        pass

    async def getattr(self, ino):
        return Attributes(ino, 0, stat.S_IFDIR | 0o755, 0, 2, 0, 0, 0, 0, 1.0)

    async def lookup(self, parent, name):
        raise FUSEError(2)


@asynccontextmanager
async def served(
    path: str,
    operations: Callable[[Session], Bridge],
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
        if task.get_coro().__qualname__.startswith("OperationTasks."):
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
