"""What metrics hold, as plain data: taken in one process, sent, summed and shown in another."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from csi_s3.obs.metrics.catalog import ALL, BY_NAME
from csi_s3.obs.metrics.instruments import Gauge, Labels, MetricSource, Value

Samples: TypeAlias = dict[str, dict[Labels, Value]]  # by the metric's name and its labels' values


def take(*sources: MetricSource) -> Samples:
    """What this process has counted of the metrics with these sources."""
    found = ((metric.name, metric.held()) for metric in ALL if metric.source in sources)
    return {name: held for name, held in found if held}


def to_json(samples: Samples) -> dict[str, Any]:
    return {
        name: [[*labels, value] for labels, value in held.items()] for name, held in samples.items()
    }


def from_json(data: Mapping[str, Any]) -> Samples:
    """Rebuild.

    Raises:
        ValueError: these are no samples of our metrics.

    """
    found: Samples = {}
    try:
        for name, rows in data.items():
            metric = BY_NAME[name]
            held = found[name] = {}
            for *labels, value in rows:
                if len(labels) != len(metric.labels):
                    raise ValueError(f"{name} has the labels {metric.labels}, not {labels}")
                held[tuple(map(str, labels))] = value
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"no samples of our metrics: {exc!r}") from exc
    return found


def of_volume(samples: Samples, volume: str) -> Samples:
    """The samples of one worker as they are exported: with the label `volume` before the others."""
    return {
        name: {(volume, *labels): value for labels, value in held.items()}
        for name, held in samples.items()
    }


def total(all_: Iterable[Samples]) -> Samples:
    """The sum of samples that may be of the same metrics and labels."""
    sums: Samples = {}
    for samples in all_:
        for name, held in samples.items():
            sum_ = sums.setdefault(name, {})
            for labels, value in held.items():
                sum_[labels] = _plus(sum_[labels], value) if labels in sum_ else value
    return sums


def lasting(samples: Samples) -> Samples:
    """What goes on to be true of a process that has ended: its counts, but no gauge."""
    return {n: held for n, held in samples.items() if not isinstance(BY_NAME[n], Gauge)}


def _plus(a: Value, b: Value) -> Value:
    if isinstance(a, list) and isinstance(b, list):
        return [x + y for x, y in zip(a, b, strict=True)]
    if isinstance(a, list) or isinstance(b, list):
        raise TypeError("a histogram and a number cannot be added")
    return a + b
