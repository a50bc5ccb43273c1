"""What a worker counts for its volume, and the message in which it sends that."""

from typing import Any

from csi_s3.link.report import Usage
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics import samples
from csi_s3.obs.metrics.instruments import MetricSource
from csi_s3.s3.http import RequestRecord

_UP, _DOWN = metrics.S3_BYTES.labels("up"), metrics.S3_BYTES.labels("down")


def count_request(record: RequestRecord) -> None:
    """Count one attempt of a request to the store."""
    metrics.S3_REQUESTS.labels(record.kind, str(record.status)).count += 1
    metrics.S3_SECONDS.labels(record.kind).observe(record.seconds)
    _UP.count += record.bytes_up
    _DOWN.count += record.bytes_down


def metrics_message(usage: Usage) -> dict[str, Any]:
    """The body of a `metrics` message: what this worker has counted until now.

    It has a row for each operation, errno, kind of request and code: some ten KiB, far below the
    channel's limit.
    """
    metrics.OPEN_FILES.set(usage.open_files)
    metrics.INODES.set(usage.inodes)
    metrics.INODES_LIMIT.set(usage.inodes_limit)
    metrics.INODES_ASKED.set(usage.inodes_asked)
    metrics.DIRTY_BYTES.set(usage.dirty_bytes)
    for kind, held_bytes in usage.memory_bytes.items():
        metrics.MEMORY_BYTES.set(held_bytes, kind=kind)
    for kind, limit_bytes in usage.memory_limit_bytes.items():
        metrics.MEMORY_BOUND_BYTES.set(limit_bytes, kind=kind)
    return {"families": samples.to_json(samples.take(MetricSource.WORKER))}
