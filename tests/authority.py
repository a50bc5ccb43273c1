"""A certificate authority that no system trusts, and a server certificate that it has signed."""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """bundle: a PEM file that trusts it. context: of a server that has its certificate."""

    bundle: str
    context: ssl.SSLContext


def make_authority(directory: Path, *names: str) -> Authority:
    """For 127.0.0.1 and these host names."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name, name = _name("test authority"), _name("test server")
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    root = (
        _builder(root_name, root_name, root_key.public_key())
        .add_extension(constraints, critical=True)
        .sign(root_key, hashes.SHA256())
    )
    local = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    alternatives = x509.SubjectAlternativeName([local, *map(x509.DNSName, names)])
    leaf = (
        _builder(root_name, name, key.public_key())
        .add_extension(alternatives, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    bundle, chain = directory / "ca.pem", directory / "server.pem"
    bundle.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return Authority(str(bundle), context)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(issuer: x509.Name, subject: x509.Name, key) -> x509.CertificateBuilder:
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=1))
    )
