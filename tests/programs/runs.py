"""A program run twice: in a local directory, and in a mounted bucket (MinIO, the mount command).

At the end the mount is unmounted, and every byte in the bucket is compared with the local one. The
server is asked without the product.
"""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote_plus

import pytest
from lxml import etree

from tests.mount.command import free_directory, mount, wait_gone, worker
from tests.servers import Server, running
from tests.slow_steps import assert_none_in

WITHIN_S = 100  # of any program
ROOT = Path(__file__).parents[2]
APPS_PYTHON = ROOT / "build" / "apps" / "bin" / "python"  # scripts/apps.sh makes it
LINK_SUFFIX = ".rclonelink"

Tree = dict[str, bytes | None]  # a symbolic link's content is its target; None: a directory


@dataclass
class Place:
    """One of the two directories that a program is run in."""

    root: Path
    env: dict[str, str]

    def sh(self, script: str, *, within_s: float = WITHIN_S) -> str:
        """Run a shell script here; it must succeed. Returns what it printed, this path left out."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", textwrap.dedent(script)],
            cwd=self.root,
            env=self.env,
            check=False,
            capture_output=True,
            text=True,
            timeout=within_s,
        )
        assert done.returncode == 0, (str(self.root), done.stdout[-4000:], done.stderr[-4000:])
        return done.stdout.replace(str(self.root), "HERE")

    def python(
        self, code: str, *, interpreter: str = sys.executable, within_s: float = WITHIN_S
    ) -> str:
        """Run a Python program here; as `sh`."""
        script = self.env["SCRIPTS"] + "/program.py"
        Path(script).write_text(textwrap.dedent(code))
        return self.sh(f"{interpreter} -W error {script}", within_s=within_s)


@dataclass
class Twice:
    """server, bucket: what is mounted at `mounted`. logs: the directory of the worker's log."""

    server: Server
    bucket: str
    local: Place
    mounted: Place
    logs: Path
    _is_over: bool = field(default=False)

    def sh(self, script: str, *, within_s: float = WITHIN_S, same_output: bool = True) -> str:
        """Run a shell script at both places; it must print the same. Returns what it printed."""
        return self._both(lambda place: place.sh(script, within_s=within_s), same_output)

    def python(
        self,
        code: str,
        *,
        interpreter: Path | str = sys.executable,
        within_s: float = WITHIN_S,
        same_output: bool = True,
    ) -> str:
        """As `sh`, of a Python program."""
        return self._both(
            lambda place: place.python(code, interpreter=str(interpreter), within_s=within_s),
            same_output,
        )

    def _both(self, run: Callable[[Place], str], same_output: bool) -> str:
        expected, got = run(self.local), run(self.mounted)
        if same_output:
            assert got == expected
        return got

    def compare(self, *differing: str) -> Tree:
        """Unmount, and compare the bucket with the local directory. Returns what it holds.

        differing: regular expressions for paths whose bytes may differ, because a program writes
            times, inode numbers or random numbers into them.
        """
        self.unmount()
        expected, got = local_tree(self.local.root), self.objects()
        assert sorted(got) == sorted(expected)
        wrong = [
            path
            for path, data in expected.items()
            if got[path] != data and not any(re.search(regex, path) for regex in differing)
        ]
        assert wrong == []
        return got

    def unmount(self) -> None:
        """Everything is in the bucket when this returns."""
        if not self._is_over:
            self._is_over = True
            pid = worker(self.mounted.root)
            subprocess.run(["umount", self.mounted.root], check=True, timeout=WITHIN_S)
            wait_gone(pid)
            assert self.problems() == []

    def problems(self) -> list[str]:
        """What the worker's log says of WARNING or worse."""
        lines = [line for f in self.logs.iterdir() for line in f.read_text().splitlines()]
        return [x for x in lines if re.search(r'"level": "(WARNING|ERROR|CRITICAL)"', x)]

    def objects(self) -> Tree:
        """The bucket as a tree of files."""
        return objects(self.server, self.bucket)


def objects(server: Server, bucket: str, prefix: str = "") -> Tree:
    """What is below a prefix as a tree of files, by other means than the product."""
    keys, token = [], ""
    while True:
        query = f"list-type=2&prefix={quote(prefix, safe='')}&encoding-type=url{token}"
        status, body = server.request("GET", f"/{bucket}?{query}")
        assert status == 200, body
        page = etree.fromstring(body)
        keys += [unquote_plus(k.text) for k in page.iterfind("{*}Contents/{*}Key")]
        more = page.findtext("{*}NextContinuationToken")
        if not more:
            break
        token = f"&continuation-token={quote(more, safe='')}"

    def get(key: str) -> bytes:
        status, body = server.request("GET", f"/{bucket}/{quote(key)}")
        assert status == 200, key
        return body

    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(get, keys))
    tree: Tree = {}
    for key, body in zip(keys, bodies, strict=True):
        path = key.removeprefix(prefix)
        for above in Path(path).parents[:-1]:
            tree[str(above)] = None
        if path:
            tree[path.rstrip("/").removesuffix(LINK_SUFFIX)] = None if path.endswith("/") else body
    return tree


def write_tree(root: Path, tree: Tree) -> None:
    """Make the files of a bucket on the local disk (links are written as files)."""
    for path, data in tree.items():
        there = root / path
        (there if data is None else there.parent).mkdir(parents=True, exist_ok=True)
        if data is not None:
            there.write_bytes(data)


def local_tree(root: Path) -> Tree:
    tree: Tree = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            tree[name] = os.fsencode(path.readlink())
        else:
            tree[name] = None if path.is_dir() else path.read_bytes()
    return tree


@pytest.fixture(scope="session")
def minio() -> Iterator[Server]:
    with running("minio") as server:
        yield server


@pytest.fixture
def twice(minio: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Twice]:
    bucket = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    minio.create_bucket(bucket)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "GIT_"))}
    env = {**clean, **minio.env(), "AWS_ENDPOINT_URL": minio.endpoint, "HOME": "/nonexistent"}
    (tmp_path / "local").mkdir()
    (tmp_path / "home").mkdir()
    own = {**clean, "HOME": str(tmp_path / "home"), "SCRIPTS": str(tmp_path), "LC_ALL": "C.UTF-8"}
    with free_directory() as path:
        logs = path.parent / "logs"
        guards = ("--allow-delete", "--allow-overwrite")
        done = mount(bucket, path, *guards, "--log-directory", logs, env=env)
        assert done.returncode == 0, done.stderr
        made = Twice(
            server=minio,
            bucket=bucket,
            local=Place(tmp_path / "local", own),
            mounted=Place(path, own),
            logs=logs,
        )
        yield made
        made.unmount()
        assert_none_in(logs.iterdir())
