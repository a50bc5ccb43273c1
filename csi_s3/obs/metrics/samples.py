"""The values of metrics as plain data: taken in one process, sent, summed and exported."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from csi_s3.obs.metrics.catalog import ALL, BY_NAME
from csi_s3.obs.metrics.instruments import Gauge, Labels, MetricSource, Value

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
    """Rebuild.

    Raises:
        ValueError: these are not samples of metrics in the catalog.

    """
    samples: Samples = {}
    try:
        for name, rows in data.items():
            metric = BY_NAME[name]
            values = samples[name] = {}
            for *labels, value in rows:
                if len(labels) != len(metric.label_names):
                    raise ValueError(f"{name} has the labels {metric.label_names}, not {labels}")
                values[tuple(map(str, labels))] = value
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not samples of metrics: {exc!r}") from exc
    return samples


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


def _plus(a: Value, b: Value) -> Value:
    if isinstance(a, list) and isinstance(b, list):
        return [x + y for x, y in zip(a, b, strict=True)]
    if isinstance(a, list) or isinstance(b, list):
        raise TypeError("a histogram and a number cannot be added")
    return a + b
