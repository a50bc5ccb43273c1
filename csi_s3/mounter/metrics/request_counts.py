"""What a worker counts of its volume, and how it tells."""

from typing import Any

from csi_s3.link.report import Usage
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics import samples
from csi_s3.obs.metrics.instruments import MetricSource
from csi_s3.s3.http import RequestRecord

_UP, _DOWN = metrics.S3_BYTES.child("up"), metrics.S3_BYTES.child("down")


def count_request(record: RequestRecord) -> None:
    """Count one attempt of a request to the store."""
    metrics.S3_REQUESTS.child(record.kind, str(record.status)).count += 1
    metrics.S3_SECONDS.child(record.kind).observe(record.seconds)
    _UP.count += record.bytes_up
    _DOWN.count += record.bytes_down


def metrics_message(usage: Usage) -> dict[str, Any]:
    """The body of a `metrics` message: what this worker has counted until now.

    It has as many rows as there are operations, errnos, kinds of requests and codes: some ten KiB,
    far below the channel's limit.
    """
    metrics.OPEN_FILES.set(usage.open_files)
    metrics.INODES.set(usage.inodes)
    metrics.INODES_LIMIT.set(usage.inodes_limit)
    metrics.INODES_ASKED.set(usage.inodes_asked)
    metrics.DIRTY_BYTES.set(usage.dirty_bytes)
    metrics.BUFFERS_BYTES.set(usage.buffers_bytes)
    metrics.BUFFERS_LIMIT_BYTES.set(usage.buffers_limit_bytes)
    return {"families": samples.to_json(samples.take(MetricSource.WORKER))}
