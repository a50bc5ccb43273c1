"""The cluster's token issuer, served again where MinIO can reach it, and a second key of our own.

MinIO has to fetch a discovery document and the keys; the API server gives them to clients of the
cluster only. The second key signs tokens that end sooner than the ten minutes that Kubernetes
gives at least.
"""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from e2e import kube
from e2e.store import AUDIENCE

OUR_KEY = "e2e"


class Issuer:
    """url: of the discovery document."""

    def __init__(self, url: str, name: str) -> None:
        self.url = f"{url}/.well-known/openid-configuration"
        self._name = name
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        keys = json.loads(kube.raw("/openid/v1/jwks"))["keys"]
        numbers = self._key.public_key().public_numbers()
        modulus, exponent = numbers.n.to_bytes(256, "big"), numbers.e.to_bytes(3, "big")
        keys.append({
            "kty": "RSA", "alg": "RS256", "use": "sig", "kid": OUR_KEY,
            "n": _encoded(modulus), "e": _encoded(exponent),
        })  # fmt: skip
        discovery = {"issuer": name, "jwks_uri": f"{url}/jwks"}
        self.pages = {
            "/.well-known/openid-configuration": json.dumps(discovery).encode(),
            "/jwks": json.dumps({"keys": keys}).encode(),
        }

    def token(self, subject: str, *, seconds: int) -> str:
        """A token for STS that ends so soon."""
        now = int(time.time())  # tokens tell the time of day
        claims = {"iss": self._name, "sub": subject, "aud": [AUDIENCE]}
        parts = [
            {"alg": "RS256", "typ": "JWT", "kid": OUR_KEY},
            {**claims, "iat": now, "exp": now + seconds},
        ]
        text = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
        signature = self._key.sign(text.encode(), padding.PKCS1v15(), SHA256())
        return f"{text}.{_encoded(signature)}"


@contextmanager
def serving(host: str) -> Iterator[Issuer]:
    """Serve the issuer on any port of the address."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = issuer.pages.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer((host, 0), Pages) as server:
        name = json.loads(kube.raw("/.well-known/openid-configuration"))["issuer"]
        issuer = Issuer(f"http://{host}:{server.server_port}", name)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join(5)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
