"""The S3 server beside the cluster: MinIO on an address that pods reach, and its administration.

MinIO trusts tokens of the issuer that `openid` serves; the policy of such an identity is the one
that is named like the token's subject, so that a service account is a role as on AWS.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree as ET

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from tests.binaries import binary
from tests.servers import REGION, Server

PORT = 9000
KMS_KEY = "e2e-key"
ADMIN = "/minio/admin/v3/"
READY_WITHIN_S = 60
END_WITHIN_S = 10
AUDIENCE = "sts.amazonaws.com"
# All that guides tell an administrator to allow.
GUIDES = {"bucket": ["s3:ListBucket"], "keys": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]}


class Store:
    """A running MinIO and its root user. Buckets live as long as it."""

    def __init__(self, server: Server) -> None:
        self.server, self.endpoint, self.region = server, server.endpoint, REGION

    def bucket(self, stem: str = "e2e", name: str = "") -> str:
        """Make a bucket, with a new name if none is given."""
        return self.server.create_bucket(name or f"{stem}-{secrets.token_hex(4)}")

    def put(self, bucket: str, key: str, body: bytes | str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self._ok("PUT", f"/{bucket}/{quote(key)}", data)

    def get(self, bucket: str, key: str) -> bytes:
        return self._ok("GET", f"/{bucket}/{quote(key)}")

    def delete(self, bucket: str, key: str) -> None:
        self._ok("DELETE", f"/{bucket}/{quote(key)}")

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """The bucket's first thousand keys."""
        query = f"list-type=2&prefix={quote(prefix, safe='')}"
        tree = ET.fromstring(self._ok("GET", f"/{bucket}?{query}"))  # our own server
        return [e.text or "" for e in tree.iter() if e.tag.endswith("}Key")]

    def uploads(self, bucket: str) -> int:
        """How many multipart uploads are neither complete nor aborted (of the first thousand)."""
        tree = ET.fromstring(self._ok("GET", f"/{bucket}?uploads="))
        return sum(1 for e in tree.iter() if e.tag.endswith("}Upload"))

    def open_to_all(self, bucket: str) -> None:
        """Let everybody list and read it, without credentials."""
        statement = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:ListBucket", "s3:GetObject"],
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        self._ok("PUT", f"/{bucket}?policy=", json.dumps(policy).encode())

    def policy(self, name: str, *buckets: str, keys: list[str] | None = None) -> str:
        """Make or change a policy that allows on these buckets (x-* goes) what GUIDES do."""
        statements = [
            {"Effect": "Allow", "Action": GUIDES["bucket"],
             "Resource": [f"arn:aws:s3:::{bucket}" for bucket in buckets]},
            {"Effect": "Allow", "Action": keys or GUIDES["keys"],
             "Resource": [f"arn:aws:s3:::{bucket}/*" for bucket in buckets]},
        ]  # fmt: skip
        policy = {"Version": "2012-10-17", "Statement": statements}
        self._admin(f"add-canned-policy?name={quote(name, safe='')}", json.dumps(policy).encode())
        return name

    def user(self, policy: str) -> tuple[str, str]:
        """Make a user who may do what the policy says; its access and secret key."""
        access, secret = "user" + secrets.token_hex(6), secrets.token_hex(20)
        body = json.dumps({"secretKey": secret, "status": "enabled"}).encode()
        self._admin(f"add-user?accessKey={access}", self._encrypted(body))
        query = f"policyName={quote(policy, safe='')}&userOrGroup={access}&isGroup=false"
        self._admin(f"set-user-or-group-policy?{query}", b"")
        return access, secret

    def remove_user(self, access: str) -> None:
        self._admin(f"remove-user?accessKey={access}", b"", method="DELETE")

    def _admin(self, call: str, body: bytes, *, method: str = "PUT") -> None:
        self._ok(method, ADMIN + call, body)

    def _ok(self, method: str, path: str, body: bytes = b"") -> bytes:
        digest = {"X-Amz-Content-Sha256": sha256(body).hexdigest()}
        status, answer = self.server.request(method, path, body, digest)
        if status not in {200, 204}:
            raise RuntimeError(f"MinIO: {method} {path}: {status} {answer[:500]!r}")
        return answer

    def _encrypted(self, data: bytes) -> bytes:
        """As MinIO's admin clients send secrets: madmin-go, encrypt.go, PBKDF2 with AES-256-GCM."""
        salt, nonce = secrets.token_bytes(32), secrets.token_bytes(8)
        derive = PBKDF2HMAC(SHA256(), length=32, salt=salt, iterations=8192)
        cipher = AESGCM(derive.derive(self.server.secret_key.encode()))
        tag = cipher.encrypt(nonce + (0).to_bytes(4, "little"), b"", b"")
        last = b"\x80" + tag  # the only fragment is the last
        body = cipher.encrypt(nonce + (1).to_bytes(4, "little"), data, last)
        return salt + b"\x02" + nonce + body


@contextmanager
def running(host: str, config_url: str) -> Iterator[Store]:
    """Start MinIO on the address; it trusts the issuer whose discovery document is there.

    Raises:
        RuntimeError: the port is taken, or MinIO did not answer in time.

    """
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, PORT))
        except OSError as exc:
            raise RuntimeError(f"{host}:{PORT} cannot be had for the S3 server: {exc}") from exc
    kms = b64encode(secrets.token_bytes(32)).decode()
    access, secret = "root" + secrets.token_hex(6), secrets.token_hex(20)
    with tempfile.TemporaryDirectory(prefix="e2e-minio-") as tmp:
        (Path(tmp) / "data").mkdir()
        log = Path(tmp) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(binary("minio")), "server",
                 "--address", f"{host}:{PORT}", "--quiet", f"{tmp}/data"],
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": tmp,
                    "MINIO_ROOT_USER": access,
                    "MINIO_ROOT_PASSWORD": secret,
                    "MINIO_SITE_REGION": REGION,
                    "MINIO_BROWSER": "off",
                    "MINIO_UPDATE": "off",
                    "MINIO_KMS_SECRET_KEY": f"{KMS_KEY}:{kms}",
                    "MINIO_IDENTITY_OPENID_CONFIG_URL": config_url,
                    "MINIO_IDENTITY_OPENID_CLIENT_ID": AUDIENCE,
                    "MINIO_IDENTITY_OPENID_CLAIM_NAME": "sub",
                },
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=tmp,
            )  # fmt: skip
        try:
            server = Server(f"http://{host}:{PORT}", access, secret, "minio", process.pid, log)
            _wait_ready(server, process)
            yield Store(server)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(END_WITHIN_S)


def _wait_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline, last = time.monotonic() + READY_WITHIN_S, "no answer"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            status, _ = server.request("GET", ADMIN + "list-canned-policies")  # the last to serve
        except OSError as exc:
            last = str(exc)
        else:
            if status == 200:
                return
            last = f"HTTP {status}"
        time.sleep(0.1)
    tail = server.log.read_bytes()[-2000:].decode(errors="replace")
    raise RuntimeError(f"MinIO does not serve at {server.endpoint}: {last}\n{tail}")
