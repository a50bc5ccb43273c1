"""Variables of the environment that botocore does not read, or reads slowly.

botocore knows AWS_DEFAULT_REGION but not AWS_REGION, the name that EKS, Lambda and the other SDKs
use. aiohttp's trust_env would read the proxy variables and ~/.netrc at every request.
"""

import ipaddress
import os
import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from csi_s3.errors import BadOptionError

_environ = os.environ
# Those of the AWS variables that are secret.
_SECRETS = tuple(
    f"AWS_{name}"
    for name in (
        *("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"),
        "CONTAINER_AUTHORIZATION_TOKEN",
    )
)


def secrets() -> dict[str, str]:
    """The variables whose values only the process that uses them should have."""
    return {name: _environ[name] for name in _SECRETS if name in _environ}


def without_secrets() -> dict[str, str]:
    """The environment of a process that starts others, which /proc shows for all its life."""
    return {name: value for name, value in _environ.items() if name not in _SECRETS}


def add(variables: Mapping[str, str]) -> None:
    """Set variables in this process; /proc/PID/environ does not show them."""
    _environ.update(variables)


def aws(name: str) -> str | None:
    """The variable AWS_<name>; None where it is not set, or empty."""
    return _environ.get(f"AWS_{name}") or None


def aws_endpoint_url(service: str = "S3") -> str | None:
    """The endpoint of the service, else the one for all services."""
    return aws(f"ENDPOINT_URL_{service}") or aws("ENDPOINT_URL")


def credentials_secret() -> str | None:
    """The name of the Secret that --credentials-dir is mounted from, for messages."""
    return _environ.get("CSI_S3_CREDENTIALS_SECRET") or None


def slow_step_ms() -> int | None:
    """From how many ms on a step of the event loop is reported; None: no step is timed.

    Raises:
        BadOptionError: it is not a number of ms.

    """
    text = _environ.get("CSI_S3_SLOW_STEP_MS")
    if not text:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise BadOptionError(
            f"CSI_S3_SLOW_STEP_MS={text}", "expected a number of milliseconds, such as 50"
        )
    return int(text)


def proxy_for(url: str) -> str | None:
    """The proxy for this URL by HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, or None.

    As curl and Go read them: NO_PROXY may hold networks (10.0.0.0/8), a proxy may be written
    without http://, and no proxy is used for loopback and link-local addresses (metadata services).
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if (
        not proxy
        or _is_near(parts.hostname or "", proxies.get("no", ""))
        or urllib.request.proxy_bypass(parts.netloc, proxies)
    ):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def proxies() -> list[str]:
    """The proxies that `proxy_for` may name."""
    named = urllib.request.getproxies_environment()
    found = [named[scheme] for scheme in ("http", "https", "all") if named.get(scheme)]
    return [proxy if "://" in proxy else f"http://{proxy}" for proxy in found]


def _is_near(host: str, no_proxy: str) -> bool:
    if host == "localhost":
        return True
    address = _address(host)
    if address is None:
        return False
    networks = [net for item in no_proxy.split(",") if (net := _network(item)) is not None]
    return address.is_loopback or address.is_link_local or any(address in net for net in networks)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(item: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(item.strip(), strict=False)
    except ValueError:
        return None


def state_home() -> Path:
    """The directory for data that outlives the program: XDG_STATE_HOME, or /var/lib for root."""
    if os.geteuid() == 0:
        return Path("/var/lib")
    return Path(_environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
