"""The text that Prometheus scrapes. Only this module imports prometheus_client."""

from collections.abc import Iterator
from itertools import accumulate
from typing import cast

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from typing_extensions import override

from csi_s3.obs.metrics.catalog import BY_NAME
from csi_s3.obs.metrics.instruments import Counter, Histogram
from csi_s3.obs.metrics.samples import Samples

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(samples: Samples) -> bytes:
    """Samples, with the labels that are exported, in Prometheus's text format."""
    return generate_latest(_Samples(samples))


class _Samples(Collector):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    @override
    def collect(self) -> Iterator[Metric]:
        for name, samples in self._samples.items():
            metric = BY_NAME[name]
            labels = metric.exported_labels
            family: Metric
            if isinstance(metric, Histogram):
                family = histogram = HistogramMetricFamily(name, metric.text, labels=labels)
                for values, value in samples.items():
                    *counts, sum_s = cast("list[float]", value)
                    bounds = [*map(floatToGoString, metric.bounds_s), "+Inf"]
                    buckets = list(zip(bounds, accumulate(counts), strict=True))
                    histogram.add_metric(values, buckets, sum_s)
            else:
                kind = CounterMetricFamily if isinstance(metric, Counter) else GaugeMetricFamily
                family = plain = kind(name, metric.text, labels=labels)
                for values, value in samples.items():
                    plain.add_metric(values, cast("float", value))
            yield family
