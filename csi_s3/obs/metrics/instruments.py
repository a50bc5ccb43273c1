"""What counts: counters, gauges and histograms as plain numbers, and what they hold as plain data.

prometheus_client's own instruments were rejected: what a worker counts must cross to the keeper as
numbers anyway, and they lock and look up for each count. Measured for one read of the kernel's:
0.26 us with a counter, a histogram and bytes of ours, 0.73 us with one counter of theirs. The
library still writes the text of a scrape (`obs.metrics.exposition`).
"""

from bisect import bisect_left
from collections.abc import Sequence
from enum import Enum
from typing import ClassVar, Generic, TypeAlias, TypeVar

from typing_extensions import override

Labels: TypeAlias = tuple[str, ...]
Value: TypeAlias = "float | list[float]"  # a histogram's: a count for each bucket, then the sum


class Stability(Enum):
    """What a dashboard may rely on."""

    STABLE = "stable"  # name, labels and meaning stay until a major version
    BETA = "beta"  # may change in a minor version; the changelog says so


class MetricSource(Enum):
    """Who counts, and so at whose /metrics it is found."""

    WORKER = "worker"  # found at the mounter, which adds the label `volume` and sums a volume's
    MOUNTER = "mounter"
    NODE = "node"
    BOTH = "node, mounter"


class Cell:
    """One number. Where every nanosecond counts: `cell.count += n`, without a call."""

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

    def held(self) -> list[float]:
        return [*self._counts, self._sum_s] if any(self._counts) else []


C = TypeVar("C", Cell, Timer)


class Metric(Generic[C]):
    """One metric of this process, by the values of its labels.

    Lifetime: the process. Concurrency: one thread counts, the event loop's.
    name: without `csi_s3_` and what its kind adds. unit: what one is, in the plural.
    """

    kind: ClassVar[str]
    ending: ClassVar[str] = ""

    def __init__(
        self,
        name: str,
        *,
        unit: str,
        text: str,
        source: MetricSource,
        stability: Stability = Stability.BETA,
        labels: Labels = (),
    ) -> None:
        self.name = f"csi_s3_{name}{self.ending}"
        self.unit, self.text, self.source, self.stability = unit, text, source, stability
        self.labels = labels
        self._children: dict[Labels, C] = {}

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, labels={self.labels})"

    @property
    def exported_labels(self) -> Labels:
        return ("volume", *self.labels) if self.source is MetricSource.WORKER else self.labels

    def child(self, *values: str) -> C:
        """What counts for these values of the labels: to be kept, where counting must be cheap.

        Raises:
            ValueError: there are not as many as the metric has labels.

        """
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {self.labels}, not {values}")
            child = self._children[values] = self._new()
        return child

    def held(self) -> dict[Labels, Value]:
        """What was counted, as numbers; nothing for what was not, but for a gauge that says 0."""
        raise NotImplementedError

    def forget(self, first: str) -> None:
        """Drop what has this value as its first label; who keeps a child of it counts in vain."""
        for values in [v for v in self._children if v[0] == first]:
            del self._children[values]

    def _new(self) -> C:
        raise NotImplementedError

    def _values(self, labels: dict[str, str]) -> Labels:
        if labels.keys() != set(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        return tuple(labels[name] for name in self.labels)


class Counter(Metric[Cell]):
    """A number of events since the process began."""

    kind, ending = "counter", "_total"

    def inc(self, amount: float = 1, /, **labels: str) -> None:
        """Count; every label must be given.

        Raises:
            ValueError: labels are not this metric's.

        """
        self.child(*self._values(labels)).count += amount

    def value(self, **labels: str) -> float:
        """What was counted in this process for these labels; 0 where nothing was."""
        cell = self._children.get(self._values(labels))
        return 0 if cell is None else cell.count

    @override
    def held(self) -> dict[Labels, Value]:
        return {values: cell.count for values, cell in self._children.items() if cell.count}

    @override
    def _new(self) -> Cell:
        return Cell()


class Gauge(Metric[Cell]):
    """How much there is now."""

    kind = "gauge"

    def set(self, now: float, /, **labels: str) -> None:
        """Say how much there is.

        Raises:
            ValueError: labels are not this metric's.

        """
        self.child(*self._values(labels)).count = now

    @override
    def held(self) -> dict[Labels, Value]:
        return {values: cell.count for values, cell in self._children.items()}

    @override
    def _new(self) -> Cell:
        return Cell()


class Histogram(Metric[Timer]):
    """How long things took. bounds_s: upper ends of the buckets; one without an end is added."""

    kind, ending = "histogram", "_seconds"

    def __init__(
        self,
        name: str,
        *,
        text: str,
        source: MetricSource,
        bounds_s: Sequence[float],
        stability: Stability = Stability.BETA,
        labels: Labels = (),
    ) -> None:
        super().__init__(
            name, unit="seconds", text=text, source=source, stability=stability, labels=labels
        )
        self.bounds_s = tuple(bounds_s)

    @override
    def held(self) -> dict[Labels, Value]:
        found = ((values, timer.held()) for values, timer in self._children.items())
        return {values: held for values, held in found if held}

    @override
    def _new(self) -> Timer:
        return Timer(self.bounds_s)
