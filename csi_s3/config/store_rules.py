"""What a volume may name as its store: the rules of a mounter, whose own settings are trusted.

They limit the authors of PersistentVolumes. A user who mounts on his own machine has none.
"""

import json
import re
from dataclasses import asdict, dataclass
from typing import Self

from csi_s3.config.value_types import ValueType, ValueTypeError

# Of certificate authorities, in the mounter's image and as the chart mounts them.
CA_DIRECTORIES = (
    "/etc/csi-s3/ca",
    "/etc/ssl",
    "/etc/pki",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
)
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9])?|[0-9a-f:]{2,45}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRules:
    """Sent to the zygote as text.

    allowed_endpoints: hosts that `endpoint-url` may name, in lower case; `*.example.com` are all
        names below it. Empty: any host.
    allow_loopback: for development. allow_token_over_http: session tokens may be sent in clear.
    """

    allowed_endpoints: tuple[str, ...] = ()
    allow_loopback: bool = False
    allow_token_over_http: bool = False

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**{**values, "allowed_endpoints": tuple(values["allowed_endpoints"])})

    def allows(self, host: str) -> bool:
        """Whether the list has this host, or there is none."""
        host = host.lower().rstrip(".")
        return not self.allowed_endpoints or any(
            host.endswith(item[1:]) if item.startswith("*.") else host == item
            for item in self.allowed_endpoints
        )


def _read_hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(item.strip().lower().strip("[]") for item in text.split(","))
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise ValueTypeError("a host has neither scheme, port nor path")
    return hosts


HOSTS = ValueType("HOSTS", "hosts such as minio.example.com,*.example.org,10.0.0.7", _read_hosts)
