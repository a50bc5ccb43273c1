"""Workloads with many open files, many writes, and stores that fail."""

import errno
import os
import random
import threading
import time

from tests.scale.made_up_bodies import Pattern
from tests.scale.made_up_bucket import SIZES
from tests.scale.work_base import Place, WrongResultError, expect, program

STEP = 1024  # bytes between the writes into a sparse file
BLOCK = 4096
WRITE = 128 << 10
STALL_S = 60
HANG_S = 20


@program
def open_writers(at: Place) -> None:
    """Each open file has one byte written to it; they are closed when all are open."""
    _write_open_files(at)
    for i in range(at.n):
        expect((at.path / "open" / f"{i}").read_bytes() == b"%d" % (i % 10), f"byte of file {i}")


@program
def many_open_writers(at: Place) -> None:
    """As a partitioned write does. No write waits for memory that only its program could free."""
    progress = [0, time.monotonic()]
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(0.5):
            if time.monotonic() - progress[1] > STALL_S:
                line = f"write to open file {progress[0] + 1} of {at.n} has waited for {STALL_S} s"
                os.write(1, b'{"failure": "%s", "said": ""}\n' % line.encode())
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _write_open_files(at, progress)
    is_done.set()
    for i in range(at.n):
        expect((at.path / "open" / f"{i}").read_bytes() == b"%d" % (i % 10), f"byte of file {i}")


def _write_open_files(at: Place, progress: list[float] | None = None) -> None:
    (at.path / "open").mkdir()
    files = []
    for i in range(at.n):
        files.append(os.open(at.path / "open" / f"{i}", os.O_WRONLY | os.O_CREAT))
        os.write(files[-1], b"%d" % (i % 10))
        if progress is not None:
            progress[:] = i + 1, time.monotonic()
    for i, fd in enumerate(files):
        os.close(fd)
        if progress is not None:
            progress[:] = i + 1, time.monotonic()


@program
def handles_of_one_file(at: Place) -> None:
    path, content = at.path / "big" / "f0000100", Pattern(100, 100).read(0, 100)
    handles = []
    for i in range(at.n):
        handles.append(os.open(path, os.O_RDONLY))
        start = i % 90
        expect(os.pread(handles[-1], 10, start) == content[start : start + 10], f"handle {i}")
    for fd in handles:
        os.close(fd)


@program
def handles_of_many_files(at: Place) -> None:
    handles = []
    for i in range(at.n):
        handles.append(os.open(at.path / "big" / f"f{i:07d}", os.O_RDONLY))
        size = i % SIZES
        expect(os.read(handles[-1], SIZES) == Pattern(size, i).read(0, size), f"bytes of file {i}")
    for i, fd in enumerate(handles):
        if i % 100 == 0:
            size = i % SIZES
            expect(os.pread(fd, SIZES, 0) == Pattern(size, i).read(0, size), f"file {i}, again")
        os.close(fd)


@program
def sparse_file(at: Place) -> None:
    """Writes at random places of a new file that has its full size from the beginning."""
    order = list(range(at.n))
    random.Random(at.n).shuffle(order)
    path = at.path / "sparse"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, at.n * STEP)
    for i in order:
        os.pwrite(fd, b"%8d" % i, i * STEP)
    os.close(fd)
    with path.open("rb") as file:
        for i in range(at.n):
            expect(file.read(STEP) == (b"%8d" % i).ljust(STEP, b"\0"), f"write {i} is not there")
        expect(file.read() == b"", "more bytes than expected")


@program
def scattered_edits(at: Place) -> str:
    """One byte in each block of a large stored file; the spool may have no room for all."""
    order = list(range(at.n))
    random.Random(at.n).shuffle(order)
    path, size = at.path / "large" / "f0000000", at.n * BLOCK
    fd, done = os.open(path, os.O_RDWR), set()
    try:
        for i in order:
            os.pwrite(fd, b"!", i * BLOCK)
            done.add(i)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
    os.close(fd)
    with path.open("rb") as file:
        for i in range(at.n):
            wanted = bytearray(Pattern(size).read(i * BLOCK, (i + 1) * BLOCK))
            if i in done:
                wanted[0:1] = b"!"
            expect(file.read(BLOCK) == wanted, f"block {i}: wrong bytes")
    return f"{len(done)} writes fitted into the spool"


@program
def refused_writes(at: Place) -> None:
    """A program that goes on writing after an upload has failed."""
    (at.path / "refused").mkdir()
    at.set_rules(*({"kind": kind, "key": "^refused/"} for kind in ("PUT", "CREATE-UPLOAD", "PART")))
    fd = os.open(at.path / "refused" / "f", os.O_WRONLY | os.O_CREAT)
    refused = 0
    for _ in range(at.n + 1000):
        try:
            os.write(fd, bytes(WRITE))
        except OSError:
            refused += 1
            if refused == at.n:
                break
    try:
        os.close(fd)
    except OSError:
        pass
    else:
        raise WrongResultError("close has not given the error")
    finally:
        at.set_rules()
    expect(refused == at.n, f"only {refused} writes were refused")


@program
def store_that_hangs(at: Place) -> str:
    """So many threads wait at once for a store that does not answer."""
    (at.path / "hang").mkdir()
    at.set_rules({"kind": "PUT", "key": "^hang/", "hang": True})
    threading.stack_size(256 << 10)
    errors: list[OSError] = []

    def write(i: int) -> None:
        try:
            (at.path / "hang" / f"{i}").write_bytes(b"x")
        except OSError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(at.n)]
    for thread in threads:
        thread.start()
    time.sleep(HANG_S)
    waiting = sum(thread.is_alive() for thread in threads)
    at.set_rules()
    for thread in threads:
        thread.join()
    expect(not errors, f"{len(errors)} writes failed, such as {errors[:1]}")
    return f"{waiting} threads waited"


@program
def warm_up(at: Place) -> None:
    """What any use brings into a worker's memory once; nothing of it stays."""
    directory = at.path / "warm"
    directory.mkdir()
    for i in range(20):
        (directory / f"{i}").write_bytes(bytes(10_000))
    for name in os.listdir(directory):
        expect(len((directory / name).read_bytes()) == 10_000, "the size of a first file")
        (directory / name).unlink()
    directory.rmdir()


@program
def edit_and_hold(at: Place) -> None:
    """A process changes a stored file in all its blocks, and has it open until its mount ends."""
    is_written, tell = os.pipe()
    if os.fork() == 0:
        os.closerange(0, 3)
        fd = os.open(at.path / "large" / "f0000000", os.O_RDWR)
        for i in range(at.n):
            os.pwrite(fd, b"!", i * BLOCK)
        os.write(tell, b".")
        time.sleep(HANG_S)
        os._exit(0)
    os.close(tell)
    expect(os.read(is_written, 1) == b".", "the file could not be changed")


@program
def edit(at: Place) -> None:
    """Changes it in all its blocks, and closes it."""
    with (at.path / "large" / "f0000000").open("r+b", buffering=0) as file:
        for i in range(at.n):
            file.seek(i * BLOCK)
            file.write(b"?")
    with (at.path / "large" / "f0000000").open("rb") as file:
        for i in range(at.n):
            expect(file.read(BLOCK)[:1] == b"?", f"block {i}: wrong bytes")
