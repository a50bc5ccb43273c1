"""Generates docs/errors.md and docs/metrics.md from the error tree and the list of metrics.

`python -m csi_s3.obs.reference_docs` writes both; a test compares them with the code. The page of
options has a module of its own, `config.option_docs`: the two packages are on one layer.
"""

import inspect
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from errno import EOPNOTSUPP, errorcode
from pathlib import Path

from csi_s3.errors import InternalError, VolumeError
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics.instruments import MetricSource

_ERRORS_INTRO = """\
# Errors

Generated from `csi_s3/errors.py` by `python -m csi_s3.obs.reference_docs`. For what to do about a
message see [troubleshooting.md](troubleshooting.md).

A program on a mount gets the errno. A CSI call is answered with the gRPC status and
`what failed (what to do) [code]`; kubelet writes the status as `PermissionDenied` where this page
has `PERMISSION_DENIED`. Log lines have the code in the field `code`. The command exits with 2 for
`bad-option` and with 1 for the others. Codes are stable. Two more are in logs only: `timeout` (an
operation without an answer within its deadline, errno ETIMEDOUT) and `hidden-names` (keys that a
directory cannot show).

*Retry*: the same operation may succeed later without any change. *Log*: the level at which the
error is logged.

| Code | errno | Message of programs | gRPC status | Retry | Log | When |
|---|---|---|---|---|---|---|
"""
_METRICS_INTRO = """\
# Metrics

Generated from `csi_s3/obs/metrics/catalog.py` by `python -m csi_s3.obs.reference_docs`.

`csi-s3 node` and `csi-s3 mounter` serve them at `/metrics` of `--http-address`, in Prometheus's
text format. *Program* says which of them has a metric. A metric with the label `volume` belongs to
one volume handle on one node: it is the sum over its workers (one for each mount), whichever pods
use them. It continues when a worker ends. It is removed when the volume has not been mounted for an
hour or the mounter restarts. What a killed worker counted after the last scrape is lost. A counter
is absent until something is counted.

The same address serves `/healthz` (200 while the event loop answers) and `/readyz` (200, or 503 and
the reason: the node plugin is ready when kubelet has registered it and a mounter is connected, the
mounter when it is connected to the node plugin).

| Metric | Type | Program | Unit | Labels | Stability | Description |
|---|---|---|---|---|---|---|
"""


def errors_markdown() -> str:
    """The whole of docs/errors.md."""
    return _ERRORS_INTRO + "".join(_row(_error_cells(cls)) for cls in _classes())


def metrics_markdown() -> str:
    """The whole of docs/metrics.md."""
    rows = (
        (
            f"`{metric.name}`",
            metric.kind,
            "mounter" if metric.source is MetricSource.WORKER else metric.source.value,
            metric.unit,
            ", ".join(f"`{label}`" for label in metric.exported_labels),
            metric.stability.value,
            metric.text,
        )
        for metric in metrics.ALL
    )
    return _METRICS_INTRO + "".join(map(_row, rows))


def _classes() -> Iterator[type[VolumeError]]:
    """The tree in the order of its file, a class before its subclasses."""

    def subclasses(cls: type[VolumeError]) -> Iterator[type[VolumeError]]:
        for subclass in cls.__subclasses__():
            if subclass is not InternalError:
                yield subclass
            yield from subclasses(subclass)

    yield from subclasses(VolumeError)
    yield InternalError  # the one for everything unforeseen


def _error_cells(cls: type[VolumeError]) -> tuple[str, ...]:
    return (
        f'<a id="{cls.code}"></a>`{cls.code}`',
        "EOPNOTSUPP" if cls.errno == EOPNOTSUPP else errorcode[cls.errno],  # it has two names
        os.strerror(cls.errno),
        f"`{cls.status.name}`",
        "yes" if cls.retryable else "",
        logging.getLevelName(cls.level),
        " ".join(inspect.cleandoc(cls.__doc__ or "").split()),
    )


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> None:
    docs = Path(__file__).parents[2] / "docs"
    for name, text in (("errors.md", errors_markdown()), ("metrics.md", metrics_markdown())):
        (docs / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {docs / name}\n")


if __name__ == "__main__":
    main()
