"""The FUSE session itself, without a file system behind it."""

import subprocess
import sys

import pytest

from tests.mount.command import WITHIN_S

PROGRAM = """
import asyncio, gc, os, stat, subprocess, sys
import pyfuse3, pyfuse3.asyncio
from csi_s3.fuse.session import Session
from csi_s3.kernel import mount

class Root(pyfuse3.Operations):
    async def getattr(self, inode, ctx):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode = inode, stat.S_IFDIR | 0o755
        return entry

    async def lookup(self, parent, name, ctx):
        raise pyfuse3.FUSEError(2)

def ask():
    code = "import os, sys; os.path.exists(sys.argv[1] + '/x')"
    return subprocess.Popen([sys.executable, "-c", code, path])

async def main():
    unseen, killed, asking = [], [], None
    asyncio.get_running_loop().set_exception_handler(lambda _, what: unseen.append(what))
    fd = mount.open_fuse()
    mount.mount_fuse(fd, path, source_name="test")
    session = Session(fd, mount.read_init(fd, 10))
    serving = asyncio.create_task(session.serve(Root()))
    await session.is_answered.wait()
    readv = os.readv

    def kill_who_waits(call, *args):
        nonlocal asking
        if when == "after":
            done = call(*args)
        if asking is not None:
            asking.kill()
            if when == "before":
                asking.wait()
            killed.append(asking)
            asking = None
        return done if when == "after" else call(*args)

    os.readv = lambda *args: kill_who_waits(readv, *args)
    for _ in range(20):
        await asyncio.to_thread(ask().wait)
        asking = ask()
        while asking is not None:
            await asyncio.sleep(0.01)
    os.readv = readv
    for process in killed:
        await asyncio.to_thread(process.wait)
    assert session.requests_in_flight == 0
    gc.collect()
    assert await asyncio.to_thread(ask().wait) == 0
    mount.umount(path)
    await serving
    assert unseen == [], unseen

path, when = sys.argv[1:]
asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_request_whose_caller_is_killed_before_it_is_read_harms_no_other(tmp_path, when):
    """When: it is gone before it is read, or only before it is answered."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path, when],
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, done.stderr


MANY = """
import asyncio, gc, os, stat, sys
from concurrent.futures import ThreadPoolExecutor
import pyfuse3, pyfuse3.asyncio
from csi_s3.fuse.session import Session
from csi_s3.kernel import mount

class Root(pyfuse3.Operations):
    async def getattr(self, inode, ctx):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode = inode, stat.S_IFDIR | 0o755
        return entry

    async def lookup(self, parent, name, ctx):
        if name == b"slow":
            slow.set()
            await released.wait()
        await asyncio.sleep(0.001)
        raise pyfuse3.FUSEError(2)

async def main():
    fd = mount.open_fuse()
    mount.mount_fuse(fd, path, source_name="test")
    session = Session(fd, mount.read_init(fd, 10))
    serving = asyncio.create_task(session.serve(Root()))
    await session.is_answered.wait()
    with ThreadPoolExecutor(9) as pool:
        loop = asyncio.get_running_loop()
        ask = lambda name: loop.run_in_executor(pool, os.path.exists, f"{path}/{name}")
        waits = ask("slow")
        await slow.wait()
        for n in range(60):
            await asyncio.gather(*(ask(f"{n}-{i}") for i in range(8)))
        (nursery,) = [x for x in gc.get_objects() if isinstance(x, pyfuse3.asyncio._Nursery)]
        print(len(nursery.tasks), sum(task.done() for task in nursery.tasks))
        released.set()
        await waits
    mount.umount(path)
    await serving

path, = sys.argv[1:]
slow, released = asyncio.Event(), asyncio.Event()
asyncio.run(main())
"""


def test_tasks_that_have_ended_are_not_held_while_one_request_waits(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MANY, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, done.stderr
    tasks, ended = map(int, done.stdout.split())
    assert ended <= 8  # of the last round
    assert tasks <= 24
