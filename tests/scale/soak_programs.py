"""The programs of the soak: each repeats its steps until it is ended, and checks every byte.

    python -m tests.scale.soak_programs NAME DIRECTORY SEED

Prints a line of JSON for each step: {"step": NAME, "error": what was wrong or ""}. DIRECTORY is the
mount, with the layout `LAYOUT`; each program changes things only in a directory of its own.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.scale.made_up_bodies import Pattern
from tests.scale.made_up_bucket import SIZES
from tests.scale.work_base import WrongResultError, expect
from tests.scale.work_names import expect_numbers, lines

NAMES, TREE, LARGE_BYTES = 30_000, 20_000, 48 << 20
LAYOUT = {
    "big": {"n": NAMES},
    "tree": {"directories": TREE // 100, "files": 100},
    "old": {"n": 3000},
    "large": {"bytes": LARGE_BYTES},
}
PAUSE_S = 0.05
FILE_BYTES = 12 << 20

Step = Callable[[Path, Path, random.Random], None]  # the mount, an own directory, chance
STEPS: dict[str, Step] = {}


def step(work: Step) -> Step:
    STEPS[work.__name__.replace("_", "-")] = work
    return work


@step
def finder(mount: Path, _own: Path, _rng: random.Random) -> None:
    count = sum(1 for _ in lines("find", str(mount / "tree"), "-type", "f", "-size", "-900k"))
    expect(count == TREE, f"find: {count} files of {TREE}")


@step
def lister(mount: Path, _own: Path, _rng: random.Random) -> None:
    listed = lines("ls", "-l", str(mount / "big"))
    expect_numbers((line for line in listed if line.startswith("-")), NAMES)


@step
def editor(_mount: Path, own: Path, rng: random.Random) -> None:
    """Creates, appends, truncates, renames, replaces and removes, next to a model."""
    model: dict[str, bytes] = {}
    for _ in range(60):
        name = f"f{rng.randrange(12)}"
        content = rng.randbytes(rng.choice((0, 1, 100, 5000, 300_000)))
        match rng.randrange(6):
            case 0:
                (own / name).write_bytes(content)
                model[name] = content
            case 1 | 2:
                with (own / name).open("ab") as file:
                    file.write(content)
                model[name] = model.get(name, b"") + content
            case 3 if name in model:
                size = rng.randrange(len(model[name]) + 10)
                os.truncate(own / name, size)
                model[name] = model[name][:size].ljust(size, b"\0")
            case 4 if name in model:
                other = f"f{rng.randrange(12)}"
                (own / name).rename(own / other)
                model[other] = model.pop(name)
            case 5 if name in model:
                (own / name).unlink()
                del model[name]
    expect(set(os.listdir(own)) == set(model), f"names: {sorted(os.listdir(own))}")
    for name, content in model.items():
        expect((own / name).read_bytes() == content, f"{name}: wrong bytes")
        (own / name).unlink()


@step
def random_writer(_mount: Path, own: Path, rng: random.Random) -> None:
    path, model = own / "random", bytearray(rng.randbytes(FILE_BYTES))
    path.write_bytes(model)
    with path.open("r+b", buffering=0) as file:
        for k in range(600):
            at, data = rng.randrange(FILE_BYTES - 5000), rng.randbytes(rng.randrange(1, 5000))
            file.seek(at)
            file.write(data)
            model[at : at + len(data)] = data
            if k % 200 == 199:
                os.fsync(file.fileno())
                file.seek(at)
                expect(file.read(len(data)) == data, f"bytes at {at}, after fsync")
    expect(path.read_bytes() == model, "a randomly written file: wrong bytes")
    path.unlink()


@step
def holder(mount: Path, own: Path, rng: random.Random) -> None:
    """Many files open at once: readers, and writers of a few bytes."""
    chosen = rng.sample(range(NAMES), 400)
    readers = [(i, os.open(mount / "big" / f"f{i:07d}", os.O_RDONLY)) for i in chosen]
    writers = [os.open(own / f"w{i}", os.O_RDWR | os.O_CREAT) for i in range(200)]
    for i, fd in enumerate(writers):
        os.write(fd, b"%d" % i)
    for i, fd in readers:
        size = i % SIZES
        expect(os.pread(fd, SIZES, 0) == Pattern(size, i).read(0, size), f"file {i}: wrong bytes")
        os.close(fd)
    for i, fd in enumerate(writers):
        expect(os.pread(fd, 10, 0) == b"%d" % i, f"open file {i}: wrong bytes")
        os.close(fd)
    for i in range(len(writers)):
        expect((own / f"w{i}").read_bytes() == b"%d" % i, f"closed file {i}: wrong bytes")
        (own / f"w{i}").unlink()


@step
def mover(_mount: Path, own: Path, rng: random.Random) -> None:
    """Renames a directory with files in it, some of them open."""
    count = rng.randrange(10, 150)
    (own / "a" / "b").mkdir(parents=True)
    for i in range(count):
        (own / "a" / "b" / f"f{i}").write_bytes(b"%d" % i)
    with (own / "a" / "b" / "f0").open("rb") as held:
        (own / "a").rename(own / "moved")
        expect(held.read() == b"0", "an open file of a renamed directory: wrong bytes")
    expect_numbers(iter(os.listdir(own / "moved" / "b")), count)
    for i in range(0, count, 7):
        expect((own / "moved" / "b" / f"f{i}").read_bytes() == b"%d" % i, f"moved file {i}")
    shutil.rmtree(own / "moved")


@step
def reader(mount: Path, _own: Path, rng: random.Random) -> None:
    """Reads ahead, and stops somewhere."""
    until = rng.randrange(LARGE_BYTES)
    with (mount / "large" / "f0000000").open("rb") as file:
        at = 0
        while at < until:
            data = file.read(1 << 20)
            expect(data == Pattern(LARGE_BYTES).read(at, at + len(data)), f"bytes at {at}")
            at += len(data)


@step
def slow_scanner(mount: Path, own: Path, _rng: random.Random) -> None:
    with os.scandir(mount / "old") as there:
        names = [next(there).name]
        for i in range(100):
            (own / f"n{i}").write_bytes(b"x")
            names += [entry.name for _, entry in zip(range(20), there, strict=False)]
        names += [entry.name for entry in there]
    expect_numbers(iter(names), 3000)
    for i in range(100):
        (own / f"n{i}").unlink()


@step
def victim(_mount: Path, own: Path, rng: random.Random) -> None:
    """A program that is killed while it writes: what it wrote before is there, and nothing else."""
    path = own / "killed"
    code = "import sys, os\nf = open(sys.argv[1], 'ab', buffering=0)\n"
    code += "while True: f.write(b'0123456789abcdef' * 64)\n"
    with subprocess.Popen([sys.executable, "-c", code, path]) as process:
        time.sleep(rng.uniform(0.2, 2.0))
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while path.exists() and time.monotonic() < deadline:
        content = path.read_bytes()
        expect(content == (b"0123456789abcdef" * (len(content) // 16)), "wrong bytes after a kill")
        path.unlink()


def main(name: str, mount: Path, seed: int) -> None:
    rng, i = random.Random(f"{name}{seed}"), 0
    while True:
        i += 1
        own, error = mount / "own" / f"{name}-{seed}-{i}", ""
        try:
            own.mkdir(parents=True)
            STEPS[name](mount, own, rng)
            own.rmdir()
        except WrongResultError as exc:
            error = f"wrong: {exc}"
        except OSError as exc:
            error = repr(exc)
        sys.stdout.write(json.dumps({"step": name, "error": error}) + "\n")
        sys.stdout.flush()
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
