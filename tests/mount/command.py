"""The mount command as people start it, against moto: as root, or as an ordinary user."""

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from csi_s3.kernel.mountinfo import mount_at
from tests.servers import Server, running

UID = 65534  # fusermount3 wants a user with a name
WITHIN_S = 60
CSI_S3 = [sys.executable, "-m", "csi_s3"]
# An ordinary user, who may search and read directories: Python may be installed below /root.
AS_USER = [
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
]


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    with running("moto") as server:
        server.create_bucket("data")
        for key in ("hello.txt", "deep/er/note.txt"):
            put(server, key, b"hello\n")
        yield server


def put(server: Server, key: str, body: bytes) -> None:
    """key: quoted. Public; moto drops the body of what urllib calls a form by default."""
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    assert server.request("PUT", f"/data/{key}", body, headers)[0] == 200


@pytest.fixture
def env(s3: Server) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    return {**clean, **s3.env(), "AWS_ENDPOINT_URL": s3.endpoint, "HOME": "/nonexistent"}


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that the ordinary user owns; free again after the test."""
    with free_directory() as path:
        yield path


@contextmanager
def free_directory() -> Iterator[Path]:
    above = Path(tempfile.mkdtemp(prefix="csi-s3-test-")).resolve()
    above.chmod(0o755)
    path = above / "here"
    path.mkdir()
    os.chown(path, UID, UID)
    try:
        yield path
    finally:
        pids = workers(path)
        while mount_at(str(path)):
            subprocess.run(["umount", "-l", path], check=True, timeout=WITHIN_S)
        for pid in pids:
            wait_gone(pid)
        shutil.rmtree(above)


def mount(
    *arguments: object, env: dict[str, str], before: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`csi-s3 mount … --force-path-style`, to its end."""
    words = [*(before or []), *CSI_S3, "mount", *map(str, arguments), "--force-path-style"]
    return subprocess.run(
        words, env=env, check=False, capture_output=True, text=True, timeout=WITHIN_S
    )


@contextmanager
def foreground(
    *arguments: object, env: dict[str, str], before: list[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`csi-s3 mount --foreground`, mounted; killed at the end if it still runs."""
    words = [*(before or []), *CSI_S3, "mount", *map(str, arguments), "--force-path-style", "-f"]
    with subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            assert "is mounted at" in line, process.stderr.read()
            yield process
        finally:
            process.kill()


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def workers(directory: Path) -> list[int]:
    """Processes that serve, or served, a mount on this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"worker" in words and any(w.endswith(f",{directory}".encode()) for w in words):
                found.append(int(entry.name))
    return found


def worker(directory: Path) -> int:
    (pid,) = workers(directory)
    return pid


def wait_gone(pid: int) -> None:
    """Until the process has ended (a zombie has)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(WITHIN_S * 1000), f"process {pid} has not ended"
    finally:
        os.close(fd)


def wait_unmounted(directory: Path) -> None:
    """The kernel tells of every change of mountinfo by POLLPRI."""
    with Path("/proc/self/mountinfo").open("rb") as file:
        poll = select.poll()
        poll.register(file, select.POLLPRI)
        while mount_at(str(directory)):
            assert poll.poll(WITHIN_S * 1000), f"{directory} is still mounted"


def is_mounted(directory: Path) -> bool:
    return mount_at(str(directory)) is not None
