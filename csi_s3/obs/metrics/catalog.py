"""The single list of metrics: name, unit, help, stability and labels.

Dashboards and docs/metrics.md have one source. Each process (node, keeper, each worker) has its own
counts; a worker starts from zero, because the zygote counts nothing before it forks. No metric has
a pod as a label: a volume's numbers are those of all pods that use it, and the series of deleted
pods would accumulate. prometheus_client's multi-process mode was rejected: it keeps a file for each
process in a directory that outlives them, while a worker can send its numbers over its link.
"""

import platform

from csi_s3 import __version__
from csi_s3.obs.metrics.instruments import Counter, Gauge, Histogram, MetricSource

# A cached answer takes 0.05 to 0.5 ms, one from S3 10 to 200 ms.
_FUSE_BOUNDS_S = (0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0)
_S3_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_CSI_BOUNDS_S = (0.01, 0.05, 0.2, 1.0, 5.0, 15.0, 60.0, 120.0)

# --- of a volume, counted by its worker ---------------------------------------------------------

FUSE_OPERATIONS = Counter(
    "fuse_operations",
    unit="operations",
    text="Answered FUSE requests. op: lookup, open, read, ...; result: ok or the errno's name.",
    source=MetricSource.WORKER,
    labels=("op", "result"),
)
FUSE_SECONDS = Histogram(
    "fuse_operation",
    text="Duration of FUSE requests, failed ones included. op: lookup, open, read, ...",
    source=MetricSource.WORKER,
    labels=("op",),
    bounds_s=_FUSE_BOUNDS_S,
)
READ_BYTES = Counter(
    "read_bytes",
    unit="bytes",
    text="Bytes returned to programs, without those from the page cache.",
    source=MetricSource.WORKER,
)
WRITTEN_BYTES = Counter(
    "written_bytes",
    unit="bytes",
    text="Bytes written by programs.",
    source=MetricSource.WORKER,
)
ERRORS = Counter(
    "errors",
    unit="errors",
    text="FUSE requests answered with an error. code: the stable code (errors.md), or timeout; "
    "look-ups of names that do not exist count as not-found.",
    source=MetricSource.WORKER,
    labels=("code",),
)
S3_REQUESTS = Counter(
    "s3_requests",
    unit="requests",
    text="HTTP requests sent to the object store, retries included. kind: HEAD, LIST, GET, PUT, "
    "PART, ...; status: the HTTP status, or 0 if there was no answer.",
    source=MetricSource.WORKER,
    labels=("kind", "status"),
)
S3_SECONDS = Histogram(
    "s3_request",
    text="Duration of HTTP requests to the object store, to the last byte, of each attempt. kind: "
    "HEAD, LIST, GET, PUT, PART, ...",
    source=MetricSource.WORKER,
    labels=("kind",),
    bounds_s=_S3_BOUNDS_S,
)
S3_BYTES = Counter(
    "s3_bytes",
    unit="bytes",
    text="Bytes in the bodies of HTTP requests and responses. direction: up or down.",
    source=MetricSource.WORKER,
    labels=("direction",),
)
HIDDEN_NAMES = Counter(
    "hidden_names",
    unit="names",
    text="Listed keys that cannot be file names: a component is empty, . or .., contains a NUL, or "
    "is longer than 255 bytes.",
    source=MetricSource.WORKER,
)
OPEN_FILES = Gauge(
    "open_files",
    unit="handles",
    text="Open files and directories.",
    source=MetricSource.WORKER,
)
INODES = Gauge(
    "inodes",
    unit="inodes",
    text="Files and directories that the kernel has looked up and not forgotten.",
    source=MetricSource.WORKER,
)
INODES_LIMIT = Gauge(
    "inodes_limit",
    unit="inodes",
    text="The number of inodes above which the kernel is asked to forget files.",
    source=MetricSource.WORKER,
)
INODES_ASKED = Gauge(
    "inodes_asked",
    unit="inodes",
    text="Files that the kernel was asked to forget and has not forgotten yet.",
    source=MetricSource.WORKER,
)
DIRTY_BYTES = Gauge(
    "dirty_bytes",
    unit="bytes",
    text="Total size of the files that were written and are not in S3 yet.",
    source=MetricSource.WORKER,
)
BUFFERS_BYTES = Gauge(
    "buffers_bytes",
    unit="bytes",
    text="Memory budget in use: read windows and upload parts.",
    source=MetricSource.WORKER,
)
BUFFERS_LIMIT_BYTES = Gauge(
    "buffers_limit_bytes",
    unit="bytes",
    text="The memory budget, which is fixed when the volume is mounted.",
    source=MetricSource.WORKER,
)

# --- of the mounter -------------------------------------------------------------------------------

WORKER_STARTS = Counter(
    "worker_starts",
    unit="processes",
    text="Started worker processes. volume: the volume handle.",
    source=MetricSource.MOUNTER,
    labels=("volume",),
)
WORKER_DEATHS = Counter(
    "worker_deaths",
    unit="processes",
    text="Worker processes that were killed or crashed. volume: the volume handle; cause: the "
    "signal's name, exit-CODE, or unknown.",
    source=MetricSource.MOUNTER,
    labels=("volume", "cause"),
)
MOUNT_FAILURES = Counter(
    "mount_failures",
    unit="mounts",
    text="Mounts that the mounter refused or could not serve, or that ended with an error. Errors "
    "of the node plugin, such as a wrong option, are in csi_s3_csi_errors_total. volume: the "
    "volume handle; code: the stable code (errors.md).",
    source=MetricSource.MOUNTER,
    labels=("volume", "code"),
)
WORKER_MEMORY_BYTES = Gauge(
    "worker_memory_bytes",
    unit="bytes",
    text="Memory of a volume's workers. volume: the volume handle; kind: rss, or private (without "
    "pages that are shared with other processes).",
    source=MetricSource.MOUNTER,
    labels=("volume", "kind"),
)
MEMORY_LIMIT_BYTES = Gauge(
    "memory_limit_bytes",
    unit="bytes",
    text="--memory-limit, which is divided among the volumes; 0 if there is none.",
    source=MetricSource.MOUNTER,
)
WORKERS = Gauge(
    "workers",
    unit="processes",
    text="Worker processes, one for each mount.",
    source=MetricSource.MOUNTER,
)
NODE_CONNECTED = Gauge(
    "node_connected",
    unit="0 or 1",
    text="Whether the mounter is connected to the node plugin.",
    source=MetricSource.MOUNTER,
)
STALE_ANSWERS = Counter(
    "stale_worker_answers",
    unit="scrapes",
    text="Scrapes that have a worker's last numbers because it did not answer in time. volume: the "
    "volume handle.",
    source=MetricSource.MOUNTER,
    labels=("volume",),
)

# --- of the node plugin ---------------------------------------------------------------------------

CSI_CALLS = Counter(
    "csi_calls",
    unit="calls",
    text="Answered CSI calls. method: NodePublishVolume, ...; status: OK, or the gRPC status.",
    source=MetricSource.NODE,
    labels=("method", "status"),
)
CSI_SECONDS = Histogram(
    "csi_call",
    text="Duration of CSI calls. method: NodePublishVolume, ...",
    source=MetricSource.NODE,
    labels=("method",),
    bounds_s=_CSI_BOUNDS_S,
)
CSI_ERRORS = Counter(
    "csi_errors",
    unit="calls",
    text="CSI calls answered with an error. method: NodePublishVolume, ...; code: the stable code "
    "(errors.md).",
    source=MetricSource.NODE,
    labels=("method", "code"),
)
MOUNTS = Gauge(
    "mounts",
    unit="mounts",
    text="FUSE mounts on this node, one for each volume and set of options.",
    source=MetricSource.NODE,
)
TARGETS = Gauge(
    "published_targets",
    unit="targets",
    text="Target paths (one for each pod and volume) with a live mount.",
    source=MetricSource.NODE,
)
MOUNTER_CONNECTED = Gauge(
    "mounter_connected",
    unit="0 or 1",
    text="Whether a mounter is connected.",
    source=MetricSource.NODE,
)
REGISTERED = Gauge(
    "registered",
    unit="0 or 1",
    text="Whether kubelet has registered the driver; always 1 without --registration-dir.",
    source=MetricSource.NODE,
)

BUILD_INFO = Gauge(
    "build_info",
    unit="always 1",
    text="Versions. version: of csi-s3; python: of the interpreter.",
    source=MetricSource.BOTH,
    labels=("version", "python"),
)

ALL: tuple[Counter | Gauge | Histogram, ...] = tuple(
    metric for metric in globals().values() if isinstance(metric, Counter | Gauge | Histogram)
)
BY_NAME = {metric.name: metric for metric in ALL}


def build_info() -> None:
    """Set the versions; not in workers."""
    BUILD_INFO.set(1, version=__version__, python=platform.python_version())
