"""The S3 servers that tests and bench run: moto, MinIO, versitygw, on loopback, data in temp dirs.

Plain code, so that session fixtures, scripts and async tests can use it alike:

    with running("minio") as server:
        server.create_bucket("data")

A server ends with the thread that started it (PR_SET_PDEATHSIG by setpriv), so that a killed test
run leaves none behind. Differences between servers are declared in `tests/contract/quirks.py`.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.binaries import binary

KINDS = ("moto", "minio", "versitygw")
VERSIONED = "minio-versioned"  # MinIO, whose buckets here keep versions
REGION = "us-east-1"
READY_WITHIN_S = 60.0
END_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """One running S3 server. `secret_key` is the whole server's; buckets are path-style."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    kind: str
    pid: int
    log: Path

    def env(self) -> dict[str, str]:
        """What a client process needs in its environment to be this server's root user."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def create_bucket(self, name: str) -> str:
        """Create the bucket (it must not exist) and return its name."""
        status, body = self.request("PUT", f"/{name}")
        if status != 200:
            raise RuntimeError(f"{self.kind}: create bucket {name!r}: {status} {body[:300]!r}")
        if self.kind == VERSIONED:
            self.set_versioning(name, "Enabled")
        return name

    def set_versioning(self, bucket: str, state: str) -> None:
        """Turn versioning of the bucket on (Enabled) or off (Suspended)."""
        namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<VersioningConfiguration xmlns="{namespace}"><Status>{state}</Status>'
        body += "</VersioningConfiguration>"
        status, answer = self.request("PUT", f"/{bucket}?versioning=", body.encode())
        if status != 200:
            raise RuntimeError(f"{self.kind}: versioning of {bucket!r}: {status} {answer[:300]!r}")

    def head(self, path: str) -> Mapping[str, str]:
        """The headers that the server answers to a HEAD, by lower-case name."""
        status, _, headers = self._send("HEAD", path)
        if status != 200:
            raise RuntimeError(f"{self.kind}: HEAD {path}: {status}")
        return headers

    def request(
        self,
        method: str,
        path_and_query: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """One signed request, not sent by the driver's code; the path is already quoted."""
        status, answer, _ = self._send(method, path_and_query, body, headers)
        return status, answer

    def _send(
        self,
        method: str,
        path_and_query: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, dict[str, str]]:
        request = AWSRequest(
            method=method,
            url=self.endpoint + path_and_query,
            data=body,
            headers={"Content-Type": "application/octet-stream", **(headers or {})},
        )
        S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", REGION).add_auth(request)
        plain = urllib.request.Request(
            self.endpoint + path_and_query,
            data=body or None,
            method=method,
            headers=dict(request.headers.items()),
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(plain, timeout=30) as answer:
                found = answer
                content = found.read()
        except urllib.error.HTTPError as exc:
            with exc:
                found, content = exc, exc.read()
        return found.status, content, {k.lower(): v for k, v in found.headers.items()}


@contextmanager
def running(
    kind: str, *, data_parent: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start a server of KINDS, or VERSIONED, wait until it answers, end it and remove its data.

    data_parent: where its data directory is made (the bench: a tmpfs); default: the temp dir.
    env: more for its environment (moto: INITIAL_NO_AUTH_ACTION_COUNT).

    Raises:
        RuntimeError: it ended or did not answer in time; the message carries the end of its log.

    """
    access, secret = "test" + secrets.token_hex(6), secrets.token_hex(20)
    with tempfile.TemporaryDirectory(prefix=f"{kind}-", dir=data_parent) as tmp:
        data, log, port = Path(tmp) / "data", Path(tmp) / "log", _free_port()
        data.mkdir()
        command, own_env = _command(kind, port=port, data=data, access=access, secret=secret)
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env={**_clean_env(), "HOME": tmp, **own_env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=tmp,
            )
        try:
            server = Server(f"http://127.0.0.1:{port}", access, secret, kind, process.pid, log)
            _wait_ready(server, process)
            yield server
        finally:
            _end(process)


def _command(
    kind: str, *, port: int, data: Path, access: str, secret: str
) -> tuple[list[str], dict[str, str]]:
    address = f"127.0.0.1:{port}"
    if kind == "moto":
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], {}
    if kind in ("minio", VERSIONED):
        command = [str(binary("minio")), "server", "--address", address, "--quiet", str(data)]
        return command, {
            "MINIO_ROOT_USER": access,
            "MINIO_ROOT_PASSWORD": secret,
            "MINIO_SITE_REGION": REGION,  # else it takes signatures of any region
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }
    if kind == "versitygw":
        command = [str(binary("versitygw")), "--port", address, "--keep-alive", "--quiet"]
        return [*command, "--region", REGION, "posix", str(data)], {
            "ROOT_ACCESS_KEY_ID": access,
            "ROOT_SECRET_ACCESS_KEY": secret,
        }
    raise ValueError(f"no S3 server {kind!r}; there are {', '.join((*KINDS, VERSIONED))}")


def _clean_env() -> dict[str, str]:
    """This environment without what would change a server: keys, proxies, others' settings."""
    prefixes = ("AWS_", "MINIO_", "MOTO_", "VGW_", "ROOT_")
    return {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(prefixes) and not k.lower().endswith("_proxy")
    }


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Poll with a signed ListBuckets: MinIO accepts connections long before it serves."""
    deadline = time.monotonic() + READY_WITHIN_S
    last = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            last = f"it ended with {process.returncode}"
            break
        try:
            status, _ = server.request("GET", "/")
        except OSError as exc:
            last = str(exc)
        else:
            if status == 200:
                return
            last = f"HTTP {status}"
        time.sleep(0.05)
    tail = server.log.read_bytes()[-2000:].decode(errors="replace")
    raise RuntimeError(f"{server.kind} does not serve at {server.endpoint}: {last}\n{tail}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_WITHIN_S)
