"""A mounted bucket (MinIO, the mount command) in which a suite's program runs."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.command import WITHIN_S, free_directory, mount, wait_gone, worker
from tests.servers import Server, running
from tests.slow_steps import is_not_judged

OPEN = ("--allow-delete", "--allow-overwrite", "--allow-other")


@dataclass
class Place:
    """root: a directory in the mount, for everybody who may write there."""

    root: Path
    env: dict[str, str]

    def run(
        self, *words: object, within_s: float, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program here, to its end; stdout includes stderr."""
        return subprocess.run(
            [str(w) for w in words],
            cwd=self.root,
            env={**self.env, **(env or {})},
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=within_s,
        )


@contextmanager
def place(server: Server, bucket: str, *options: str) -> Iterator[Place]:
    """Mount a new bucket; at the end the worker must have nothing to complain of."""
    server.create_bucket(bucket)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    env = {**clean, **server.env(), "AWS_ENDPOINT_URL": server.endpoint, "HOME": "/nonexistent"}
    with free_directory() as path:
        os.chown(path, os.geteuid(), os.getegid())
        logs = path.parent / "logs"
        done = mount(bucket, path, *OPEN, *options, "--log-directory", logs, env=env)
        assert done.returncode == 0, done.stderr
        (path / "here").mkdir()
        yield Place(path / "here", {**clean, "LC_ALL": "C.UTF-8"})
        pid = worker(path)
        subprocess.run(["umount", path], check=True, timeout=WITHIN_S)
        wait_gone(pid)
        lines = [line for file in logs.iterdir() for line in file.read_text().splitlines()]
        complaints = [x for x in lines if re.search(r'"level": "(WARNING|ERROR|CRITICAL)"', x)]
        assert [x for x in complaints if not is_not_judged(x)] == []


@pytest.fixture(scope="session")
def minio() -> Iterator[Server]:
    with running("minio") as server:
        yield server
