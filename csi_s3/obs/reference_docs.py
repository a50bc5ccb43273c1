"""What a person can observe, in words: docs/errors.md and docs/metrics.md.

`python -m csi_s3.obs.reference_docs` writes both; a test compares them with the error tree and the
list of metrics. Options have a page and a module of their own (`config.option_docs`): the two
packages are on one layer.
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

Made from `csi_s3/errors.py` by `python -m csi_s3.obs.reference_docs`; a test compares. What to do
about the messages that people see is in [troubleshooting.md](troubleshooting.md).

A program on a mount sees the errno. A CSI call is answered with the gRPC status and
`what failed (what to do) [code]`; kubelet spells the status `PermissionDenied` where this page has
`PERMISSION_DENIED`. A line of the log has the code in its field `code`. The command ends with 2 for
`bad-option`, with 1 for the others. Codes are stable. Two more are in logs only: `timeout` (an
operation that had no answer within its deadline, errno ETIMEDOUT) and `hidden-names` (keys that a
directory cannot show).

*Again*: the same attempt may work later although nobody has changed anything. *Log*: the level at
which the error is logged where it is answered.

| Code | errno | Programs say | gRPC status | Again | Log | When |
|---|---|---|---|---|---|---|
"""
_METRICS_INTRO = """\
# Metrics

Made from `csi_s3/obs/metrics/catalog.py` by `python -m csi_s3.obs.reference_docs`; a test compares.

`csi-s3 node` and `csi-s3 mounter` serve them at `/metrics` of `--http-address`, in Prometheus's
text format. *At* says which of them has a metric. Those with the label `volume` are of one volume
handle on one node: what its workers, one for each mount, have counted together, whichever pods use
it. They go on when a worker ends, and end when nobody has had the volume mounted for an hour or the
mounter restarts. What a killed worker counted after the last scrape is lost. A counter is absent
until something was counted.

Next to `/metrics` are `/healthz` (200 while the event loop answers) and `/readyz` (200, or 503 and
the reason in words: the node plugin is ready when kubelet has registered it and a mounter is
connected, the mounter when it is connected to the node plugin).

| Metric | Kind | At | Unit | Labels | Stability | What is counted |
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
    """The tree in the order of its file, a class before those below it."""

    def below(cls: type[VolumeError]) -> Iterator[type[VolumeError]]:
        for child in cls.__subclasses__():
            if child is not InternalError:
                yield child
            yield from below(child)

    yield from below(VolumeError)
    yield InternalError  # what is left when nothing above fits


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
