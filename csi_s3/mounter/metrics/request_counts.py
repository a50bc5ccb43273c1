"""What a worker counts for its volume, and the message in which it sends that."""

from typing import Any

from csi_s3.fs.write.spool import Spool
from csi_s3.kernel.process_memory import ProcessMemory
from csi_s3.link.report import Usage
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics import samples
from csi_s3.obs.metrics.instruments import MetricSource
from csi_s3.s3.http import RequestRecord

# S3's own, and those of proxies and load balancers before it.
_SUCCESSES = (0, 100, 200, 204, 206, 301, 302, 303, 304, 307, 308)
_REFUSALS = (400, 401, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 416, 417, 429, 431)
_FAILURES = (500, 501, 502, 503, 504, 507, 509)
_STATUSES = frozenset((*_SUCCESSES, *_REFUSALS, *_FAILURES))

_UP, _DOWN = metrics.S3_BYTES.labels("up"), metrics.S3_BYTES.labels("down")


def count_request(record: RequestRecord) -> None:
    """Count one attempt of a request to the store."""
    metrics.S3_REQUESTS.labels(record.kind, _label(record.status)).count += 1
    metrics.S3_SECONDS.labels(record.kind).observe(record.seconds)
    _UP.count += record.bytes_up
    _DOWN.count += record.bytes_down


def _label(status: int) -> str:
    """A status, or its class: a store can answer any three digits."""
    return str(status) if status in _STATUSES else f"{status // 100}xx"


def count_spool(spool: Spool, *, now_s: float) -> None:
    """Set what the spool takes and holds. now_s: since the epoch, as files have their times."""
    metrics.SPOOL_BYTES.set(spool.used_bytes)
    metrics.SPOOL_LIMIT_BYTES.set(spool.limit_bytes)
    for kind, total in spool.leftover_totals().items():
        age_s = max(0.0, now_s - total.oldest_s) if total.oldest_s else 0.0
        metrics.SPOOL_LEFTOVERS.set(total.files, kind=kind)
        metrics.SPOOL_LEFTOVER_BYTES.set(total.size, kind=kind)
        metrics.SPOOL_LEFTOVER_AGE.set(age_s, kind=kind)


def metrics_message(usage: Usage, memory: ProcessMemory | None) -> dict[str, Any]:
    """The body of a `metrics` message: what this worker has counted until now.

    It has a row for each operation, errno, kind of request and code: some ten KiB, and below the
    channel's limit if all of them occur.
    """
    metrics.OPEN_FILES.set(usage.open_files)
    metrics.INODES.set(usage.inodes)
    metrics.INODES_LIMIT.set(usage.inodes_limit)
    metrics.INODES_ASKED.set(usage.inodes_asked)
    metrics.DIRTY_BYTES.set(usage.dirty_bytes)
    metrics.FUSE_IN_FLIGHT.set(usage.requests_in_flight)
    if memory is not None:
        for kind, used_bytes in memory._asdict().items():
            metrics.WORKER_MEMORY_BYTES.set(used_bytes, kind=kind)
    for kind, held_bytes in usage.memory_bytes.items():
        metrics.MEMORY_BYTES.set(held_bytes, kind=kind)
    for kind, limit_bytes in usage.memory_limit_bytes.items():
        metrics.MEMORY_BOUND_BYTES.set(limit_bytes, kind=kind)
    return {"families": samples.to_json(samples.take(MetricSource.WORKER))}
