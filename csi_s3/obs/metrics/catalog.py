"""The single list of metrics: name, unit, help, stability and labels.

Dashboards and docs/metrics.md have one source. Each process (node, keeper, each worker) has its own
counts; a worker starts from zero, because the zygote counts nothing before it forks. No metric has
a pod as a label: a volume's numbers are those of all pods that use it, and the series of deleted
pods would accumulate. prometheus_client's multi-process mode was rejected: it keeps a file for each
process in a directory that outlives them, while a worker can send its numbers over its link.

The number of series is bounded, because each value of a label is one of a set in this code, with
one exception: volume handles. A metric has `max_series` of them at most: what exceeds it is counted
under the value `other` (`obs.metrics.instruments`).
"""

import platform
from functools import partial

from csi_s3 import __version__
from csi_s3.obs.metrics.instruments import Counter, Gauge, Histogram, MetricSource

# A cached answer takes 0.05 to 0.5 ms, one from S3 10 to 200 ms.
_FUSE_BOUNDS_S = (0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0)
_S3_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_CSI_BOUNDS_S = (0.01, 0.05, 0.2, 1.0, 5.0, 15.0, 60.0, 120.0)

_worker_counter = partial(Counter, source=MetricSource.WORKER)
_worker_gauge = partial(Gauge, source=MetricSource.WORKER)
_worker_histogram = partial(Histogram, source=MetricSource.WORKER)
_mounter_counter = partial(Counter, source=MetricSource.MOUNTER)
_mounter_gauge = partial(Gauge, source=MetricSource.MOUNTER)
_node_counter = partial(Counter, source=MetricSource.NODE)
_node_gauge = partial(Gauge, source=MetricSource.NODE)
_node_histogram = partial(Histogram, source=MetricSource.NODE)

# --- of a volume, counted by its worker ---------------------------------------------------------

FUSE_OPERATIONS = _worker_counter(
    "fuse_operations",
    "operations",
    "Answered FUSE requests. op: lookup, open, read, ...; result: ok or the errno's name.",
    labels=("op", "result"),
)
FUSE_SECONDS = _worker_histogram(
    "fuse_operation",
    "seconds",
    "Duration of FUSE requests, failed ones included. op: lookup, open, read, ...",
    labels=("op",),
    bounds_s=_FUSE_BOUNDS_S,
)
FUSE_IN_FLIGHT = _worker_gauge(
    "fuse_requests_in_flight", "requests", "FUSE requests that are not answered yet."
)
READ_BYTES = _worker_counter(
    "read_bytes", "bytes", "Bytes returned to programs, without those from the page cache."
)
WRITTEN_BYTES = _worker_counter("written_bytes", "bytes", "Bytes written by programs.")
ERRORS = _worker_counter(
    "errors",
    "errors",
    "FUSE requests answered with an error. code: the stable code (errors.md), or timeout; "
    "look-ups of names that do not exist count as not-found.",
    labels=("code",),
)
S3_REQUESTS = _worker_counter(
    "s3_requests",
    "requests",
    "HTTP requests sent to the object store, retries included. kind: HEAD, LIST, GET, PUT, "
    "PART, ...; status: the HTTP status (of an unusual one its class: 5xx), or 0 if there was no "
    "answer.",
    labels=("kind", "status"),
)
S3_SECONDS = _worker_histogram(
    "s3_request",
    "seconds",
    "Duration of HTTP requests to the object store, to the last byte, of each attempt. kind: "
    "HEAD, LIST, GET, PUT, PART, ...",
    labels=("kind",),
    bounds_s=_S3_BOUNDS_S,
)
S3_BYTES = _worker_counter(
    "s3_bytes",
    "bytes",
    "Bytes in the bodies of HTTP requests and responses. direction: up or down.",
    labels=("direction",),
)
HIDDEN_NAMES = _worker_counter(
    "hidden_names",
    "names",
    "Listed keys that cannot be file names: a component is empty, . or .., contains a NUL, or "
    "is longer than 255 bytes.",
)
OPEN_FILES = _worker_gauge("open_files", "handles", "Open files and directories.")
INODES = _worker_gauge(
    "inodes", "inodes", "Files and directories that the kernel has looked up and not forgotten."
)
INODES_LIMIT = _worker_gauge(
    "inodes_limit",
    "inodes",
    "The number of inodes, if they take as much memory as those that are there, above which the "
    "kernel is asked to forget some.",
)
INODES_ASKED = _worker_gauge(
    "inodes_asked", "inodes", "Those that the kernel was asked to forget and has not forgotten yet."
)
DIRTY_BYTES = _worker_gauge(
    "dirty_bytes", "bytes", "Total size of the files that were written and are not in S3 yet."
)
SPOOL_BYTES = _worker_gauge(
    "spool_bytes", "bytes", "What the volume's spool takes of the node's disk, leftovers included."
)
SPOOL_LIMIT_BYTES = _worker_gauge(
    "spool_limit_bytes", "bytes", "What it may take: spool-size, or its share of the node's limit."
)
_LEFTOVER_KINDS = (
    "kind: whole (the next worker tries to upload it again), given-up (another client has changed "
    "its object), unfinished (its worker died before it was closed)."
)
SPOOL_LEFTOVERS = _worker_gauge(
    "spool_leftovers",
    "files",
    f"Files that were not uploaded and are on the node's disk. {_LEFTOVER_KINDS}",
    labels=("kind",),
)
SPOOL_LEFTOVER_BYTES = _worker_gauge(
    "spool_leftover_bytes",
    "bytes",
    f"What these files take of the disk. {_LEFTOVER_KINDS}",
    labels=("kind",),
)
SPOOL_LEFTOVER_AGE = _worker_gauge(
    "spool_leftover_age_seconds",
    "seconds",
    f"How long the oldest of them has been left. {_LEFTOVER_KINDS}",
    labels=("kind",),
)
SPOOL_REMOVED = _worker_counter(
    "spool_removed",
    "files",
    "Files that were not uploaded, and were removed. reason: age (--leftover-days), room (files in "
    "use needed it).",
    labels=("reason",),
)
MEMORY_BYTES = _worker_gauge(
    "memory_bytes",
    "bytes",
    "Memory whose size programs or the bucket decide. kind: buffers (read windows and upload "
    "parts), inodes, listings, handles, ...: docs/memory.md.",
    labels=("kind",),
)
MEMORY_BOUND_BYTES = _worker_gauge(
    "memory_bound_bytes",
    "bytes",
    "The most that one kind of memory may take, fixed when the volume is mounted. kind: as in "
    "memory_bytes; all kinds but buffers share one pool.",
    labels=("kind",),
)
LANDLOCK_ABI = _worker_gauge(
    "landlock_abi",
    "version",
    "The version of Landlock that confines the worker to its volume; 0: the kernel has none, or "
    "nothing confines it (docs/security.md).",
)
WORKER_MEMORY_BYTES = _worker_gauge(
    "worker_memory_bytes",
    "bytes",
    "Memory of the worker's process. kind: rss, or private (without pages that are shared with "
    "other processes).",
    labels=("kind",),
)
SLOW_STEPS = _worker_counter(
    "slow_steps",
    "steps",
    "Steps that held the event loop longer than CSI_S3_SLOW_STEP_MS; none are counted without it. "
    "cause: cpu, blocked (by a system call or another thread), or garbage (a collection of it).",
    labels=("cause",),
)

# --- of the mounter -------------------------------------------------------------------------------

WORKER_STARTS = _mounter_counter(
    "worker_starts",
    "processes",
    "Started worker processes. volume: the volume handle.",
    labels=("volume",),
)
WORKER_DEATHS = _mounter_counter(
    "worker_deaths",
    "processes",
    "Worker processes that were killed or crashed. volume: the volume handle; cause: the "
    "signal's name, exit-CODE, or unknown.",
    labels=("volume", "cause"),
)
MOUNT_FAILURES = _mounter_counter(
    "mount_failures",
    "mounts",
    "Mounts that the mounter refused or could not serve, or that ended with an error. Errors "
    "of the node plugin, such as a wrong option, are in csi_s3_csi_errors_total. volume: the "
    "volume handle; code: the stable code (errors.md).",
    labels=("volume", "code"),
)
MEMORY_LIMIT_BYTES = _mounter_gauge(
    "memory_limit_bytes",
    "bytes",
    "--memory-limit, which is divided among the volumes; 0 if there is none.",
)
WORKERS = _mounter_gauge("workers", "processes", "Worker processes, one for each mount.")
MOUNTER_RECORDS = _mounter_gauge(
    "mounter_records",
    "records",
    "What the mounter holds besides its workers. kind: ended_volumes (whose totals are still "
    "exported), messages (that the node plugin has not read): docs/memory.md.",
    labels=("kind",),
)
NODE_CONNECTED = _mounter_gauge(
    "node_connected", "0 or 1", "Whether the mounter is connected to the node plugin."
)
STALE_ANSWERS = _mounter_counter(
    "stale_worker_answers",
    "scrapes",
    "Scrapes that have a worker's last numbers because it did not answer in time. volume: the "
    "volume handle.",
    labels=("volume",),
)

# --- of the node plugin ---------------------------------------------------------------------------

CSI_CALLS = _node_counter(
    "csi_calls",
    "calls",
    "Answered CSI calls. method: NodePublishVolume, ...; status: OK, or the gRPC status.",
    labels=("method", "status"),
)
CSI_SECONDS = _node_histogram(
    "csi_call",
    "seconds",
    "Duration of CSI calls. method: NodePublishVolume, ...",
    labels=("method",),
    bounds_s=_CSI_BOUNDS_S,
)
CSI_ERRORS = _node_counter(
    "csi_errors",
    "calls",
    "CSI calls answered with an error. method: NodePublishVolume, ...; code: the stable code "
    "(errors.md).",
    labels=("method", "code"),
)
MOUNTS = _node_gauge(
    "mounts", "mounts", "FUSE mounts on this node, one for each volume and set of options."
)
TARGETS = _node_gauge(
    "published_targets", "targets", "Target paths (one for each pod and volume) with a live mount."
)
NODE_RECORDS = _node_gauge(
    "node_records",
    "records",
    "What the node plugin holds besides mounts and targets. kind: pods, lost (targets whose mount "
    "died before a restart), operations (in progress), events (that wait for the API server or for "
    "their pod): docs/memory.md.",
    labels=("kind",),
)
MOUNTER_CONNECTED = _node_gauge("mounter_connected", "0 or 1", "Whether a mounter is connected.")
REGISTERED = _node_gauge(
    "registered",
    "0 or 1",
    "Whether kubelet has registered the driver; always 1 without --registration-dir.",
)

UNMOUNTED_SPOOLS = _node_gauge(
    "unmounted_spools",
    "volumes",
    "Volumes that are not mounted here and have data that was not uploaded on the node's disk. As "
    "the next ones, it is looked at every hour.",
)
UNMOUNTED_SPOOL_FILES = _node_gauge(
    "unmounted_spool_files", "files", "Files that were not uploaded, of volumes not mounted here."
)
UNMOUNTED_SPOOL_BYTES = _node_gauge(
    "unmounted_spool_bytes", "bytes", "What these files take of the node's disk."
)
UNMOUNTED_SPOOL_AGE = _node_gauge(
    "unmounted_spool_age_seconds", "seconds", "How long the oldest of them has been left."
)
UNMOUNTED_SPOOL_REMOVED = _node_counter(
    "unmounted_spool_removed",
    "files",
    "Files of volumes not mounted here that were removed after --leftover-days.",
)

BUILD_INFO = Gauge(
    "build_info",
    "always 1",
    "Versions. version: of csi-s3; python: of the interpreter.",
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
