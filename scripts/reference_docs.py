"""Generates docs/options.md, docs/errors.md, docs/metrics.md, and the chart's mount options.

`python scripts/reference_docs.py` writes the pages, and `mountOption` in the schema of the chart's
values, from the table of options, the error tree and the list of metrics. Tests compare them.
"""

import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from errno import EOPNOTSUPP, errorcode
from pathlib import Path

from csi_s3.config.options import GROUPS, OPTIONS, Option, Support
from csi_s3.config.volume_context import ATTRIBUTES
from csi_s3.errors import InternalError, VolumeError
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics.instruments import MetricSource

_OPTIONS_INTRO = """\
# Options

Generated from `csi_s3/config/options.py` and `volume_context.py` by
`python scripts/reference_docs.py`; a test compares. The names are those of Mountpoint for Amazon S3
and of its CSI driver.

Each option **works**; or is a **hint**: accepted, with one warning that says what is done instead;
or is **refused**, because ignoring it would change identity, safety or meaning; or is **dropped**
silently. An unknown name is refused, and the error names the nearest known one.

## Syntax

On a volume, each item of `mountOptions` is one option: `key value`, `key=value`, `--key value`,
`--key=value`, or `key` alone for one that takes no value. The first blank or `=` ends the name;
the rest is the value, with its blanks, `=` and commas: `prefix a=b/c d/`. An item is a list
(`uid=1,gid=2`) only if every piece between its commas is a known option, with a value if it takes
one. An option that is set twice must have the same value.

An administrator can set options that every volume of a node starts from (the chart's
`defaultMountOptions`, `csi-s3 node --default-mount-options`, one option per line). A volume's own
option replaces the default of its name and every default that it contradicts; a default without a
value cannot be turned off. The settings of a pod's `fsGroup` take precedence over defaults. Running
pods keep the options that they were started with.

On the command line, `mount-s3 BUCKET DIRECTORY --key value --key=value -o key,key=value`. Within
`-o` and in fstab a backslash protects a comma, a backslash or a quote; the words of mount(8) and
systemd (`_netdev`, `nofail`, `noauto`, `user`, `rw`, `x-…` and the like) are skipped.
"""
_ATTRIBUTES_INTRO = """\
## volumeAttributes

Keys that Kubernetes adds (`csi.storage.k8s.io/…`, `storage.kubernetes.io/…`) are ignored.

"""
_OPTIONS_HEAD = (
    "| Option | Value | Default | On volumes | Command line | What it does |\n"
    "|---|---|---|---|---|---|\n"
)
_ATTRIBUTES_HEAD = "| Attribute | Value | Class | What it does |\n|---|---|---|---|\n"
_ERRORS_INTRO = """\
# Errors

Generated from `csi_s3/errors.py` by `python scripts/reference_docs.py`. For what to do about a
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

Generated from `csi_s3/obs/metrics/catalog.py` by `python scripts/reference_docs.py`.

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


def options_markdown() -> str:
    """The whole of docs/options.md."""
    parts = [_OPTIONS_INTRO]
    for group, rows in GROUPS.items():
        lines = "".join(_row(_option_cells(row)) for row in rows)
        parts.append(f"## {group}\n\n{_OPTIONS_HEAD}{lines}")
    lines = "".join(_row(_attribute_cells(row)) for row in ATTRIBUTES)
    parts.append(f"{_ATTRIBUTES_INTRO}{_ATTRIBUTES_HEAD}{lines}")
    return "\n".join(parts)


def mount_option_schema() -> dict[str, str]:
    """JSON schema of one item of mountOptions: its names, and whether they take a value.

    It does not check values: the node plugin refuses a wrong one when it starts.
    """
    accepted = [row for row in OPTIONS if row.on_volume is not Support.REFUSED]
    flags, valued = (
        "|".join(
            re.escape(name).replace("\\-", "-")
            for row in accepted
            if (row.value_type is None) is is_flag
            for name in (row.name, *row.aliases)
        )
        for is_flag in (True, False)
    )
    return {
        "type": "string",
        "description": "One mount option, NAME or NAME=VALUE, as docs/options.md lists them",
        "pattern": f"^\\s*(--)?({flags}|({valued})[\\s=]\\s*[^\\s=].*)\\s*$",
    }


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
    """The tree of `errors` in the order of its file, a class before its subclasses."""

    def subclasses(cls: type[VolumeError]) -> Iterator[type[VolumeError]]:
        for subclass in cls.__subclasses__():
            if subclass is not InternalError and subclass.__module__ == VolumeError.__module__:
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


def _option_cells(option: Option) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in (option.name, *option.aliases))
    return (
        names,
        "" if option.value_type is None else option.value_type.expected,
        option.default_text,
        option.on_volume.value,
        option.on_command.value,
        _sentence(option),
    )


def _attribute_cells(option: Option) -> tuple[str, ...]:
    expected = "" if option.value_type is None else option.value_type.expected
    return (f"`{option.name}`", expected, option.on_volume.value, _sentence(option))


def _sentence(option: Option) -> str:
    why = f"{option.why[0].upper()}{option.why[1:]}." if option.why else ""
    return " ".join(filter(None, (option.help, f"*{why}*" if why else "")))


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> None:
    root = Path(__file__).parents[1]
    chart = root / "charts" / "csi-s3" / "values.schema.json"
    schema = json.loads(chart.read_text(encoding="utf-8"))
    schema["definitions"]["mountOption"] = mount_option_schema()
    texts = {
        root / "docs" / "options.md": options_markdown(),
        root / "docs" / "errors.md": errors_markdown(),
        root / "docs" / "metrics.md": metrics_markdown(),
        chart: json.dumps(schema, indent=2) + "\n",
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
