import re

import pytest

from csi_s3.obs import metrics


def test_counting_is_per_labels():
    before = metrics.S3_REQUESTS.value(kind="head", status="200")
    metrics.S3_REQUESTS.inc(kind="head", status="200")
    metrics.S3_REQUESTS.inc(2, kind="head", status="200")
    metrics.S3_REQUESTS.inc(kind="head", status="404")
    assert metrics.S3_REQUESTS.value(kind="head", status="200") == before + 3


def test_a_counter_without_labels_counts():
    before = metrics.HIDDEN_NAMES.value()
    metrics.HIDDEN_NAMES.inc(5)
    assert metrics.HIDDEN_NAMES.value() == before + 5


@pytest.mark.parametrize("labels", [{}, {"op": "open"}, {"op": "open", "result": "ok", "x": "y"}])
def test_labels_that_are_not_the_metrics_are_refused(labels):
    with pytest.raises(ValueError, match="label"):
        metrics.FUSE_OPERATIONS.inc(**labels)
    with pytest.raises(ValueError, match="has the labels"):
        metrics.FUSE_OPERATIONS.value(**labels)


def test_what_was_never_counted_is_zero():
    assert metrics.WORKER_DEATHS.value(cause="never") == 0.0


def test_the_list_is_complete_and_each_entry_says_what_it_is():
    assert set(metrics.ALL) == {m for m in vars(metrics).values() if isinstance(m, metrics.Counter)}
    for metric in metrics.ALL:
        assert re.fullmatch(r"csi_s3_[a-z0-9_]+_total", metric.name)
        assert metric.unit
        assert metric.text.endswith(".")
        assert all(f"{label}:" in metric.text for label in metric.labels), metric
