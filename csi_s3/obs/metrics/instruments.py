"""Counters, gauges and histograms as plain numbers, and their values as plain data.

prometheus_client's own instruments were rejected: what a worker counts must cross to the keeper as
numbers anyway, and they lock and look up for each count. Measured for one FUSE read: 0.26 us with
a counter, a histogram and a byte counter of this module, 0.73 us with one counter of the library.
The library still writes the text of a scrape (`obs.metrics.exposition`).
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from enum import Enum
from typing import ClassVar, Generic, TypeAlias, TypeVar

from typing_extensions import override

log = logging.getLogger(__name__)

MAX_SERIES = 1000  # of one metric in one process
OTHER = "other"  # the value of every label of the series for what exceeds it

Labels: TypeAlias = tuple[str, ...]
Value: TypeAlias = "float | list[float]"  # a histogram's: a count for each bucket, then the sum


class Stability(Enum):
    """What dashboards may rely on."""

    STABLE = "stable"  # name, labels and meaning stay until a major version
    BETA = "beta"  # may change in a minor version; the changelog says so


class MetricSource(Enum):
    """Which process counts, and so whose /metrics has it."""

    WORKER = "worker"  # exported by the mounter, which adds the label `volume` and sums a volume's
    MOUNTER = "mounter"
    NODE = "node"
    BOTH = "node, mounter"


class Cell:
    """One number. To count costs no call: `cell.count += n`."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count: float = 0


class Timer:
    """One histogram's durations for one set of labels."""

    __slots__ = ("_bounds_s", "_counts", "_sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self._sum_s += seconds

    def value(self) -> list[float]:
        return [*self._counts, self._sum_s] if any(self._counts) else []


C = TypeVar("C", Cell, Timer)


class Metric(Generic[C]):
    """One metric of this process, by the values of its labels.

    Lifetime: the process. Concurrency: one thread counts, the event loop's.
    name: without the prefix `csi_s3_` and the suffix of its kind. unit: in the plural.
    max_series: sets of label values; what exceeds them shares one more, and is logged once.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str] = ""
    _new: Callable[[], C]

    def __init__(
        self,
        name: str,
        unit: str,
        text: str,
        *,
        source: MetricSource,
        stability: Stability = Stability.BETA,
        labels: Labels = (),
        bounds_s: Sequence[float] = (),
        max_series: int = MAX_SERIES,
    ) -> None:
        self.name = f"csi_s3_{name}{self.suffix}"
        self.unit, self.text, self.source, self.stability = unit, text, source, stability
        self.label_names, self.bounds_s = labels, tuple(bounds_s)
        self.max_series = max_series
        self._cells: dict[Labels, C] = {}
        self._is_full_logged = False

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, labels={self.label_names})"

    @property
    def exported_labels(self) -> Labels:
        is_worker = self.source is MetricSource.WORKER
        return ("volume", *self.label_names) if is_worker else self.label_names

    def labels(self, *values: str) -> C:
        """The cell for these label values; callers keep it where counting must be cheap.

        Raises:
            ValueError: there are not as many values as the metric has labels.

        """
        cell = self._cells.get(values)
        if cell is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, not {values}")
            cell = self._cells.setdefault(self._bounded(values), self._new())
        return cell

    def _bounded(self, values: Labels) -> Labels:
        """These values, or those of the series for the rest if there is no room for another."""
        rest = (OTHER,) * len(values)
        if len(self._cells) - (rest in self._cells) < self.max_series:
            return values
        if not self._is_full_logged:
            self._is_full_logged = True
            log.warning(
                "%s has %d series; others are counted as one: %s",
                self.name,
                self.max_series,
                ", ".join(f'{name}="{OTHER}"' for name in self.label_names),
            )
        return rest

    def values(self) -> dict[Labels, Value]:
        """The values that are not zero, by label values; of a gauge all of them."""
        raise NotImplementedError

    def forget(self, first: str) -> None:
        """Drop the cells with this value of the first label; a cell kept elsewhere is lost."""
        for values in [v for v in self._cells if v[0] == first]:
            del self._cells[values]

    def _label_values(self, labels: dict[str, str]) -> Labels:
        if labels.keys() != set(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, not {tuple(labels)}")
        return tuple(labels[name] for name in self.label_names)


class Counter(Metric[Cell]):
    """A number of events since the process began."""

    kind, suffix, _new = "counter", "_total", Cell

    def inc(self, amount: float = 1, /, **labels: str) -> None:
        """Count; every label must be given.

        Raises:
            ValueError: labels are not this metric's.

        """
        self.labels(*self._label_values(labels)).count += amount

    def value(self, **labels: str) -> float:
        """What was counted in this process for these labels."""
        cell = self._cells.get(self._label_values(labels))
        return 0 if cell is None else cell.count

    def total(self) -> float:
        """What was counted in this process for all labels."""
        return sum(cell.count for cell in self._cells.values())

    @override
    def values(self) -> dict[Labels, Value]:
        return {values: cell.count for values, cell in self._cells.items() if cell.count}


class Gauge(Metric[Cell]):
    kind, _new = "gauge", Cell

    def set(self, now: float, /, **labels: str) -> None:
        """Set the value.

        Raises:
            ValueError: labels are not this metric's.

        """
        self.labels(*self._label_values(labels)).count = now

    @override
    def values(self) -> dict[Labels, Value]:
        return {values: cell.count for values, cell in self._cells.items()}


class Histogram(Metric[Timer]):
    """Durations. bounds_s: the upper bounds of the buckets; a last one without a bound is added."""

    kind, suffix = "histogram", "_seconds"

    @override
    def values(self) -> dict[Labels, Value]:
        taken = ((values, timer.value()) for values, timer in self._cells.items())
        return {values: value for values, value in taken if value}

    @override
    def _new(self) -> Timer:
        return Timer(self.bounds_s)
