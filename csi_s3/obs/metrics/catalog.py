"""THE list of metrics: name, unit, help, stability and labels of everything that is counted.

A metric that is not in this file does not exist, so dashboards and docs/metrics.md have one source.
Each process (node, keeper, each worker) has its own counts, and a worker starts from zero because
the zygote counts nothing before it forks. No metric has a pod as a label: a volume's numbers are
those of all pods that use it, and series of pods that are gone would pile up.
prometheus_client's multi-process mode was rejected: it keeps a file per process and needs a
directory that outlives them, where a worker's numbers can travel over its link.
"""

import platform

from csi_s3 import __version__
from csi_s3.obs.metrics.instruments import Counter, Gauge, Histogram, MetricSource

# A cached answer takes 0.05 to 0.5 ms, one from S3 10 to 200 ms; more is somebody's trouble.
_FUSE_BOUNDS_S = (0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0)
_S3_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_CSI_BOUNDS_S = (0.01, 0.05, 0.2, 1.0, 5.0, 15.0, 60.0, 120.0)

# --- a volume's, counted by its worker ------------------------------------------------------------

FUSE_OPERATIONS = Counter(
    "fuse_operations",
    unit="operations",
    text="Requests of the kernel that were answered. op: lookup, open, read, ...; result: ok or "
    "the errno's name.",
    source=MetricSource.WORKER,
    labels=("op", "result"),
)
FUSE_SECONDS = Histogram(
    "fuse_operation",
    text="How long requests of the kernel took, refused ones included. op: lookup, open, read, ...",
    source=MetricSource.WORKER,
    labels=("op",),
    bounds_s=_FUSE_BOUNDS_S,
)
READ_BYTES = Counter(
    "read_bytes",
    unit="bytes",
    text="Bytes that programs were given; what the page cache gives again is not among them.",
    source=MetricSource.WORKER,
)
WRITTEN_BYTES = Counter(
    "written_bytes",
    unit="bytes",
    text="Bytes that were accepted from programs.",
    source=MetricSource.WORKER,
)
ERRORS = Counter(
    "errors",
    unit="errors",
    text="Errors that requests of the kernel were answered with. code: the stable code "
    "(errors.md), or timeout; look-ups of names that are not there count as not-found.",
    source=MetricSource.WORKER,
    labels=("code",),
)
S3_REQUESTS = Counter(
    "s3_requests",
    unit="requests",
    text="HTTP requests sent to the object store, retries included. kind: HEAD, LIST, GET, PUT, "
    "PART, ...; status: the HTTP status, or 0 where no answer came.",
    source=MetricSource.WORKER,
    labels=("kind", "status"),
)
S3_SECONDS = Histogram(
    "s3_request",
    text="How long HTTP requests to the object store took, to the last byte, each attempt by "
    "itself. kind: HEAD, LIST, GET, PUT, PART, ...",
    source=MetricSource.WORKER,
    labels=("kind",),
    bounds_s=_S3_BOUNDS_S,
)
S3_BYTES = Counter(
    "s3_bytes",
    unit="bytes",
    text="Bytes in the bodies of HTTP requests and their answers. direction: up or down.",
    source=MetricSource.WORKER,
    labels=("direction",),
)
HIDDEN_NAMES = Counter(
    "hidden_names",
    unit="names",
    text="Keys that a directory listing met and that no file can be named after: a component that "
    "is empty, . or .., holds a NUL, or is over 255 bytes.",
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
    text="Files and directories that the kernel remembers.",
    source=MetricSource.WORKER,
)
INODES_LIMIT = Gauge(
    "inodes_limit",
    unit="inodes",
    text="So many have a share of memory-target; above it the kernel is asked to forget files.",
    source=MetricSource.WORKER,
)
INODES_ASKED = Gauge(
    "inodes_asked",
    unit="inodes",
    text="Files that the kernel was asked to forget and still remembers.",
    source=MetricSource.WORKER,
)
DIRTY_BYTES = Gauge(
    "dirty_bytes",
    unit="bytes",
    text="Sizes of the files that were written and are not in S3 yet.",
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
    text="The memory budget, fixed when the volume was mounted.",
    source=MetricSource.WORKER,
)

# --- the mounter's --------------------------------------------------------------------------------

WORKER_STARTS = Counter(
    "worker_starts",
    unit="processes",
    text="Worker processes that were started. volume: the volume handle.",
    source=MetricSource.MOUNTER,
    labels=("volume",),
)
WORKER_DEATHS = Counter(
    "worker_deaths",
    unit="processes",
    text="Worker processes that ended without a last word, killed or crashed. volume: the volume "
    "handle; cause: the signal's name, exit-CODE, or unknown.",
    source=MetricSource.MOUNTER,
    labels=("volume", "cause"),
)
MOUNT_FAILURES = Counter(
    "mount_failures",
    unit="mounts",
    text="Mounts that the mounter refused, could not serve, or could not serve any more. What the "
    "node plugin refuses by itself, such as a wrong option, is in csi_s3_csi_errors_total. volume: "
    "the volume handle; code: the stable code (errors.md).",
    source=MetricSource.MOUNTER,
    labels=("volume", "code"),
)
WORKER_MEMORY_BYTES = Gauge(
    "worker_memory_bytes",
    unit="bytes",
    text="Memory of a volume's workers. volume: the volume handle; kind: rss, or private, which "
    "counts no page that is shared with another process.",
    source=MetricSource.MOUNTER,
    labels=("volume", "kind"),
)
MEMORY_LIMIT_BYTES = Gauge(
    "memory_limit_bytes",
    unit="bytes",
    text="--memory-limit, from which the volumes' budgets come; 0 where there is none.",
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
    text="Scrapes for which a worker did not answer in time, so that its last numbers were given. "
    "volume: the volume handle.",
    source=MetricSource.MOUNTER,
    labels=("volume",),
)

# --- the node plugin's ----------------------------------------------------------------------------

CSI_CALLS = Counter(
    "csi_calls",
    unit="calls",
    text="Calls of kubelet that were answered. method: NodePublishVolume, ...; status: OK, or the "
    "gRPC status.",
    source=MetricSource.NODE,
    labels=("method", "status"),
)
CSI_SECONDS = Histogram(
    "csi_call",
    text="How long calls of kubelet took. method: NodePublishVolume, ...",
    source=MetricSource.NODE,
    labels=("method",),
    bounds_s=_CSI_BOUNDS_S,
)
CSI_ERRORS = Counter(
    "csi_errors",
    unit="calls",
    text="Calls of kubelet that were answered with an error. method: NodePublishVolume, ...; code: "
    "the stable code (errors.md).",
    source=MetricSource.NODE,
    labels=("method", "code"),
)
MOUNTS = Gauge(
    "mounts",
    unit="mounts",
    text="FUSE mounts of this node, one for each volume and set of options.",
    source=MetricSource.NODE,
)
TARGETS = Gauge(
    "published_targets",
    unit="targets",
    text="Target paths, one for each pod and volume, that have a live mount.",
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
    text="What runs. version: of csi-s3; python: of the interpreter.",
    source=MetricSource.BOTH,
    labels=("version", "python"),
)

ALL: tuple[Counter | Gauge | Histogram, ...] = tuple(
    metric for metric in globals().values() if isinstance(metric, Counter | Gauge | Histogram)
)
BY_NAME = {metric.name: metric for metric in ALL}


def build_info() -> None:
    """Say what runs; a worker has no need to."""
    BUILD_INFO.set(1, version=__version__, python=platform.python_version())
