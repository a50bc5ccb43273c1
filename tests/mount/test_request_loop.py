"""The request loop on a real mount: what it knows of requests, and how it stops."""

import fcntl
import json
import os
import subprocess
import sys
import threading

import pytest

from csi_s3.fuse.protocol import Opcode
from csi_s3.fuse.request_loop import RequestLoop
from csi_s3.fuse.requests import KernelRequest
from tests.mount.command import WITHIN_S

HEAD = """
import asyncio, json, logging, os, pathlib, signal, subprocess, sys, time
import uvloop
from csi_s3.config.volume import TreeConfig
from csi_s3.fs.base.context import MountContext
from csi_s3.fs.filesystem import FileSystem
from csi_s3.fuse import answers, interrupts, protocol
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.session import Session
from csi_s3.kernel import mount
from csi_s3.s3.memory_store import MemoryStore

path, MEMORY = pathlib.Path(sys.argv[1]) / 'mount', 64 << 20
TTL = {}  # of metadata, if not by default
path.mkdir()

def run(code, *args):
    # A process of its own: the kernel waits for this one in each call on the mount.
    words = [sys.executable, "-c", f"import os, sys\\nos.chdir({str(path)!r})\\n{code}"]
    pipe, out = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(
        [*words, *map(str, args)], stdin=pipe, stdout=pipe, stderr=out, text=True
    )

async def ended(process):
    out, _ = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, (process.returncode, out)
    return out

async def until(holds):
    while not holds():
        await asyncio.sleep(0.005)

async def serving(test):
    store = MemoryStore()
    fd = mount.open_fuse()
    mount.mount_fuse(fd, path, source_name="test")
    session = Session(fd, mount.read_init(fd, 10))
    async with asyncio.TaskGroup() as group:
        config = TreeConfig(memory_bytes=MEMORY, allow_delete=True, allow_overwrite=True, **TTL)
        context = MountContext.create(store, config, group)
        fs = FileSystem(context, prefix="", kernel=session, state_dir=path.parent / 'state')
        served = group.create_task(session.serve(Bridge(fs)))
        await session.is_answered.wait()
        async with asyncio.timeout(100):
            found = await test(session, store, fs)
        await asyncio.to_thread(mount.umount, path)
        await served
        await fs.close()
    print(json.dumps(found))
"""


def mounted(tmp_path, program: str):
    """Run `test(session, store, fs)` of a program; returns what it returns."""
    code = f"{HEAD}\n{program}\nuvloop.run(serving(test))"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * WITHIN_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


HELD = """
async def test(session, store, fs):
    gate = asyncio.Event()
    ask = fs.lookup
    async def lookup(parent, name):
        if name.startswith(b"slow"):
            await gate.wait()
        return await ask(parent, name)
    fs.lookup = lookup
    processes = [run(f"os.path.exists('slow{n}')") for n in range(3)]
    requests = session._loop.in_flight
    await until(lambda: sum(r.opcode == protocol.Opcode.LOOKUP for r in requests) == 3)
    shown = [(protocol.Opcode(r.opcode).name, r.nodeid, r.is_resent) for r in requests.oldest()]
    tasks = {t.get_name() for t in asyncio.all_tasks()}
    named = [r.name in tasks and r.task.get_name() == r.name for r in requests]
    gate.set()
    for process in processes:
        await ended(process)
    await until(lambda: len(requests) == 0)
    return {"shown": shown, "named": named, "left": session.requests_in_flight}
"""


def test_requests_that_wait_are_known_by_number_operation_inode_and_task(tmp_path):
    assert mounted(tmp_path, HELD) == {
        "shown": [["LOOKUP", 1, False]] * 3,
        "named": [True] * 3,
        "left": 0,
    }


DRAIN = """
async def test(session, store, fs):
    gate, asked = asyncio.Event(), asyncio.Event()
    ask = fs.lookup
    async def lookup(parent, name):
        if name == b"slow":
            asked.set()
            await gate.wait()
        return await ask(parent, name)
    fs.lookup = lookup
    slow = run("print(os.path.exists('slow'))")
    await asked.wait()
    draining = asyncio.create_task(session.drain())
    await asyncio.sleep(0)
    late = run("print(os.path.exists('late'))")
    await asyncio.sleep(0.3)
    before = [draining.done(), slow.poll()]
    gate.set()
    await draining
    out = [await ended(slow)]
    await asyncio.sleep(0.1)
    waits = [session.requests_in_flight, late.poll()]
    counted = session._loop.counts.total()
    await asyncio.sleep(0.1)
    waits.append(session._loop.counts.total() - counted)
    session.resume()
    out.append(await ended(late))
    return [before, waits, out]
"""


def test_it_stops_taking_requests_answers_those_taken_and_says_so(tmp_path):
    before, waits, out = mounted(tmp_path, DRAIN)
    assert before == [False, None]
    assert waits == [0, None, 0]
    assert out == ["False\n", "False\n"]


INTERRUPTS = """
async def test(session, store, fs):
    gate, asked, heard = asyncio.Event(), asyncio.Event(), []
    def interrupt(task, closer):
        heard.append(task.get_name().split()[0])
        return True
    answers.interrupt = interrupt
    ask = fs.lookup
    async def lookup(parent, name):
        if name == b"slow":
            asked.set()
            await gate.wait()
        return await ask(parent, name)
    fs.lookup = lookup
    code = '''
import signal
signal.signal(signal.SIGUSR1, lambda *_: None)
print(os.path.exists("slow"))
'''
    process = run(code)
    await asked.wait()
    process.send_signal(signal.SIGUSR1)
    await until(lambda: heard)
    gate.set()
    out = await ended(process)
    # one of a request that was answered, or never came
    body = protocol.INTERRUPT_IN.pack(1 << 40)
    head = protocol.IN_HEADER.pack(48, protocol.Opcode.INTERRUPT, 3, 0, 0, 0, 0, 0, 0)
    request = type("R", (), {"name": "INTERRUPT"})
    session._answers._interrupt(request, memoryview(head + body))
    return [heard, out, session.requests_in_flight]
"""


def test_an_interrupt_is_heard_and_a_late_one_is_harmless(tmp_path):
    assert mounted(tmp_path, INTERRUPTS) == [["LOOKUP"], "False\n", 0]


RELAYED = """
async def test(session, store, fs):
    await store.put("a", b"1")
    gate, heard = asyncio.Event(), []
    def interrupt(task, closer):
        heard.append(task.get_name().split()[0])
        return True
    answers.interrupt = interrupt
    ask = fs.rename
    async def rename(*args, **fields):
        await gate.wait()
        await ask(*args, **fields)
    fs.rename = rename
    code = '''
import signal
signal.signal(signal.SIGUSR1, lambda *_: None)
os.rename("a", "b")
'''
    process = run(code)
    requests = session._loop.in_flight
    def renaming():
        return [r for r in requests if r.opcode == protocol.Opcode.RENAME and r.task]
    await until(renaming)
    named = [r.task.get_name() == r.name for r in renaming()]
    process.send_signal(signal.SIGUSR1)
    await until(lambda: heard)
    gate.set()
    await ended(process)
    code = '''
os.symlink("b", "l")
print(os.readlink("l"), os.statvfs(".").f_namemax, os.path.exists("a"), os.path.exists("b"))
try:
    os.link("b", "c")
except PermissionError as exc:
    print(exc.strerror)
'''
    out = await ended(run(code))
    return [named, heard, out.splitlines(), session.requests_in_flight]
"""


def test_what_goes_to_pyfuse3_is_known_interrupted_and_answered_as_well(tmp_path):
    named, heard, out, left = mounted(tmp_path, RELAYED)
    assert (named, heard, left) == ([True], ["RENAME"], 0)
    assert out == ["b 255 False True", "Operation not permitted"]


REFUSED = """
async def test(session, store, fs):
    code = '''
import errno
def call(function, *args):
    try:
        return function(*args)
    except OSError as exc:
        return errno.errorcode[exc.errno]
open("f", "w").close()
fd = os.open(".", os.O_RDONLY)
for _ in range(3):
    print(
        call(os.getxattr, "f", "user.a"), call(os.setxattr, "f", "user.a", b"v"),
        call(os.listxattr, "f"), call(os.removexattr, "f", "user.a"), call(os.fsync, fd),
        os.access("f", os.R_OK), os.isatty(fd),
    )
'''
    out = await ended(run(code))
    names = ("GETXATTR", "SETXATTR", "LISTXATTR", "REMOVEXATTR", "FSYNCDIR", "ACCESS")
    return [out.splitlines(), [session._loop.counts[protocol.Opcode[name]] for name in names]]
"""


def test_what_is_not_supported_is_asked_once_and_then_answered_by_the_kernel(tmp_path):
    lines, asked = mounted(tmp_path, REFUSED)
    assert lines == [" ".join(["ENOTSUP"] * 4 + ["None", "True", "False"])] * 3
    assert asked == [1, 1, 1, 1, 1, 0]


KILLED = """
interrupts.INTERRUPTED_AFTER_S = 0.3
async def test(session, store, fs):
    gate, reached = asyncio.Event(), asyncio.Event()
    async def through(*_): pass
    await store.put("f", b"1" * 100_000)
    is_closing = False
    async def stop(kind, _):
        if is_closing and kind != "PUT":
            return
        reached.set()
        await gate.wait()
    store.gate = stop
    silent = {"lookup": "os.path.exists('nothing')", "read": "open('f').read()",
        "list": "os.listdir('.')", "close": "open('g', 'wb').write(b'1'); print(flush=True)"}
    ended = {}
    for name, code in silent.items():
        is_closing = name == "close"
        reached.clear()
        process = run(code)
        await reached.wait()
        process.send_signal(signal.SIGKILL)
        ended[name] = await asyncio.to_thread(process.wait, 20)
    stored = "g" in store.objects
    gate.set()
    store.gate = through
    await until(lambda: "g" in store.objects)
    return [ended, stored, session.requests_in_flight, bytes(store.objects["g"].data).decode()]
"""


def test_sigkill_ends_programs_that_wait_for_a_silent_store_and_loses_nothing(tmp_path):
    ended, stored, waiting, data = mounted(tmp_path, KILLED)
    assert ended == {"lookup": -9, "read": -9, "list": -9, "close": -9}
    assert (stored, waiting, data) == (False, 0, "1")


SIGNALS = """
async def test(session, store, fs):
    for n in range(200):
        await store.put(f"d/{n}", b"")
    async def slowly(*_):
        await asyncio.sleep(0.02)
    store.gate = slowly
    code = '''
import signal, shutil
caught = 0
def handle(*_):
    global caught
    caught += 1
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
n = 0
while caught < 200 or n < 5:
    assert len(os.listdir("d")) == 200
    with open(f"new-{n}", "wb", buffering=0) as file:
        file.write(b"1" * 100_000)
    os.rename(f"new-{n}", f"moved-{n}")
    assert os.stat(f"moved-{n}").st_size == 100_000
    n += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(n)
'''
    n = int(await ended(run(code)))
    return [n >= 5, sum(len(store.objects[f"moved-{i}"].data) == 100_000 for i in range(n)) == n]
"""


def test_signals_that_a_program_handles_stay_unnoticed(tmp_path):
    assert mounted(tmp_path, SIGNALS) == [True, True]


LACKING = """
async def test(session, store, fs):
    code = '''
with open("f", "wb") as file:
    os.posix_fallocate(file.fileno(), 0, 1 << 20)
    file.write(b"data")
print(os.stat("f").st_size, open("f", "rb").read(5) == b"data" + bytes(1))
with open("f", "rb") as source, open("g", "wb") as target:
    print(os.copy_file_range(source.fileno(), target.fileno(), 1 << 20))
    print(os.lseek(source.fileno(), 0, os.SEEK_DATA), os.lseek(source.fileno(), 0, os.SEEK_HOLE))
print(open("f", "rb").read() == open("g", "rb").read())
'''
    out = (await ended(run(code))).split()
    counts = session._loop.counts
    names = ("FALLOCATE", "COPY_FILE_RANGE", "COPY_FILE_RANGE_64", "LSEEK")
    asked = [counts[protocol.Opcode[name]] for name in names]
    return [out, asked[0], asked[1] + asked[2], asked[3]]
"""


def test_what_pyfuse3_lacks_is_answered(tmp_path):
    out, *asked = mounted(tmp_path, LACKING)
    assert out == ["1048576", "True", "1048576", "0", "1048576", "True"]
    assert min(asked) >= 1


PIECES = """
import hashlib
async def test(session, store, fs):
    size = 21 << 20
    data = os.urandom(size)
    await store.put("f", data)
    code = '''
import hashlib
print(hashlib.sha256(open("f", "rb").read()).hexdigest())
fd = os.open("f", os.O_RDONLY | os.O_DIRECT)
import mmap
buffer = mmap.mmap(-1, 1 << 20)
digest, n = hashlib.sha256(), 1
while n:
    n = os.readv(fd, [buffer])
    digest.update(buffer[:n])
print(digest.hexdigest())
os.lseek(fd, (21 << 20) - 4096, os.SEEK_SET)
print(os.readv(fd, [buffer]), os.readv(fd, [buffer]))
'''
    out = (await ended(run(code))).split()
    right = hashlib.sha256(data).hexdigest()
    return [out[0] == right, out[1] == right, out[2:]]
"""


def test_large_reads_are_right_also_at_the_end_of_a_file_and_without_the_page_cache(tmp_path):
    assert mounted(tmp_path, PIECES) == [True, True, ["4096", "0"]]


WRITES = """
import hashlib
async def test(session, store, fs):
    code = '''
import hashlib, random
random.seed(3)
model = bytearray()
with open("f", "wb", buffering=0) as file:
    for n in range(300):
        at = random.randrange(0, len(model) + 1) if n % 3 else len(model)
        data = random.randbytes(random.choice((1, 4096, 100_000, 1 << 20)))
        file.seek(at)
        assert file.write(data) == len(data)
        model[at : at + len(data)] = data
print(hashlib.sha256(model).hexdigest())
'''
    out = (await ended(run(code))).split()
    held = fs.usage().memory_bytes["requests"]
    return [hashlib.sha256(store.objects["f"].data).hexdigest() == out[0], held]
"""


def test_writes_of_any_size_anywhere_are_stored_as_written(tmp_path):
    assert mounted(tmp_path, WRITES) == [True, 0]


NAMES = """
async def test(session, store, fs):
    for n in range(5000):
        await store.put(f"d/{n:05}-" + "x" * 200, b"")
    out = await ended(run("print(len(os.listdir('d')), len({e.name for e in os.scandir('d')}))"))
    return out.split()
"""


def test_long_directories_are_listed_whole(tmp_path):
    assert mounted(tmp_path, NAMES) == ["5000", "5000"]


@pytest.mark.parametrize("n", [2000, 20_000])
def test_forgetting_many_inodes_holds_up_no_other_request(tmp_path, n):
    """The kernel forgets all at once; in proportion, others get their turn in between."""
    program = FORGETS.replace("COUNT", str(n))
    left, turns = mounted(tmp_path, program)
    assert left <= 2
    assert turns >= n // 1000


FORGETS = """
MEMORY = 1 << 30
async def test(session, store, fs):
    for n in range(COUNT):
        await store.put(f"d/{n}", b"")
    for _ in range(5):  # other programs may drop the machine's caches in between
        await ended(run("assert len([e.stat() for e in os.scandir('d')]) == COUNT"))
        if fs.usage().inodes > COUNT:
            break
    assert fs.usage().inodes > COUNT
    turns, dropping = 0, run("open('/proc/sys/vm/drop_caches', 'w').write('2')")
    task = asyncio.create_task(ended(dropping))
    async def count():
        nonlocal turns
        while fs.usage().inodes > 2 and turns < 10_000_000:
            turns += 1
            await asyncio.sleep(0)
    await count()
    await task
    return [fs.usage().inodes, turns]
"""


LATE = """
TTL = {"metadata_ttl_s": 1000.0}
interrupts.INTERRUPTED_AFTER_S = 0.3
PROGRAM = '''
import ctypes, errno, signal, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(result):
    return errno.errorcode[ctypes.get_errno()] if result else "done"
def until(holds):
    while not holds():
        time.sleep(0.01)
signal.signal(signal.SIGALRM, lambda *_: None)
fd = os.open("f", os.O_RDWR)
os.pwrite(fd, b"2", 0)
before = os.pread(fd, 1 << 20, 0)
storing = threading.Thread(target=os.close, args=(os.dup(fd),))  # fsync locks the inode
storing.start()
print("storing", flush=True)
sys.stdin.readline()
signal.setitimer(signal.ITIMER_REAL, 0.1)
CALL
print(result, flush=True)
storing.join()
os.fsync(fd)
until(lambda: os.pread(fd, 1 << 20, 0) != before)
print(before[4090:4100], os.pread(fd, 10, 4090), os.fstat(fd).st_size)
'''
CALLS = {
    "punch": "result = call(libc.fallocate64(fd, 3, ctypes.c_int64(4096), ctypes.c_int64(4096)))",
    "truncate": "result = call(libc.ftruncate64(fd, ctypes.c_int64(4096)))",
    "empty": "result = call(libc.open(b'f', os.O_WRONLY | os.O_TRUNC) < 0)",
}
async def test(session, store, fs):
    gate, reached, found = asyncio.Event(), asyncio.Event(), {}
    async def stop(kind, _):
        if kind == "PUT":
            reached.set()
            await gate.wait()
    for name, code in CALLS.items():
        await store.put("f", b"1" * 100_000)
        gate.clear(), reached.clear()
        store.gate = stop
        process = run(PROGRAM.replace("CALL", code))
        await reached.wait()
        process.stdin.write("\\n")
        process.stdin.flush()
        line = asyncio.to_thread(process.stdout.readline)
        lines = [await line, await asyncio.to_thread(process.stdout.readline)]
        gate.set()
        found[name] = [*lines, await ended(process)]
    return found
"""


def test_a_change_that_goes_on_after_an_interrupt_is_what_programs_read_in_the_end(tmp_path):
    """The kernel drops its pages and the size where a change succeeds, not where it is EINTR.

    Promise: fallocate, a truncation and an open with O_TRUNC also go on; once they are done, every
    read of the file sees it.
    """
    assert mounted(tmp_path, LATE) == {
        "punch": ["storing\n", "EINTR\n", f"{b'1' * 10} {b'1' * 6 + bytes(4)} 100000\n"],
        "truncate": ["storing\n", "EINTR\n", f"{b'1' * 10} {b'1' * 6} 4096\n"],
        "empty": ["storing\n", "EINTR\n", f"{b'1' * 10} b'' 0\n"],
    }


NO_MEMORY = """
async def test(session, store, fs):
    loop, group = session._loop, session._relay.tasks
    take_buffer, start, forget = loop.take_buffer, group.start, fs.forget
    fs.files.try_write = lambda *_: False  # so that the writes have to wait, in memory
    fs.files.hold = lambda *_, **__: None
    def fail(*_):
        raise MemoryError
    def start_but_reads(work, name):
        if name.startswith("READ "):
            work.close()
            raise MemoryError
        return start(work, name)
    loop.take_buffer, group.start = fail, start_but_reads
    out = await ended(run('''
fd = os.open("f", os.O_RDWR | os.O_CREAT)
for call in (lambda: os.write(fd, b"x" * (1 << 20)), lambda: os.write(fd, b"small"),
             lambda: os.pread(fd, 10, 0)):
    try:
        print(call())
    except OSError as exc:
        print(exc.strerror)
'''))
    loop.take_buffer, group.start = take_buffer, start
    fs.forget = fail
    await ended(run('open("g", "w").close(); os.unlink("g")'))
    await until(lambda: loop.counts[protocol.Opcode.FORGET])
    fs.forget = forget
    out += await ended(run('print(open("f", "rb").read())'))
    return [out, session.requests_in_flight]
"""


def test_a_request_is_answered_also_where_plain_code_of_the_loop_fails(tmp_path):
    assert mounted(tmp_path, NO_MEMORY) == [
        "Input/output error\n5\nInput/output error\nb'small'\n",
        0,
    ]


def test_a_request_is_under_way_until_its_reply_is_written():
    reading, writing = os.pipe()
    size = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    os.write(writing, bytes(size))  # the next write waits
    loop = RequestLoop(writing, ended=lambda: None)
    request = KernelRequest(Opcode.READ, 2, 1)
    loop.in_flight.add(request)
    replying = threading.Thread(target=loop.reply, args=(request, [b"reply"]))
    replying.start()
    replying.join(0.2)
    assert len(loop.in_flight) == 1
    left = size + len(b"reply")
    while left:
        left -= len(os.read(reading, left))
    replying.join(WITHIN_S)
    assert len(loop.in_flight) == 0
    loop.close()
    os.close(reading)
