"""More names than their share of memory, with the real kernel.

Both ways in which it is asked to forget are tried, though it knows the newer one: what it says of
its version is changed on the way.
"""

import json
import subprocess
import sys

import pytest

NAMES, LIMIT, WITHIN_S = 1600, 300, 100
PROGRAM = """
import asyncio, json, os, struct, sys
import uvloop
from csi_s3.config.volume import TreeConfig
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fs.names.tree import INODE_BYTES, INODES_SHARE
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.session import Session
from csi_s3.kernel import mount
from csi_s3.s3.memory_store import MemoryStore

path, names, limit, minor = sys.argv[1], *map(int, sys.argv[2:5])
most = {"listed": 0, "walked": 0}

class Counted(FileSystem):
    '''Keeps the most inodes there were, while names are listed and while they are looked up.'''
    def remember(self, ino):
        more = super().remember(ino)
        most["listed"] = max(most["listed"], self.usage().inodes)
        return more

    async def lookup(self, parent, name):
        found = await super().lookup(parent, name)
        most["walked"] = max(most["walked"], self.usage().inodes)
        return found

def run(script):
    code = "import os, sys; os.chdir(sys.argv[1]); here = os.getcwd(); " + script
    return asyncio.to_thread(subprocess, [sys.executable, "-c", code, path])

def subprocess(words):
    import subprocess
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIME)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

async def settled(fs):
    while fs.usage().inodes > limit * 2:
        await asyncio.sleep(0.05)
    return fs.usage().inodes

async def main():
    store = MemoryStore()
    for n in range(names):
        store.put_now(f"big/{n:06}", b"x" * (n % 100))
        store.put_now(f"tree/{n % 30}/{n:06}")
    fd = mount.open_fuse()
    mount.mount_fuse(fd, path, source_name="test")
    init = bytearray(mount.read_init(fd, 10))
    struct.pack_into("<I", init, 44, min(minor, struct.unpack_from("<I", init, 44)[0]))
    session = Session(fd, bytes(init))
    async with asyncio.TaskGroup() as group:
        config = TreeConfig(memory_bytes=limit * INODE_BYTES * INODES_SHARE)
        context = MountContext.create(store, config, group)
        fs = Counted(context, prefix="", kernel=session)
        serving = group.create_task(session.serve(Bridge(fs)))
        await session.is_answered.wait()
        said = {
            "listed": await run(LISTED),
            "walked": await run(WALKED),
            "tree": await run(TREE),
        }
        said["left"] = await settled(fs)
        await asyncio.to_thread(mount.umount, path)
        await serving
        fs.close()
    print(json.dumps({**said, "most": most}))

TIME = 100
LISTED = '''
held = open("big/000000"), os.open("big", os.O_RDONLY), os.scandir("big")
first = next(held[2])
found = os.listdir("big")
assert held[0].read() == "" and os.getcwd() == here
print(len(found), len(set(found)), len({first.name, *(e.name for e in held[2])}))
'''
WALKED = '''
import stat
found = os.listdir("big")
print(sum(os.stat("big/" + n).st_size == int(n) % 100 for n in found))
'''
TREE = '''
os.chdir("tree/7")
print(sum(len(files) for _, _, files in os.walk("..")), os.getcwd() == here + "/tree/7")
'''
uvloop.run(main())
"""


@pytest.mark.parametrize("minor", [44, 99], ids=["name by name", "as the kernel can"])
def test_more_names_than_the_limit_are_listed_while_a_handle_is_open(tmp_path, minor):
    """And looked up, and walked in a tree, while a program works in one of its directories.

    Name by name the kernel lets one name go between two READDIRs at least, and more if there is
    time: so the most depends on the machine, and is less than all.
    """
    words = [sys.executable, "-c", PROGRAM, tmp_path, str(NAMES), str(LIMIT), str(minor)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=WITHIN_S)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["listed"] == f"{NAMES} {NAMES} {NAMES}"
    assert said["walked"] == f"{NAMES}"
    assert said["tree"] == f"{NAMES} True"
    assert said["most"]["listed"] < NAMES
    assert said["most"]["walked"] < NAMES
    assert said["left"] <= 2 * LIMIT
