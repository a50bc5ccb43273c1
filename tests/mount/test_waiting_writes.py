"""Very many threads write into a store that does not answer, with the real kernel."""

import errno
import json
import subprocess

import pytest

from tests.mount.command import WITHIN_S
from tests.mount.served import run_program

PROGRAM = """
import asyncio, json, pathlib, signal, subprocess, sys
import uvloop
from csi_s3.config.volume import TreeConfig
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fuse import interrupts
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.session import Session
from csi_s3.kernel import mount
from csi_s3.s3.memory_store import MemoryStore

interrupts.INTERRUPTED_AFTER_S = 0.5
here, n, spool = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
path = here / "mount"
path.mkdir()

def resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return {name: int(status.partition(name)[2].split()[0]) for name in ("RssAnon:",)}

WRITERS = '''
import os, resource, sys, threading
os.chdir(sys.argv[1])
threading.stack_size(128 << 10)
data, failed = bytes(1 << 20), []
resource.setrlimit(resource.RLIMIT_NOFILE, (10_000, max(resource.getrlimit(7)[1], 10_000)))
def write(i):
    try:
        file = os.open(f"stuck-{i}", os.O_WRONLY | os.O_CREAT)
        for k in range(4):
            os.write(file, data)
    except OSError as exc:
        failed.append(exc.errno)
        if len(failed) == 1:
            print("failed", exc.errno, flush=True)
threads = [threading.Thread(target=write, args=(i,), daemon=True) for i in range(int(sys.argv[2]))]
for t in threads: t.start()
print("started", flush=True)
threading.Event().wait()
'''
OTHERS = '''
import os, sys
os.chdir(sys.argv[1])
with open("other", "wb", buffering=0) as file:
    file.write(b"other")
    print("ready", flush=True)
    sys.stdin.readline()
    print(open("known", "rb").read() == b"known" * 1000)
print(os.stat("other").st_size)
'''

async def main():
    store = MemoryStore()
    await store.put("known", b"known" * 1000)
    silent = asyncio.Event()
    async def gate(kind, key):
        if key.startswith("stuck") and kind not in ("HEAD", "LIST"):
            await silent.wait()
    fd = mount.open_fuse()
    mount.mount_fuse(fd, path, source_name="test")
    session = Session(fd, mount.read_init(fd, 10))
    async with asyncio.TaskGroup() as group:
        config = TreeConfig(memory_bytes=64 << 20, spool_bytes=64 << 20, allow_overwrite=True)
        context = MountContext.create(store, config, group)
        state = here / "state" if spool == "spool" else None
        fs = FileSystem(context, prefix="", kernel=session, state_dir=state)
        serving = group.create_task(session.serve(Bridge(fs)))
        await session.is_answered.wait()
        store.gate = gate
        before = resident()
        others = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OTHERS, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        await others.stdout.readline()
        words = [sys.executable, "-c", WRITERS, str(path), str(n)]
        writers = subprocess.Popen(words, stdout=subprocess.PIPE)
        out = [await asyncio.to_thread(writers.stdout.readline)]
        calm, last = 0, -1
        while calm < 20:
            await asyncio.sleep(0.05)
            now = session._loop.counts.total()
            calm, last = (calm + 1 if now == last else 0), now
        after, usage = resident(), fs.usage()
        answers = (await others.communicate(b"go\\n"))[0].decode().split()
        answers.append(bytes(store.objects["other"].data).decode())
        waiting = session.requests_in_flight
        writers.send_signal(signal.SIGKILL)
        silent.set()  # it closes its files before it ends, one after the other
        code = await asyncio.to_thread(writers.wait, 100)
        failed = [int(line.split()[1]) for line in writers.stdout if line.startswith(b"failed")]
        while session.requests_in_flight:
            await asyncio.sleep(0.05)
        left = fs.usage().memory_bytes["requests"]
        store.gate = gate
        await asyncio.to_thread(mount.umount, path)
        await serving
        await fs.drain()
        await fs.close()
    print(json.dumps({
        "grown": (after["RssAnon:"] - before["RssAnon:"]) >> 10,
        "requests": usage.memory_bytes["requests"],
        "bound": usage.memory_limit_bytes["requests"],
        "buffers": usage.memory_bytes["buffers"],
        "waiting": waiting, "answers": answers, "code": code, "left": left, "failed": failed,
    }))

uvloop.run(main())
"""


@pytest.fixture
def full_disk(tmp_path):
    """The worker's state directory: 1 MiB."""
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tiny", state], check=True, timeout=60)
    yield
    subprocess.run(["umount", "-l", state], check=True, timeout=60)


@pytest.mark.usefixtures("full_disk")
def test_a_disk_that_is_full_before_the_spool_is_ends_no_more_than_the_writes_that_wait(tmp_path):
    found = json.loads(run_program(PROGRAM, tmp_path, 400, "spool", within_s=3 * WITHIN_S))
    assert found["failed"] == [errno.ENOMEM]
    assert found["requests"] <= found["bound"]
    assert found["answers"] == ["True", "5", "other"], "others go on"
    assert (found["code"], found["left"]) == (-9, 0)


@pytest.mark.parametrize("n", [400, 4000])
@pytest.mark.parametrize("spool", ["spool", "none"])
def test_threads_that_write_to_a_silent_store_leave_the_worker_below_its_share(tmp_path, n, spool):
    out = run_program(PROGRAM, tmp_path, n, spool, within_s=3 * WITHIN_S)
    found = json.loads(out.splitlines()[-1])
    assert found["requests"] <= found["bound"]
    assert found["buffers"] <= 64 << 20
    assert found["grown"] < 64 + 100, "buffers and what a worker needs besides them, in MiB"
    assert found["answers"] == ["True", "5", "other"], "others go on"
    assert found["code"] == -9
    assert found["left"] == 0
    assert found["waiting"] > 0
