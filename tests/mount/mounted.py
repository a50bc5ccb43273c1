"""One bucket on MinIO, mounted once for a module's tests, with both guards open, for uid 12574.

Each test works in a directory of its own (`here`), whose name on the server is the test's.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.mount.command import WITHIN_S, free_directory, mount
from tests.servers import Server, running
from tests.slow_steps import assert_none_in

UID = 12574
AS_USER = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all")
OPEN = ("--allow-delete", "--allow-overwrite", "--allow-other", f"--uid={UID}", f"--gid={UID}")


@dataclass
class Mounted:
    """path: where it is mounted. logs: the directory of its worker's log."""

    server: Server
    path: Path
    logs: Path
    env: dict[str, str]

    def get(self, key: str) -> bytes | None:
        """The object, asked for without the product."""
        status, body = self.server.request("GET", f"/data/{quote(key)}")
        return body if status == 200 else None

    def put(self, key: str, body: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        assert self.server.request("PUT", f"/data/{quote(key)}", body, headers)[0] == 200

    def remove(self, key: str) -> None:
        assert self.server.request("DELETE", f"/data/{quote(key)}")[0] == 204

    def log(self) -> list[dict[str, object]]:
        lines = [line for file in self.logs.iterdir() for line in file.read_text().splitlines()]
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def minio(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Or another store, where a module's tests are parametrised (indirectly) by its kind."""
    with running(getattr(request, "param", "minio")) as server:
        server.create_bucket("data")
        yield server


@pytest.fixture(scope="module")
def env(minio: Server) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    return {**clean, **minio.env(), "AWS_ENDPOINT_URL": minio.endpoint, "HOME": "/nonexistent"}


@pytest.fixture(scope="module")
def mounted(minio: Server, env: dict[str, str]) -> Iterator[Mounted]:
    with free_directory() as path:
        logs = path.parent / "logs"
        done = mount("data", path, *OPEN, "--log-directory", logs, env=env)
        assert done.returncode == 0, done.stderr
        yield Mounted(minio, path, logs, env)
        assert_none_in(logs.iterdir())


@pytest.fixture
def here(mounted: Mounted, request: pytest.FixtureRequest) -> Path:
    """A new directory in the mount, `<test>/` in the bucket."""
    path = mounted.path / re.sub(r"\W+", "-", request.node.name)[:60].strip("-")
    path.mkdir()
    return path


def errno_of(call: Callable[[], object]) -> int:
    """What the kernel answers."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is the result
        call()
    return caught.value.errno


def sh(
    script: str, cwd: Path, *, as_user: bool = False, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a directory; it must end with that exit code."""
    words = [*(AS_USER if as_user else []), "sh", "-ec", script]
    done = subprocess.run(
        words, cwd=cwd, check=False, capture_output=True, text=True, timeout=WITHIN_S
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done
