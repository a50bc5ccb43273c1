"""The S3 server of a run: MinIO with its data on a tmpfs, filled, reached directly or through
delayproxy. What counts as stored is asked of MinIO itself, past the proxy."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.session

from bench.cases import EDIT_BYTES, Case, Given
from bench.systems import ACCESS_KEY, BUCKET, REGION, SECRET_KEY
from tests.binaries import binary

START_S = 20
FILL_S = 400
ANYBODY_MAY_PUT = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": ["*"]},
            "Action": ["s3:PutObject"],
            "Resource": [f"arn:aws:s3:::{BUCKET}/*"],
        }
    ],
}


@dataclass(frozen=True, slots=True)
class Setting:
    """How far away the server seems to be. Without a proxy nothing is counted."""

    name: str
    title: str
    proxy: tuple[str, ...] | None


DIRECT = Setting("direct", "MinIO directly (loopback)", None)
DELAYED = Setting(
    "delayed",
    "MinIO behind delayproxy: 25 ms to the first byte, 2 ms to connect, "
    "90 MB/s per connection, 312.5 MB/s in all",
    ("-latency=25ms", "-connect=2ms", "-conn-rate=90e6", "-total-rate=312.5e6"),
)
SETTINGS = {setting.name: setting for setting in (DELAYED, DIRECT)}


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A background program, killed at the end; its output goes to `log` unless said otherwise."""
    with log.open("ab") as out:
        options = {"stdout": out, "stderr": out, **options}
        process = subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)
        if process.stdout:
            process.stdout.close()


class Server:
    """MinIO and its bucket. Made by `serving`, which owns the process."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        self._client = botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=botocore.config.Config(s3={"addressing_style": "path"}, read_timeout=60),
        )

    def fill(self, load: Path, sets: list[str]) -> None:
        """Put the data in a new bucket; anonymously, because load does not sign."""
        self._client.create_bucket(Bucket=BUCKET)
        self._client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(ANYBODY_MAY_PUT))
        fill(load, f"{self.url}/{BUCKET}", sets)
        self._client.delete_bucket_policy(Bucket=BUCKET)

    def make_directory(self, name: str, given: Sequence[Given]) -> None:
        """A directory that every system sees as one: a prefix with something in it."""
        self._client.put_object(Bucket=BUCKET, Key=f"{name}/keep", Body=b"k")
        with ThreadPoolExecutor(8) as pool:
            for files in given:
                pairs = ((files.source % i, files.name % i) for i in range(files.count))
                all(pool.map(lambda pair: self._copy(pair[0], f"{name}/{pair[1]}"), pairs))

    def _copy(self, source: str, key: str) -> bool:
        self._client.copy_object(
            Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": source}
        )
        return True

    def remove_directory(self, name: str) -> None:
        while True:
            page = self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/")
            keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
            if not keys:
                return
            self._client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys, "Quiet": True})

    def stored(self, name: str, case: Case) -> int:
        """How many objects the directory has that the case must write, by HEAD, GET or LIST."""
        size = case.written
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{name}/{case.written_in}"
        )
        entries = [entry for page in pages for entry in page.get("Contents", ())]
        found = [entry["Key"] for entry in entries if entry["Size"] == size]
        if len(found) == 1 and case.edited_at is not None:
            last = case.edited_at + EDIT_BYTES - 1
            part = self._client.get_object(
                Bucket=BUCKET, Key=found[0], Range=f"bytes={case.edited_at}-{last}"
            )
            return int(part["Body"].read() == b"\xff" * EDIT_BYTES)
        if len(found) == 1:
            head = self._client.head_object(Bucket=BUCKET, Key=found[0])
            return int(head["ContentLength"] == size)
        return len(found)


def fill(load: Path, base: str, sets: list[str]) -> None:
    """Raises RuntimeError if the data cannot be put in place."""
    done = subprocess.run(
        [str(load), "fill", base, *sets],
        stdout=subprocess.PIPE,
        text=True,
        timeout=FILL_S,
        check=True,
    )
    if error := json.loads(done.stdout).get("error"):
        raise RuntimeError(f"filling {base}: {error}")


@contextmanager
def serving(work: Path) -> Iterator[Server]:
    data = work / "minio"
    data.mkdir()
    port = _free_port()
    env = {
        "HOME": str(work),
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": SECRET_KEY,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_SCANNER_SPEED": "slowest",
    }
    address = f"127.0.0.1:{port}"
    command = [str(binary("minio")), "server", "--quiet", "--address", address, str(data)]
    with running(command, work / "minio.log", env=env) as process:
        _wait_live(process, f"http://{address}/minio/health/live", work / "minio.log")
        yield Server(port)


class Proxy:
    """A delayproxy's addresses. Made by `proxying`, which owns the process."""

    def __init__(self, url: str, stats_url: str) -> None:
        self.url, self._stats_url = url, stats_url

    def take_counts(self) -> dict[str, Any]:
        """What has passed since the last call, see delayproxy."""
        with urllib.request.urlopen(self._stats_url + "?reset=1", timeout=10) as answer:
            counts: dict[str, Any] = json.load(answer)
            return counts


@contextmanager
def proxying(program: Path, server: Server, setting: Setting, work: Path) -> Iterator[Proxy | None]:
    """The setting's proxy before the server, or None where clients go straight to it."""
    if setting.proxy is None:
        yield None
        return
    command = [str(program), f"-upstream={server.address}", *setting.proxy]
    with running(command, work / "proxy.log", stdout=subprocess.PIPE) as process:
        assert process.stdout
        said = json.loads(process.stdout.readline())
        yield Proxy(f"http://{said['listen']}", f"http://{said['stats']}/")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _wait_live(process: subprocess.Popen[str], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError) as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"MinIO does not start: {log.read_text()[-500:]}") from exc
            time.sleep(0.05)
