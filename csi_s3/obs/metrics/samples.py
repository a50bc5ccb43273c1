"""The values of metrics as plain data: taken in one process, sent, summed and exported."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, TypeAlias

from csi_s3.errors import shortened
from csi_s3.obs.metrics.catalog import ALL, BY_NAME
from csi_s3.obs.metrics.instruments import (
    Counter,
    Gauge,
    Histogram,
    Labels,
    MetricSource,
    Value,
)

MAX_LABEL_BYTES = 200
MAX_VALUE = 1e18

Samples: TypeAlias = dict[str, dict[Labels, Value]]  # by the metric's name and its labels' values


def take(*sources: MetricSource) -> Samples:
    """What this process has counted of the metrics with these sources."""
    taken = ((metric.name, metric.values()) for metric in ALL if metric.source in sources)
    return {name: values for name, values in taken if values}


def to_json(samples: Samples) -> dict[str, Any]:
    return {
        name: [[*labels, value] for labels, value in values.items()]
        for name, values in samples.items()
    }


def from_json(data: Mapping[str, Any]) -> Samples:
    """Rebuild what a worker counts, checked: foreign code may run in a worker.

    Raises:
        ValueError: these are not samples of a worker's metrics in the catalog.

    """
    samples: Samples = {}
    for name, rows in data.items():
        metric = BY_NAME.get(name)
        if metric is None or metric.source is not MetricSource.WORKER:
            raise ValueError(f"{shortened(name, MAX_LABEL_BYTES)!r} is no metric of a worker")
        if not isinstance(rows, list) or len(rows) > metric.max_series + 1:
            raise ValueError(f"{name} has no list of at most {metric.max_series + 1} rows")
        samples[name] = dict(_row(row, metric) for row in rows)
    return samples


def _row(row: object, metric: Counter | Gauge | Histogram) -> tuple[Labels, Value]:
    if not isinstance(row, list) or len(row) != len(metric.label_names) + 1:
        raise ValueError(f"{metric.name} has the labels {metric.label_names} and a value")
    *labels, value = row
    if not all(isinstance(label, str) and _is_label(label) for label in labels):
        raise ValueError(f"a label of {metric.name} is not a text of {MAX_LABEL_BYTES} bytes")
    values = [value]
    if isinstance(metric, Histogram):
        values = value if isinstance(value, list) else []
        if len(values) != len(metric.bounds_s) + 2:
            raise ValueError(f"{metric.name} has {len(metric.bounds_s) + 2} numbers")
    if not all(type(n) in {int, float} and abs(n) < MAX_VALUE for n in values):
        raise ValueError(f"a value of {metric.name} is not a number below {MAX_VALUE:g}")
    return tuple(labels), value


def _is_label(text: str) -> bool:
    try:
        return len(text.encode()) <= MAX_LABEL_BYTES
    except UnicodeEncodeError:
        return False


def of_volume(samples: Samples, volume: str) -> Samples:
    """The samples of one worker as they are exported: with the label `volume` before the others."""
    return {
        name: {(volume, *labels): value for labels, value in values.items()}
        for name, values in samples.items()
    }


def total(all_: Iterable[Samples]) -> Samples:
    """The samples of all, with equal metrics and labels summed."""
    sums: Samples = {}
    for samples in all_:
        for name, values in samples.items():
            sum_ = sums.setdefault(name, {})
            for labels, value in values.items():
                sum_[labels] = _plus(sum_[labels], value) if labels in sum_ else value
    return sums


def counts(samples: Samples) -> Samples:
    """The samples without gauges, which end with their process."""
    return {n: values for n, values in samples.items() if not isinstance(BY_NAME[n], Gauge)}


def bounded(samples: Samples) -> Samples:
    """The first `max_series` of each metric: workers that end again and again may add others."""
    return {
        name: dict(islice(values.items(), BY_NAME[name].max_series))
        for name, values in samples.items()
    }


def _plus(a: Value, b: Value) -> Value:
    if isinstance(a, list) and isinstance(b, list):
        return [x + y for x, y in zip(a, b, strict=True)]
    if isinstance(a, list) or isinstance(b, list):
        raise TypeError("a histogram and a number cannot be added")
    return a + b
