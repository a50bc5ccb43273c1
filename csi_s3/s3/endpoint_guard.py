"""Where a volume's requests may go, and which files it may name (`config.store_rules`).

A volume's author chooses `endpoint-url`. Without rules the mounter would send requests for him to
services that only the node reaches: instance metadata, what listens on loopback. A host name is
checked by the addresses that it resolves to, at each connection, because its owner may change them.
Redirects are never followed. Behind a proxy it is the proxy that resolves and connects; only
addresses in the URL are checked then.
"""

import ipaddress
import os
import socket
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from csi_s3.config.store_rules import CA_DIRECTORIES, StoreRules
from csi_s3.config.volume import BucketConfig
from csi_s3.errors import BadOptionError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
# As of getaddrinfo(3).
AddressInfo: TypeAlias = tuple[
    int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]
]

# Of clouds, besides the link-local ones: Azure, Alibaba, Oracle; AWS and Google by IPv6.
_METADATA = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.0/24",
        "fd00:ec2::/32",
        "fd20:ce::/32",
    )
)
_THIS_HOST = ipaddress.ip_network("0.0.0.0/8")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_OLD_IN_6 = ipaddress.ip_network("::/96")  # IPv4-compatible


class AddressGuard:
    """Opens the sockets of one volume, to the addresses that it may use.

    Lifetime: the bucket's. Concurrency: plain code. For `aiohttp.TCPConnector.socket_factory`.
    """

    def __init__(self, url: str, *, allow_loopback: bool) -> None:
        self._url, self._allow_loopback = url, allow_loopback
        self._refused: BadOptionError | None = None

    def check_url(self) -> None:
        """Refuse a URL with a literal address.

        Raises:
            BadOptionError: volumes may not use it.

        """
        if (address := _literal(urlsplit(self._url).hostname or "")) is not None:
            self._check(address)

    def open(self, info: AddressInfo) -> socket.socket:
        """Make the socket for one address, which is connected next.

        Raises:
            OSError: volumes may not use this address. `take_refusal` has the error.

        """
        family, kind, protocol, _, where = info
        try:
            if (address := _literal(str(where[0]))) is None:
                raise OSError(f"{where[0]!r} is not an address")
            self._check(address)
        except BadOptionError as exc:
            self._refused = exc.again()
            raise OSError(exc.what) from exc
        return socket.socket(family, kind, protocol)

    def take_refusal(self) -> BadOptionError | None:
        """The refusal since the last call, if any: why a connection could not be made."""
        refused, self._refused = self._refused, None
        return refused

    def _check(self, address: Address) -> None:
        reason = _reason(_inner(address), allow_loopback=self._allow_loopback)
        if reason:
            raise BadOptionError(
                f"endpoint-url {self._url} leads to {address}, {reason}: volumes may not use it",
                "name the store's own address; the driver's administrator can set s3.endpointUrl"
                " for all volumes, or --allow-loopback for development",
            )


def check_volume(config: BucketConfig, rules: StoreRules, *, own_url: str | None) -> None:
    """Check what the options of a volume name, before anything is opened.

    own_url: the mounter's endpoint, which a volume may name as well.

    Raises:
        BadOptionError: a host or a file that volumes may not name.

    """
    if is_foreign(config, own_url):
        host = urlsplit(config.endpoint_url or "").hostname or ""
        if not rules.allows(host):
            raise BadOptionError(
                f"endpoint-url {config.endpoint_url}: volumes may not use the host {host}",
                "the driver's administrator lists the hosts in the value s3.allowedEndpoints",
            )
    if config.ca_bundle is not None:
        _check_ca_bundle(config.ca_bundle)


def is_foreign(config: BucketConfig, own_url: str | None) -> bool:
    """Whether the volume's author chose the endpoint, not the mounter's settings or AWS."""
    return config.endpoint_url is not None and config.endpoint_url != own_url


def _check_ca_bundle(path: str) -> None:
    """A path anywhere could name a FIFO, a device, or a file in a mount that hangs."""
    is_inside = ".." not in PurePosixPath(path).parts and _is_in_ca_directory(path)
    real = os.path.realpath(path) if is_inside else ""
    if not (is_inside and _is_in_ca_directory(real) and Path(real).is_file()):
        raise BadOptionError(
            f"ca-bundle {path!r} is no file that volumes may name",
            f"give a file below {', '.join(CA_DIRECTORIES)}; the value s3.caBundle puts one there",
        )


def _is_in_ca_directory(path: str) -> bool:
    return any(PurePosixPath(path).is_relative_to(directory) for directory in CA_DIRECTORIES)


def _literal(host: str) -> Address | None:
    """The address that a host stands for without name resolution: also 127.1 and 0x7f000001."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if (inner := address.ipv4_mapped or address.sixtofour) is not None:
        return inner
    is_old = address in _OLD_IN_6 and int(address) > 1
    return (
        ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 or is_old else address
    )


def _reason(address: Address, *, allow_loopback: bool) -> str:
    """Why volumes may not use an address; "" if they may."""
    if address.is_loopback:
        return "" if allow_loopback else "a loopback address"
    if address.is_link_local:
        return "a link-local address, as metadata services have"
    if any(address in network for network in _METADATA):
        return "an address of metadata services"
    if address.is_unspecified or address in _THIS_HOST:
        return "an address of this host"
    return "a multicast address" if address.is_multicast else ""
