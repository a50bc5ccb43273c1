"""More names than their share of memory, with the real kernel.

Both ways in which it is asked to forget are tried, though it knows the newer one: what it says of
its version is changed on the way.
"""

import json

import pytest

from csi_s3.fs.files.handles import HANDLE_BYTES, READER_BYTES
from csi_s3.fs.listings import listing
from csi_s3.fs.names.inode import NAMES_BYTES, NEW_INODE_BYTES
from tests.mount.served import run_program
from tests.name_bounds import NameBounds, directory_bytes, file_bytes

NAMES, DIRECTORIES, WITHIN_S = 1600, 800, 200  # both more than fit
TREE_DIRECTORIES = 30
POOL_BYTES = 840_000  # between soft and bound are more names than one batch for the kernel
BOUNDS = NameBounds(POOL_BYTES)
FILE_BYTES = file_bytes("000000", "big/")
OPEN_FILE_BYTES = HANDLE_BYTES + READER_BYTES  # small ones have a reader, which open made
OPEN_DIRECTORY_BYTES = HANDLE_BYTES + listing.LISTING_BYTES + listing.READER_BYTES
# Files that were opened have taken the pool to the last byte: some give way to a directory.
CLOSED = -(-OPEN_DIRECTORY_BYTES // OPEN_FILE_BYTES)
PROGRAM = """
import asyncio, json, os, struct, sys
from dataclasses import replace
import uvloop
from csi_s3.config.volume import TreeConfig
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.memory import Memory
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fuse.bridge import Bridge
from csi_s3.s3.memory_store import MemoryStore
from tests.mount.served import served

path, names, pool, soft, minor, closed = sys.argv[1], *map(int, sys.argv[2:7])
which, room_within_s = sys.argv[7], float(sys.argv[8])
part, most = "", {}  # by part, in bytes

class Counted(FileSystem):
    '''Keeps the most that inodes took in each part.'''
    def remember(self, ino):
        more = super().remember(ino)
        self.note_bytes()
        return more

    async def lookup(self, parent, name):
        found = await super().lookup(parent, name)
        self.note_bytes()
        return found

    def note_bytes(self):
        most[part] = max(most.get(part, 0), self.usage().memory_bytes["inodes"])

def run(name, script):
    global part
    part = name
    code = "import os, sys; os.chdir(sys.argv[1]); here = os.getcwd(); " + script
    return asyncio.to_thread(subprocess, [sys.executable, "-c", code, path])

def subprocess(words):
    import subprocess
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIME)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

async def settled(fs):
    while fs.usage().memory_bytes["inodes"] > soft:
        await asyncio.sleep(0.05)

async def main():
    store = MemoryStore()
    for n in range(names):
        if which == "directories":
            store.put_now(f"directories/{n:06}/f")
        else:
            store.put_now(f"big/{n:06}", b"x" * (n % 100))
            store.put_now(f"tree/{n % 30}/{n:06}")
    async with asyncio.TaskGroup() as group:
        config = TreeConfig(allow_delete=True)
        context = MountContext.create(store, config, group)
        memory = Memory(config.budget_bytes, pool)
        context = replace(context, memory=memory, room_within_s=room_within_s)
        fs = None

        def operations(session):
            nonlocal fs
            fs = Counted(context, prefix="", kernel=session)
            return Bridge(fs)

        async with served(path, operations, older):
            parts = {"directories": DIRECTORIES, "parallel": PARALLEL}
            if which != "files":
                parts = {which: parts[which]}
            if which == "parallel":
                store.gate = slow
            if which == "files":
                parts = {"listed": LISTED, "walked": WALKED, "tree": TREE, "held": HELD}
            said = {name: await run(name, script) for name, script in parts.items()}
            if which == "files":
                await settled(fs)
        await fs.close()
    print(json.dumps({**said, "most": most}))

async def slow(*_):
    await asyncio.sleep(0.05)

def older(init):
    changed = bytearray(init)
    struct.pack_into("<I", changed, 44, min(minor, struct.unpack_from("<I", init, 44)[0]))
    return bytes(changed)

TIME = 200
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
DIRECTORIES = '''
os.chdir("directories/000007")
held, refused = os.open("../000009", os.O_PATH), []
found = sum(len(files) for _, _, files in os.walk("..", onerror=refused.append))
print(found + len(refused), len(refused) > 0, {e.errno for e in refused} <= {12}, end=" ")
print(os.getcwd() == here + "/directories/000007", end=" ")
print(os.readlink(f"/proc/self/fd/{held}") == here + "/directories/000009")
'''
PARALLEL = '''
import threading
left, failed = iter(range(NAMES)), []
def look_up():
    for n in left:
        try:
            os.stat(f"big/{n:06}")
        except OSError as exc:
            failed.append(exc.errno)
threads = [threading.Thread(target=look_up) for _ in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failed)
'''.replace("NAMES", str(names)).replace("THREADS", str(64))
HELD = '''
import errno
def error(call, *args):
    try:
        call(*args)
    except OSError as exc:
        return errno.errorcode[exc.errno]
held, found = [], None
def hold():
    for n in range(NAMES):
        held.append(os.open(f"big/{n:06}", os.O_RDONLY))
first = error(hold)
print(len(held), first, error(os.mkdir, "new"), error(os.symlink, "x", "link"), end=" ")
print(error(open, "new-file", "w"), end=" ")

for fd in held[-CLOSED:]:
    os.close(fd)
del held[-CLOSED:]
with os.scandir("big") as entries:
    found = [(e.name, e.is_file(), e.inode() > 0) for e in entries]
print(len(found), all(is_file and has_number for _, is_file, has_number in found), end=" ")
print(os.pread(held[99], 100, 0) == b"x" * 99, end=" ")
os.unlink("big/000000")
for fd in held:
    os.close(fd)
print(sum(os.stat(f"big/{n:06}").st_size == n % 100 for n in range(1, NAMES)), end=" ")
print(error(os.mkdir, "new"))
'''.replace("NAMES", str(names)).replace("CLOSED", str(closed))
uvloop.run(main())
"""


MINOR = pytest.mark.parametrize("minor", [44, 99], ids=["name by name", "as the kernel can"])


def run(
    path, names: int, minor: int, which: str, *, room_within_s: float = 1.0, above_bytes: int = 0
) -> dict:
    words = [path, names, POOL_BYTES, BOUNDS.soft + 2 * BOUNDS.margin, minor, CLOSED]
    said = json.loads(run_program(PROGRAM, *words, which, room_within_s, within_s=WITHIN_S))
    assert max(said["most"].values()) <= BOUNDS.bound + above_bytes
    return said


def most_open(minor: int) -> int:
    """How many files can be open at a time; name by name, directories stay without their files."""
    free = POOL_BYTES - directory_bytes("") - directory_bytes("big")
    if minor == 44:
        free -= directory_bytes("tree") + TREE_DIRECTORIES * (directory_bytes("00") - NAMES_BYTES)
    readers = sum(n % 100 > 0 for n in range(NAMES))
    each = FILE_BYTES + HANDLE_BYTES + READER_BYTES * readers / NAMES
    return 1 + int((free - NEW_INODE_BYTES) / each)


@MINOR
def test_more_names_than_the_limit_are_listed_while_a_handle_is_open(tmp_path, minor):
    """And looked up, and walked in a tree, while a program works in one of its directories.

    Then a program holds files open until no more fit: it alone is refused, names are still listed,
    and all goes on once they are closed.
    """
    said = run(tmp_path, NAMES, minor, "files")
    assert said["listed"] == f"{NAMES} {NAMES} {NAMES}"
    assert said["walked"] == f"{NAMES}"
    assert said["tree"] == f"{NAMES} True"
    held, rest = said["held"].split(" ", 1)
    assert rest == f"ENOMEM ENOMEM ENOMEM ENOMEM {NAMES} True True {NAMES - 1} None"
    assert int(held) in range(most_open(minor) - 1, most_open(minor) + 2)
    assert BOUNDS.listed < said["most"]["listed"] <= BOUNDS.listed + FILE_BYTES


@MINOR
def test_more_directories_than_the_limit_are_walked_and_those_in_use_left_alone(tmp_path, minor):
    """Name by name the kernel is not asked for them: it would cut off those in use."""
    is_refused = minor == 44  # each of them, after all that time: nothing frees a directory
    room_within_s = 0.1 if is_refused else 1.0
    said = run(tmp_path, DIRECTORIES, minor, "directories", room_within_s=room_within_s)
    assert said["directories"] == f"{DIRECTORIES} {is_refused} True True True"


@MINOR
def test_programs_that_look_up_more_names_in_one_directory_than_fit_wait_for_no_lock_of_theirs(
    tmp_path, minor
):
    """Each look-up keeps the directory locked, and the kernel needs that lock to drop a name."""
    above = BOUNDS.locked if minor == 44 else 0
    said = run(tmp_path, 3 * NAMES // 2, minor, "parallel", room_within_s=5.0, above_bytes=above)
    assert said["parallel"] == "[]"
