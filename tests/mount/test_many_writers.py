"""More files open for writing than memory has room for, with the real kernel."""

import json

from tests.mount.served import run_program

FILES, WITHIN_S = 5000, 200
PROGRAM = """
import asyncio, json, pathlib, sys
import uvloop
from csi_s3.config.volume import TreeConfig
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fuse.bridge import Bridge
from csi_s3.s3.memory_store import MemoryStore
from tests.mount.served import served

path, state, files = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])

def subprocess(words):
    import subprocess
    done = subprocess.run(words, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr

async def main():
    store = MemoryStore()
    async with asyncio.TaskGroup() as group:
        context = MountContext.create(store, TreeConfig(memory_bytes=16 << 20), group)
        fs = None

        def operations(session):
            nonlocal fs
            fs = FileSystem(context, prefix="", kernel=session, state_dir=state)
            return Bridge(fs)

        async with served(path, operations):
            await asyncio.to_thread(subprocess, [sys.executable, "-c", WRITER, path, str(files)])
            right = sum(store.objects[str(n)].data == b"%d" % n for n in range(files))
            requests = {k: n for k, n in store.requests.items() if k.startswith(("PUT", "UPLOAD"))}
            used = context.memory.used_bytes()
            held = {kind: used[kind] for kind in ("buffers", "requests")}
        await fs.close()
    print(json.dumps({"right": right, "requests": requests, "held": held}))

WRITER = '''
import os, resource, sys
n = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (n + 100, max(n + 100, resource.getrlimit(7)[1])))
os.chdir(sys.argv[1])
files = [open(str(i), "wb", buffering=0) for i in range(n)]
for i, file in enumerate(files):
    file.write(b"%d" % i)
for file in files:
    file.close()
'''
uvloop.run(main())
"""


def test_thousands_of_files_are_open_with_a_byte_written_to_each(tmp_path):
    mount, state = tmp_path / "mount", tmp_path / "state"
    mount.mkdir()
    said = run_program(PROGRAM, mount, state, FILES, within_s=WITHIN_S)
    assert json.loads(said) == {
        "right": FILES,
        "requests": {"PUT": FILES},
        "held": {"buffers": 0, "requests": 0},
    }
