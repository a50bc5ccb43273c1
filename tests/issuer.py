"""An OpenID issuer on loopback, like a cluster's for the tokens of service accounts.

    with issuer() as found, minio_with_role(found) as server:
        token = found.token("system:serviceaccount:kube-system:s3-csi-driver-sa")

A thread serves it, so that session fixtures and async tests can use it alike.
"""

import base64
import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.servers import READY_WITHIN_S, Server, running

AUDIENCE = "sts.amazonaws.com"
MINIO_ROLE = (
    "arn:minio:iam:us-east-1::role/"
    + base64.urlsafe_b64encode(hashlib.sha1(AUDIENCE.encode()).digest()).rstrip(b"=").decode()
)


@dataclass
class Issuer:
    url: str
    key: rsa.RSAPrivateKey = field(repr=False)

    def token(self, subject: str, *, audience: str = AUDIENCE, ends_in_s: float = 3600) -> str:
        """A signed token, as the cluster's API server makes them."""
        now = int(datetime.now(UTC).timestamp())
        claims = {
            "iss": self.url,
            "sub": subject,
            "aud": [audience],
            "iat": now - 7200,
            "nbf": now - 7200,
            "exp": now + int(ends_in_s),
        }
        signed = b".".join(
            _b64(json.dumps(part).encode())
            for part in ({"alg": "RS256", "typ": "JWT", "kid": "one"}, claims)
        )
        signature = self.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return (signed + b"." + _b64(signature)).decode()

    def documents(self) -> dict[str, object]:
        public = self.key.public_key().public_numbers()
        return {
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/never",
                "token_endpoint": f"{self.url}/never",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            },
            "/keys": {
                "keys": [
                    {
                        "kty": "RSA",
                        "alg": "RS256",
                        "use": "sig",
                        "kid": "one",
                        "n": _number(public.n),
                        "e": _number(public.e),
                    }
                ]
            },
        }


@contextmanager
def issuer() -> Iterator[Issuer]:
    found = Issuer("", rsa.generate_private_key(public_exponent=65537, key_size=2048))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = found.documents().get(self.path)
            body = json.dumps(document).encode()
            self.send_response(404 if document is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def minio_with_role(found: Issuer, *, policy: str = "readwrite") -> Iterator[Server]:
    """A MinIO where tokens of this issuer may have MINIO_ROLE, with that policy.

    It serves S3 before it has read its policies, so the role is requested until it is granted.

    Raises:
        RuntimeError: it is not granted.

    """
    env = {
        "MINIO_IDENTITY_OPENID_CONFIG_URL": f"{found.url}/.well-known/openid-configuration",
        "MINIO_IDENTITY_OPENID_CLIENT_ID": AUDIENCE,
        "MINIO_IDENTITY_OPENID_ROLE_POLICY": policy,
    }
    with running("minio", env=env) as server:
        deadline = time.monotonic() + READY_WITHIN_S
        while (answer := _asked_for_role(server, found.token("anybody")))[0] != HTTPStatus.OK:
            if time.monotonic() > deadline:
                raise RuntimeError(f"MinIO gives no role: {answer}")
            time.sleep(0.05)
        yield server


def _asked_for_role(server: Server, token: str) -> tuple[int, bytes]:
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": MINIO_ROLE,
        "RoleSessionName": "ready",
        "WebIdentityToken": token,
    }
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(server.endpoint, data=urlencode(form).encode(), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _number(value: int) -> str:
    return _b64(value.to_bytes((value.bit_length() + 7) // 8, "big")).decode()
