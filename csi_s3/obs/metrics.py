"""THE list of metrics: name, unit, help, stability and labels of everything that is counted.

A metric that is not in this file does not exist, so dashboards and docs/metrics.md have one source.
Counting is in-process and cheap enough for every request; each process (node, keeper, each worker)
has its own counts, and a worker starts from zero because the zygote counts nothing before it forks.
prometheus_client's multi-process mode was rejected: it keeps a file per process and needs a
directory that outlives them, where a worker's numbers can travel over its link.
"""

from enum import Enum

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as PrometheusCounter
from typing_extensions import override

REGISTRY = CollectorRegistry()  # ours alone: no collector of the library's own reads /proc unasked


class Stability(Enum):
    """What a dashboard may rely on."""

    STABLE = "stable"  # name, labels and meaning stay until a major version
    BETA = "beta"  # may change in a minor version; the changelog says so


class Counter:
    """A number of events since the process began.

    name: without `csi_s3_` and `_total`, which every counter has.
    unit: what one increment is, in the plural.
    """

    def __init__(
        self, name: str, *, unit: str, text: str, stability: Stability, labels: tuple[str, ...] = ()
    ) -> None:
        self.name = f"csi_s3_{name}_total"
        self.unit = unit
        self.text = text
        self.stability = stability
        self.labels = labels
        self._children: dict[tuple[str, ...], PrometheusCounter] = {}  # its own look-up is slow
        self._counter = PrometheusCounter(self.name, text, labels, registry=REGISTRY)

    @override
    def __repr__(self) -> str:
        return f"Counter({self.name!r}, labels={self.labels})"

    def inc(self, amount: float = 1, /, **labels: str) -> None:
        """Count; every label must be given.

        Raises:
            ValueError: labels are not this metric's.

        """
        values = tuple(labels.values())
        child = self._children.get(values) if tuple(labels) == self.labels else None
        if child is None:
            wanted = labels or self.labels
            child = self._counter.labels(**labels) if wanted else self._counter
            self._children[tuple(labels[name] for name in self.labels)] = child
        child.inc(amount)

    def value(self, **labels: str) -> float:
        """What was counted in this process for these labels; 0.0 where nothing was."""
        if set(labels) != set(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        return REGISTRY.get_sample_value(self.name, labels) or 0.0


S3_REQUESTS = Counter(
    "s3_requests",
    unit="requests",
    text="HTTP requests sent to the object store, retries included. kind: HEAD, LIST, GET, PUT, "
    "PART, ...; status: the HTTP status, or 0 where no answer came.",
    stability=Stability.BETA,
    labels=("kind", "status"),
)
FUSE_OPERATIONS = Counter(
    "fuse_operations",
    unit="operations",
    text="Requests of the kernel that were answered. op: lookup, open, read, ...; result: ok or "
    "the errno's name.",
    stability=Stability.BETA,
    labels=("op", "result"),
)
HIDDEN_NAMES = Counter(
    "hidden_names",
    unit="names",
    text="Keys that a directory listing met and that no file can be named after: a component that "
    "is empty, . or .., holds a NUL, or is over 255 bytes.",
    stability=Stability.BETA,
)
WORKER_DEATHS = Counter(
    "worker_deaths",
    unit="processes",
    text="Worker processes that ended without a last word, killed or crashed. cause: the signal's "
    "name, exit-CODE, or unknown.",
    stability=Stability.BETA,
    labels=("cause",),
)

ALL: tuple[Counter, ...] = (S3_REQUESTS, FUSE_OPERATIONS, HIDDEN_NAMES, WORKER_DEATHS)
