"""Nothing whose close or fsync succeeded is lost, whatever ends; what could not be stored is
uploaded by the mount's next worker, or named with its path."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_s3.local.mount_session import _state_dir
from tests.faulty import faulty
from tests.mount.command import WITHIN_S, directory, mount, wait_gone, worker
from tests.mount.mounted import errno_of, minio
from tests.programs.runs import objects
from tests.servers import Server

__all__ = ["directory", "minio"]

GUARDS = ("--allow-delete", "--allow-overwrite")
STEPS = 27  # each kind of step three times
MIB = 1 << 20

# One file (or directory) for each step: what a step left is found by the step's number.
PROGRAM = """
    import itertools, os, random

    def content(n, size):
        return random.Random(n).randbytes(size)

    def create(path, data, flags=0):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        os.close(fd)

    def sequential(n):
        create(f"{n}", content(n, 20 << 20 if n < 9 else 100_000))

    def edits(n):
        data = bytearray(content(n, 6 << 20))
        create(f"{n}", data)
        fd = os.open(f"{n}", os.O_RDWR)
        for at in random.Random(-n).sample(range(len(data) - 5000), 4):
            os.pwrite(fd, content(at, 5000), at)
        os.close(fd)

    def synced(n):
        fd = os.open(f"{n}", os.O_WRONLY | os.O_CREAT)  # and never closed
        os.write(fd, content(n, 50_000))
        os.fsync(fd)

    def appends(n):
        create(f"{n}", content(n, 70_000))
        for _ in range(2):
            create(f"{n}", content(n, 10), os.O_APPEND)

    def exclusive(n):
        create(f"{n}", content(n, 30_000), os.O_EXCL)

    def renames(n):
        create(f"{n}.new", content(n, 40_000))
        create(f"{n}", b"old")
        os.rename(f"{n}.new", f"{n}")

    def tree(n):
        os.makedirs(f"{n}.new/below")
        for m in range(5):
            create(f"{n}.new/below/{m}", content(m, 1000))
        os.rename(f"{n}.new", f"{n}")

    def truncates(n):
        create(f"{n}", content(n, 60_000))
        os.truncate(f"{n}", 20_000)

    def removes(n):
        create(f"{n}", b"x")
        create(f"{n}.kept", content(n, 10))
        os.unlink(f"{n}")

    KINDS = [sequential, edits, synced, appends, exclusive, renames, tree, truncates, removes]
    for n in itertools.count():
        KINDS[n % len(KINDS)](n)
        print(n, flush=True)
"""


def environment(server: Server, endpoint: str, tmp_path: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    own = {"AWS_ENDPOINT_URL": endpoint, "LOGS": str(tmp_path / "logs")}
    return {**clean, **server.env(), **own, "HOME": "/nonexistent"}


def mounted(bucket: str, path: Path, env: dict[str, str], *more: str) -> None:
    done = mount(bucket, path, *GUARDS, *more, "--log-directory", env["LOGS"], env=env)
    assert done.returncode == 0, done.stderr


def logged(env: dict[str, str]) -> list[str]:
    lines = []
    for file in Path(env["LOGS"]).iterdir():
        text = file.read_text()
        lines += text[: text.rfind("\n") + 1].splitlines()
    return [json.loads(line)["message"] for line in lines]


def wait_logged(env: dict[str, str], regex: str) -> re.Match[str]:
    deadline = time.monotonic() + WITHIN_S
    while True:
        for line in logged(env):
            if found := re.search(regex, line):
                return found
        assert time.monotonic() < deadline, (regex, logged(env))
        time.sleep(0.05)


def unmount(path: Path) -> None:
    pid = worker(path)
    subprocess.run(["umount", path], check=True, timeout=WITHIN_S)
    wait_gone(pid)


def kill(path: Path) -> None:
    pid = worker(path)
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    subprocess.run(["umount", "-l", path], check=True, timeout=WITHIN_S)


@pytest.fixture
def bucket(minio: Server, directory: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new one; what a killed worker leaves of its mount on the machine is removed in the end."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name)[-60:].strip("-")
    yield minio.create_bucket(name)
    shutil.rmtree(_state_dir(f"s3://{name}/", str(directory)), ignore_errors=True)


@pytest.mark.parametrize("steps", [STEPS, STEPS - 4, STEPS - 8])
def test_what_a_program_was_told_is_stored_is_there_when_everything_is_killed(
    minio, directory, bucket, tmp_path, steps
):
    """The worker and the program are killed while the program is at its next step."""
    mounted(bucket, directory, environment(minio, minio.endpoint, tmp_path))
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    with subprocess.Popen(
        [sys.executable, program],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        for n in range(steps):
            assert process.stdout.readline() == f"{n}\n"
        kill(directory)
        process.kill()

    # By the same program on the local disk: the same steps, then one that may be half done.
    local = tmp_path / "local"
    local.mkdir()
    with subprocess.Popen(
        [sys.executable, program], cwd=local, stdout=subprocess.PIPE, text=True
    ) as process:
        for n in range(steps):
            assert process.stdout.readline() == f"{n}\n"
        process.kill()

    def of_steps(paths):
        return {p: d for p, d in paths.items() if int(re.match(r"\d+", p)[0]) < steps}

    expected = {
        str(p.relative_to(local)): p.read_bytes() if p.is_file() else None for p in local.rglob("*")
    }
    got = of_steps(objects(minio, bucket))
    assert sorted(got) == sorted(of_steps(expected))
    assert [p for p, data in of_steps(expected).items() if got[p] != data] == []


@pytest.mark.parametrize("end", [unmount, kill])
def test_what_could_not_be_stored_is_uploaded_by_the_next_mount(
    minio, directory, bucket, tmp_path, end
):
    """S3 is out of reach when files are closed; later it is back, and the bucket mounted again."""
    old, edited = os.urandom(7 * MIB), bytearray()
    for key in ("edited", "replaced"):
        assert minio.request("PUT", f"/{bucket}/{key}", old)[0] == 200
    with faulty(minio.endpoint) as gate:
        env = environment(minio, gate.endpoint, tmp_path)
        mounted(bucket, directory, env, "--aws-max-attempts=1")
        edited[:] = old
        edited[3 * MIB : 3 * MIB + 5] = b"edits"
        files = {
            "new": os.open(directory / "new", os.O_WRONLY | os.O_CREAT),
            "edited": os.open(directory / "edited", os.O_RDWR),
            "replaced": os.open(directory / "replaced", os.O_RDWR),
        }
        os.write(files["new"], b"written while S3 was away")
        os.pwrite(files["edited"], b"edits", 3 * MIB)
        os.pwrite(files["replaced"], b"never to be merged", 0)
        gate.shut()
        for fd in files.values():
            assert errno_of(lambda fd=fd: os.close(fd)) == errno.EIO
        for name in files:
            wait_logged(env, f"^{name} could not be uploaded and is kept in ")
        end(directory)
        assert minio.request("GET", f"/{bucket}/new")[0] == 404
        assert minio.request("PUT", f"/{bucket}/replaced", b"by another client")[0] == 200
        gate.reopen()
        mounted(bucket, directory, env)
        for name in ("new", "edited"):
            wait_logged(env, f"^{name}: uploaded what an earlier worker could not")
        there = wait_logged(env, r"^replaced: .* its bytes are in (\S+)")[1]
        unmount(directory)
    assert minio.request("GET", f"/{bucket}/new") == (200, b"written while S3 was away")
    assert minio.request("GET", f"/{bucket}/edited") == (200, bytes(edited))
    assert minio.request("GET", f"/{bucket}/replaced") == (200, b"by another client")
    assert b"never to be merged" in Path(there).read_bytes()


def test_what_was_being_changed_when_its_worker_died_is_named(minio, directory, bucket, tmp_path):
    """What exceeds the memory is in the spool; whether it is consistent is unknown."""
    old = os.urandom(24 * MIB)
    assert minio.request("PUT", f"/{bucket}/f", old)[0] == 200
    env = environment(minio, minio.endpoint, tmp_path)
    mounted(bucket, directory, env)
    fd = os.open(directory / "f", os.O_RDWR)
    for at in range(0, 20 * MIB, MIB):
        os.pwrite(fd, b"half of it", at)
    kill(directory)
    assert errno_of(lambda: os.close(fd)) in (errno.ENOTCONN, errno.ECONNABORTED)
    mounted(bucket, directory, env)
    there = wait_logged(env, r"^f was being changed when .* is in (\S+):")[1]
    unmount(directory)
    assert minio.request("GET", f"/{bucket}/f") == (200, old)
    assert b"half of it" in Path(there).read_bytes()
