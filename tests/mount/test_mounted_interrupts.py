"""Programs that get signals while they wait: killed ones end, others notice nothing."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from csi_s3.fuse.bridge import ANSWER_WITHIN_S
from csi_s3.fuse.interrupts import INTERRUPTED_AFTER_S
from tests.faulty import Act, Fault, Faulty, faulty
from tests.mount.command import WITHIN_S, directory, mount, worker
from tests.mount.mounted import env, here, minio, mounted
from tests.servers import Server

__all__ = ["directory", "env", "here", "minio", "mounted"]

MIB = 1 << 20

# Each prints a line when it is about to wait, and goes on when it is sent one.
STARTS = """
    import os, signal, sys
    os.chdir(sys.argv[1])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background

    def waits():
        print("waits", flush=True)
        sys.stdin.readline()

    def create(name, data):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.write(fd, data)
        return fd
"""
WAITING = {
    "look-up": 'waits(); os.stat("file")',
    "open": 'waits(); os.open("file", os.O_RDONLY)',
    "read": 'fd = os.open("big", os.O_RDONLY); waits(); os.pread(fd, 100, 40 << 20)',
    "direct": """
    import mmap
    fd, page = os.open("big", os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
    waits()
    os.preadv(fd, [page], 40 << 20)
""",
    "readdir": "waits(); os.listdir()",
    "mkdir": 'waits(); os.mkdir("made")',
    "unlink": 'waits(); os.unlink("file")',
    "rename": 'waits(); os.rename("file", "renamed")',
    "close": 'fd = create("closed", b"data" * 1000); waits(); os.close(fd)',
    "fsync": 'fd = create("synced", b"data" * 1000); waits(); os.fsync(fd)',
    "exclusive": 'waits(); os.open("claimed", os.O_WRONLY | os.O_CREAT | os.O_EXCL)',
    "truncate": 'waits(); os.truncate("file", 1)',
}
# It waits for a page, and lets SIGKILL alone end that; no INTERRUPT is sent.
BUT_BY_THE_KERNEL = "read", signal.SIGINT
WRITING = """
    data = os.urandom(1 << 20)
    with open(sys.argv[2], "wb", buffering=0) as local:
        fd = os.open("written", os.O_WRONLY | os.O_CREAT)
        waits()
        while True:
            n = os.write(fd, data)
            local.write(data[:n])
"""


class Program:
    """One that waits in the mount. It is killed if a test fails."""

    def __init__(self, script: str, *arguments: object) -> None:
        words = [sys.executable, "-c", textwrap.dedent(STARTS) + textwrap.dedent(script)]
        self.process = subprocess.Popen(
            [*words, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_begun(self) -> None:
        line = self.process.stdout.readline()
        assert line == "waits\n", self.process.stderr.read()

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait_gone(self, number: int) -> None:
        """Within a time in which a request that goes on waiting would not be answered."""
        _, errors = self.process.communicate(timeout=WITHIN_S)
        assert self.process.returncode == -number, errors


@dataclass
class Bucket:
    """Asked without the product. path: where it is mounted."""

    server: Server
    name: str
    path: Path

    def wait_stored(self, key: str) -> bytes:
        deadline = time.monotonic() + WITHIN_S
        while True:
            status, body = self.server.request("GET", f"/{self.name}/{key}")
            if status == 200:
                return body
            assert time.monotonic() < deadline, key
            time.sleep(0.05)


@pytest.fixture
def store(minio):
    with faulty(minio.endpoint) as proxy:
        yield proxy


@pytest.fixture
def bucket(minio, directory, store, env):
    """One of its own, mounted on the directory through a store that can hang."""
    name = minio.create_bucket(f"interrupts-{secrets.token_hex(4)}")
    options = ("--allow-delete", "--allow-overwrite", "--metadata-ttl", "minimal")
    own = {**env, "AWS_ENDPOINT_URL": store.endpoint}
    logs = ("--log-directory", directory.parent / "logs")
    done = mount(name, directory, *options, "--memory-target", 64, *logs, env=own)
    assert done.returncode == 0, done.stderr
    yield Bucket(minio, name, directory)
    store.let_go.set()


def wait_asked(store: Faulty, n: int) -> None:
    """Until so many requests hang."""
    deadline = time.monotonic() + WITHIN_S
    while sum(-1 - fault.times for fault in store.faults) < n:
        assert time.monotonic() < deadline, store.asked
        time.sleep(0.05)


def test_a_request_that_goes_on_waiting_would_not_be_answered_in_the_time_of_these_tests():
    assert INTERRUPTED_AFTER_S * 2 < WITHIN_S < ANSWER_WITHIN_S


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
def test_programs_that_wait_for_a_store_that_hangs_are_ended_by_a_signal(
    bucket, directory, store, number
):
    """And once the store answers, what they had begun is whole, and all can be used.

    Promise: A call that waits for S3 ends with EINTR 5 seconds after a signal, unless S3 answers
    before: then it ends as usual.
    """
    for case in WAITING:
        (directory / case).mkdir()
        (directory / case / "file").write_bytes(b"content")
    for case in ("read", "direct"):
        (directory / case / "big").write_bytes(bytes(64 * MIB))
    scripts = {case: s for case, s in WAITING.items() if (case, number) != BUT_BY_THE_KERNEL}
    programs = [Program(script, directory / case) for case, script in scripts.items()]
    for program in programs:
        program.wait_begun()
    store.faults.append(Fault(Act.HANG, times=-1))
    for program in programs:
        program.go_on()
    wait_asked(store, len(programs))
    for program in programs:
        program.process.send_signal(number)
    for program in programs:
        program.wait_gone(number)
    store.faults.clear()
    store.let_go.set()
    assert bucket.wait_stored("close/closed") == b"data" * 1000
    assert bucket.wait_stored("fsync/synced") == b"data" * 1000
    for case in (
        "look-up",
        "open",
        "read",
        "direct",
        "readdir",
        "close",
        "fsync",
        "exclusive",
        "mkdir",
    ):
        assert (directory / case / "file").read_bytes() == b"content"
    (renamed,) = (directory / "rename").iterdir()
    assert renamed.read_bytes() == b"content"
    assert (directory / "truncate" / "file").read_bytes() in (b"c", b"content")
    assert {path.name for path in (directory / "unlink").iterdir()} <= {"file"}
    for case in WAITING:
        again = directory / case / "again"
        again.write_bytes(b"again")
        again.rename(directory / case / "once more")
        assert (directory / case / "once more").read_bytes() == b"again"
    (directory / "mkdir" / "made").mkdir(exist_ok=True)
    claimed = directory / "exclusive" / "claimed"
    assert not claimed.exists() or claimed.read_bytes() == b""


MANY = 40  # more than could wait one after the other in the time of these tests
DIRTY = """
    files = [open(f"dirty-{i}", "wb", buffering=0) for i in range(int(sys.argv[2]))]
    for file in files:
        file.write(b"data" * 1000)
    waits()
    if sys.argv[3] == "closing":
        files[0].close()
"""


@pytest.mark.parametrize("state", ["idle", "closing"])
def test_a_program_with_many_files_that_are_not_stored_ends_as_soon_as_one_with_a_single_file(
    bucket, directory, store, state
):
    """The kernel closes them one after the other, and reports the signal for each.

    Promise: A program that is killed (SIGKILL) while S3 does not answer ends after 5 seconds, and
    after as many more if it has to close files that are not stored, however many these are.
    """
    assert MANY * INTERRUPTED_AFTER_S > WITHIN_S
    (directory / "d").mkdir()
    program = Program(DIRTY, directory / "d", MANY, state)
    program.wait_begun()
    store.faults.append(Fault(Act.HANG, times=-1))
    if state == "closing":
        program.go_on()
        wait_asked(store, 1)
    program.process.send_signal(signal.SIGKILL)
    program.wait_gone(signal.SIGKILL)
    store.faults.clear()
    store.let_go.set()
    for i in range(MANY):
        assert bucket.wait_stored(f"d/dirty-{i}") == b"data" * 1000


def test_a_signal_to_the_worker_logs_the_oldest_requests_with_the_keys_of_their_files(
    bucket, directory, store
):
    (directory / "d").mkdir()
    program = Program(DIRTY, directory / "d", 1, "closing")
    program.wait_begun()
    os.kill(worker(directory), signal.SIGUSR1)
    assert wait_logged(directory.parent / "logs", 1) == [
        "0 requests of programs wait for an answer"
    ]
    store.faults.append(Fault(Act.HANG, times=-1))
    program.go_on()
    wait_asked(store, 1)
    os.kill(worker(directory), signal.SIGUSR1)
    message = wait_logged(directory.parent / "logs", 2)[1]
    shown = r"1 requests .*; the oldest: FLUSH \d+ of inode \d+ \(d/dirty-0\), \d+ s"
    assert re.fullmatch(shown, message), message
    store.faults.clear()
    store.let_go.set()
    program.wait_gone(0)


def wait_logged(logs: Path, n: int) -> list[str]:
    """The messages about requests, once there are so many."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        text = "".join(file.read_text() for file in logs.iterdir())
        lines = [json.loads(line) for line in text.splitlines()]
        found = [line["message"] for line in lines if line.get("code") == "requests-waiting"]
        if len(found) >= n:
            return found
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
def test_what_write_has_accepted_of_a_program_that_is_killed_is_stored(
    bucket, directory, store, tmp_path, number
):
    """It writes until there is no more memory, because the store takes no part.

    Promise: What write() accepted is stored when S3 answers again, also if the program was ended.
    """
    (directory / "d").mkdir()
    store.faults.append(Fault(Act.HANG, method="PUT", path="partNumber", times=-1))
    local = tmp_path / "local"
    program = Program(WRITING, directory / "d", local)
    program.wait_begun()
    program.go_on()
    size, since = -1, time.monotonic()
    while time.monotonic() < since + 3:  # it does not go on
        if local.exists() and local.stat().st_size != size:
            size, since = local.stat().st_size, time.monotonic()
        time.sleep(0.05)
    assert size > 8 * MIB
    program.process.send_signal(number)
    program.wait_gone(number)
    store.faults.clear()
    store.let_go.set()
    written = local.read_bytes()
    data = bucket.wait_stored("d/written")
    assert data[: len(written)] == written
    assert len(data) - len(written) < MIB, "less than the write that was ended"


# A signal every 10 ms for as long as the program runs, also after its own exec: of a timer whose
# handler has SA_RESTART, as profilers and Go have it. An answer of EINTR is an error nevertheless.
TIMER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static volatile int ticks;
static void tick(int number) { ticks++; }
__attribute__((constructor)) static void start(void) {
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 5};
    struct itimerspec every = {{0, 10000000}, {0, 10000000}};
    timer_t timer;
    sigaction(SIGRTMIN + 5, &action, NULL);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) == 0) timer_settime(timer, 0, &every, NULL);
}
__attribute__((destructor)) static void end(void) {
    char text[16];
    int fd = open(getenv("TICKS"), O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (fd >= 0 && write(fd, text, snprintf(text, sizeof text, "%d\n", ticks)) > 0) close(fd);
}
"""
GIT = """
    git config --global user.name t
    git config --global user.email t@example.com
    git init -q --template= origin
    cd origin
    for i in 1 2; do echo "line $i" > file-$i; done
    git add .
    git commit -qm first
    cd ..
    git clone -q --template= --no-hardlinks origin copy
    cd copy
    test "$(cat file-2)" = "line 2"
"""
TAR = """
    mkdir tree
    for i in 1 2 3 4 5; do head -c 200000 /dev/urandom > tree/$i; done
    tar cf tree.tar tree
    mkdir copy
    tar xf tree.tar -C copy
    diff -r tree copy/tree
"""
SQLITE = f"""
    "{sys.executable}" -c '
import sqlite3
with sqlite3.connect("base") as db:
    db.execute("create table t (n integer primary key, s text)")
    for n in range(10):
        db.execute("insert into t values (?, ?)", (n, "x" * 5000))
        db.commit()
    print(db.execute("pragma integrity_check").fetchone()[0])
' | grep -x ok
"""
LARGE_BYTES = 40 * MIB  # five parts
LARGE = f"""
    "{sys.executable}" -c '
import os, time
fd = os.open("large", os.O_WRONLY | os.O_CREAT)
for _ in range({LARGE_BYTES} // 65536):
    assert os.write(fd, bytes(65536)) == 65536
began_s = time.monotonic()
os.close(fd)
assert time.monotonic() > began_s + {INTERRUPTED_AFTER_S}, "it does not show what it is to show"
'
"""


@pytest.fixture
def timer(tmp_path):
    """The environment of programs that get a signal every 10 ms; the file with their numbers."""
    library, ticks = tmp_path / "timer.so", tmp_path / "ticks"
    (tmp_path / "timer.c").write_text(TIMER)
    words = ["cc", "-shared", "-fPIC", "-o", library, tmp_path / "timer.c", "-lrt"]
    subprocess.run(words, check=True, timeout=WITHIN_S)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    own = {"LD_PRELOAD": str(library), "TICKS": str(ticks), "HOME": str(tmp_path)}
    return {**clean, **own}, ticks


@pytest.mark.timeout(10 * WITHIN_S)
@pytest.mark.parametrize(
    ("script", "delay_s"),
    [(GIT, 0.005), (TAR, 0.03), (SQLITE, 0.03), (LARGE, 3.0)],
    ids=["git", "tar", "sqlite", "large"],
)
def test_programs_with_a_timer_work_on_a_store_that_is_slow(bucket, store, timer, script, delay_s):
    """Also where a close takes longer than 5 seconds, because its parts leave one after the other.

    Promise: Signals that a program handles (timers, SIGCHLD) disturb no call while S3 answers.
    """
    environment, ticks = timer
    here = bucket.path / "d"
    here.mkdir()
    path = "partNumber" if script == LARGE else ""
    store.faults.append(Fault(Act.SLOW, path=path, times=-1, delay_s=delay_s))
    done = subprocess.run(
        ["sh", "-ec", textwrap.dedent(script)],
        cwd=here,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=5 * WITHIN_S,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    # signals that come while one call waits are delivered as one: the close of `large` counts once
    assert sum(map(int, ticks.read_text().split())) > (1 if script == LARGE else 100)
    assert store.faults[0].times < -5
    if script == LARGE:
        assert len(bucket.wait_stored("d/large")) == LARGE_BYTES


# Calls of the C library by themselves, because Python repeats those that end with EINTR.
SIGNALLED = """
    import ctypes, errno, signal, sys

    os.chdir(sys.argv[1])
    libc, got = ctypes.CDLL(None, use_errno=True), {signal.SIGALRM: 0, signal.SIGCHLD: 0}

    def handler(number, _frame):
        got[number] += 1

    def call(name, *arguments):
        result = getattr(libc, name)(*arguments)
        assert result >= 0, (name, errno.errorcode[ctypes.get_errno()])
        return result

    for number in got:
        signal.signal(number, handler)
        signal.siginterrupt(number, sys.argv[2] == "interrupts")
    buffer = ctypes.create_string_buffer(1 << 16)
    GETDENTS64 = {"x86_64": 217, "aarch64": 61}[os.uname().machine]
    waits()
    n = 0
    while min(got.values()) < 200 or n < 20:
        name = b"f%d" % n
        fd = call("open", name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        for _ in range(8):
            assert call("write", fd, b"x" * 50000, 50000) == 50000
        call("fsync", fd)
        call("close", fd)
        call("rename", name, b"renamed")
        call("mkdir", b"d%d" % n, 0o755)
        fd = call("open", b".", os.O_RDONLY | os.O_DIRECTORY)
        while call("syscall", GETDENTS64, fd, buffer, len(buffer)):
            pass
        call("close", fd)
        call("rmdir", b"d%d" % n)
        call("truncate", b"renamed", ctypes.c_long(7))
        call("unlink", b"renamed")
        n += 1
    print(n, *got.values(), flush=True)
    os._exit(0)  # with its handlers
"""


@pytest.mark.parametrize("how", ["restarts", "interrupts"])
def test_signals_that_a_program_handles_disturb_no_call(here, how):
    """Hundreds of two kinds, also for handlers after which the kernel does not restart calls.

    Promise: Signals that a program handles (timers, SIGCHLD) disturb no call while S3 answers.
    """
    program = Program(SIGNALLED, here, how)
    program.wait_begun()
    program.go_on()
    while program.process.poll() is None:
        for number in (signal.SIGALRM, signal.SIGCHLD):
            program.process.send_signal(number)
        time.sleep(0.002)
    done, errors = program.process.communicate(timeout=WITHIN_S)
    assert program.process.returncode == 0, errors
    _, *signals = map(int, done.split())
    assert min(signals) >= 200
