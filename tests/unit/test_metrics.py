import json
import math
import re
from math import inf

import pytest
from prometheus_client.parser import text_string_to_metric_families

from csi_s3.link.channel import MAX_MESSAGE_BYTES
from csi_s3.link.report import Usage
from csi_s3.mounter.metrics.request_counts import count_request, metrics_message
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.metrics import exposition, samples
from csi_s3.obs.metrics.instruments import Counter, Gauge, Histogram, Metric, MetricSource
from csi_s3.s3.http import RequestRecord

KINDS = {Counter: r"_total", Gauge: r"", Histogram: r"_seconds"}


def histogram(*bounds_s):
    return Histogram(
        "h", "seconds", "h.", source=MetricSource.NODE, bounds_s=bounds_s, labels=("op",)
    )


def test_counting_is_per_labels():
    before = metrics.S3_REQUESTS.value(kind="head", status="200")
    metrics.S3_REQUESTS.inc(kind="head", status="200")
    metrics.S3_REQUESTS.inc(2, status="200", kind="head")
    metrics.S3_REQUESTS.inc(kind="head", status="404")
    assert metrics.S3_REQUESTS.value(kind="head", status="200") == before + 3


def test_a_kept_child_counts_where_the_labels_do():
    cell = metrics.S3_REQUESTS.labels("kept", "200")
    cell.count += 2
    metrics.S3_REQUESTS.inc(kind="kept", status="200")
    assert metrics.S3_REQUESTS.value(kind="kept", status="200") == 3


def test_a_counter_without_labels_counts():
    before = metrics.HIDDEN_NAMES.value()
    metrics.HIDDEN_NAMES.inc(5)
    assert metrics.HIDDEN_NAMES.value() == before + 5


@pytest.mark.parametrize("labels", [{}, {"op": "open"}, {"op": "open", "result": "ok", "x": "y"}])
def test_labels_that_are_not_the_metrics_are_refused(labels):
    with pytest.raises(ValueError, match="has the labels"):
        metrics.FUSE_OPERATIONS.inc(**labels)
    with pytest.raises(ValueError, match="has the labels"):
        metrics.FUSE_OPERATIONS.value(**labels)
    with pytest.raises(ValueError, match="has the labels"):
        metrics.FUSE_OPERATIONS.labels(*labels.values())


def test_what_was_never_counted_is_zero_and_not_exported():
    assert metrics.WORKER_DEATHS.value(volume="v", cause="never") == 0.0
    counter = Counter("c", "u", "c.", source=MetricSource.NODE, labels=("op",))
    counter.labels("never")
    assert counter.values() == {}
    assert histogram(1.0).values() == {}


def test_a_gauge_says_the_last_value_a_zero_too():
    gauge = Gauge("g", "u", "g.", source=MetricSource.NODE)
    assert gauge.values() == {}
    gauge.set(5)
    gauge.set(0)
    assert gauge.values() == {(): 0}


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.1, 0), (0.11, 1), (1.0, 1), (1.1, 2), (inf, 2)]
)
def test_a_duration_is_in_the_first_bucket_whose_end_it_does_not_exceed(seconds, bucket):
    timed = histogram(0.1, 1.0)
    timed.labels("read").observe(seconds)
    counts = [0, 0, 0]
    counts[bucket] = 1
    assert timed.values() == {("read",): [*counts, seconds]}


def test_a_histogram_s_text_is_cumulative_as_prometheus_wants_it():
    timer = [1, 0, 2, 0, 0, 0, 0, 0, 0, 7.5]
    text = exposition.text({metrics.FUSE_SECONDS.name: {("pv", "read"): timer}}).decode()
    (family,) = text_string_to_metric_families(text)
    assert (family.name, family.type) == ("csi_s3_fuse_operation_seconds", "histogram")
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert buckets == {
        "0.0005": 1, "0.002": 1, "0.01": 3, "0.05": 3, "0.2": 3, "1.0": 3, "5.0": 3, "30.0": 3,
        "+Inf": 3,
    }  # fmt: skip
    assert [s.value for s in family.samples if s.name.endswith("_sum")] == [7.5]
    assert {(s.labels["volume"], s.labels["op"]) for s in family.samples} == {("pv", "read")}


def test_a_label_s_value_cannot_forge_a_sample():
    forged = 'pv"} 1\ncsi_s3_workers 99\n'
    text = exposition.text({metrics.INODES.name: {(forged,): 3}}).decode()
    (family,) = text_string_to_metric_families(text)
    assert [(s.labels["volume"], s.value) for s in family.samples] == [(forged, 3)]


def test_samples_arrive_as_they_were_and_with_a_volume():
    sent = {
        metrics.FUSE_OPERATIONS.name: {("read", "ok"): 5, ("read", "EIO"): 1},
        metrics.INODES.name: {(): 7},
        metrics.FUSE_SECONDS.name: {("read",): [1, 0, 0, 0, 0, 0, 0, 0, 0, 0.25]},
    }
    assert samples.from_json(json.loads(json.dumps(samples.to_json(sent)))) == sent
    assert samples.of_volume(sent, "pv")[metrics.INODES.name] == {("pv",): 7}


@pytest.mark.parametrize(
    "data",
    [
        {"csi_s3_unknown_total": []},
        {"csi_s3_inodes": [["label", 1]]},
        {"csi_s3_inodes": 1},
        {"csi_s3_inodes": [1]},
        {"csi_s3_inodes": [[True]]},
        {"csi_s3_inodes": [[math.inf]]},
        {"csi_s3_inodes": [[{}]]},
        {"csi_s3_mounts": [[1]]},
        {"csi_s3_mount_failures_total": [["pv", "code", 1]]},
        {"csi_s3_memory_bytes": [["x" * 201, 1]]},
        {"csi_s3_memory_bytes": [["\ud800", 1]]},
        {"csi_s3_memory_bytes": [[1, 1]]},
        {"csi_s3_memory_bytes": [["x", 1]] * 1002},
        {"csi_s3_fuse_operation_seconds": [["read", 1]]},
        {"csi_s3_fuse_operation_seconds": [["read", [1, 2]]]},
    ],
)
def test_what_are_no_samples_of_ours_is_refused(data):
    (name,) = data
    assert name in {metric.name for metric in metrics.ALL} or "unknown" in name
    said = "is no metric of a worker|has no list|has the labels|numbers|^a (label|value) of"
    with pytest.raises(ValueError, match=said):
        samples.from_json(data)


def test_a_total_adds_numbers_and_buckets_and_keeps_what_only_one_has():
    name, timed = metrics.READ_BYTES.name, metrics.FUSE_SECONDS.name
    one = {name: {("a",): 1}, timed: {("a", "read"): [1, 2, 0.5]}}
    other = {name: {("a",): 2, ("b",): 4}, timed: {("a", "read"): [0, 1, 0.25]}}
    assert samples.total([one, other]) == {
        name: {("a",): 3, ("b",): 4},
        timed: {("a", "read"): [1, 3, 0.75]},
    }
    assert one[name] == {("a",): 1}


def test_of_a_process_that_has_ended_gauges_do_not_last():
    held = {metrics.READ_BYTES.name: {(): 1}, metrics.INODES.name: {(): 1}}
    assert samples.counts(held) == {metrics.READ_BYTES.name: {(): 1}}


@pytest.mark.parametrize("n", [10, 100])
@pytest.mark.warnings_expected("csi_s3_c_total has 10 series")
def test_a_metric_has_no_more_series_than_it_may_and_one_for_the_rest(n, caplog):
    counter = Counter("c", "u", "c.", source=MetricSource.NODE, labels=("a", "b"), max_series=10)
    timed = Histogram(
        "h", "seconds", "h.", source=MetricSource.NODE, labels=("a",), bounds_s=[1], max_series=n
    )
    for number in range(n):
        counter.inc(a=str(number), b="x")
        counter.labels(str(number), "x").count += 1
        timed.labels(str(number)).observe(0.5)
    values = counter.values()
    assert sum(values.values()) == 2 * n
    assert values.get(("other", "other"), 0) == 2 * (n - 10)
    assert len(values) == 10 + (n > 10)
    assert len(caplog.records) == (n > 10)
    assert len(timed.values()) == n
    counter.forget("0")
    counter.inc(a="new", b="x")
    assert counter.value(a="new", b="x") == 1


@pytest.mark.parametrize("statuses", [range(100, 200), range(1000)])
def test_a_store_cannot_make_series_by_answering_any_status(statuses):
    kinds = [f"ANY{n}" for n in range(14)]
    for status in statuses:
        for kind in kinds:
            record = RequestRecord(kind=kind, status=status, seconds=0.1, bytes_up=0, bytes_down=0)
            count_request(record)
    try:
        found = {v for k, v in metrics.S3_REQUESTS.values() if k == "ANY0"}
        assert len(found) <= 50
        assert {"100", "1xx"} <= found
        assert len(json.dumps(metrics_message(Usage(), None))) < MAX_MESSAGE_BYTES // 2
    finally:
        for kind in kinds:
            metrics.S3_REQUESTS.forget(kind)
            metrics.S3_SECONDS.forget(kind)


def test_all_that_a_worker_can_count_fits_into_one_message():
    """More operations, errnos, kinds, statuses and codes than there are."""
    ops, results = [f"operation{n}" for n in range(40)], [f"ELONGNAME{n}" for n in range(20)]
    counts = 1e15 + 0.123
    full = {
        metrics.FUSE_OPERATIONS.name: {(op, r): 1 << 60 for op in ops for r in results},
        metrics.FUSE_SECONDS.name: {(op,): [1 << 60] * 9 + [counts] for op in ops},
        metrics.ERRORS.name: {(f"some-long-error-code-{n}",): 1 << 60 for n in range(60)},
        metrics.S3_REQUESTS.name: {(f"KIND{n}", str(s)): 1 << 60 for n in range(20) for s in ops},
        metrics.S3_SECONDS.name: {(f"KIND{n}",): [1 << 60] * 12 + [counts] for n in range(20)},
    }
    assert len(json.dumps({"families": samples.to_json(full)})) < MAX_MESSAGE_BYTES


def test_forgetting_a_volume_drops_its_numbers_and_no_other_s():
    for volume in ("gone", "stays"):
        metrics.WORKER_DEATHS.inc(volume=volume, cause="SIGKILL")
    metrics.WORKER_DEATHS.forget("gone")
    assert metrics.WORKER_DEATHS.value(volume="gone", cause="SIGKILL") == 0
    assert metrics.WORKER_DEATHS.value(volume="stays", cause="SIGKILL") == 1


def test_the_list_is_complete_and_each_entry_says_what_it_is():
    assert set(metrics.ALL) == {m for m in vars(metrics).values() if isinstance(m, Metric)}
    assert len(metrics.BY_NAME) == len(metrics.ALL)
    for metric in metrics.ALL:
        assert re.fullmatch(rf"csi_s3_[a-z0-9_]+{KINDS[type(metric)]}", metric.name)
        assert metric.unit
        assert metric.text.endswith(".")
        assert all(f"{label}:" in metric.text for label in metric.label_names), metric


def test_no_metric_has_a_pod_as_a_label():
    labels = {label for metric in metrics.ALL for label in metric.exported_labels}
    assert not [label for label in labels if "pod" in label or "uid" in label]


# Each value of a label is one of a set, or has a limit of its own.
BOUNDED_LABELS = {
    "op": "the requests of FUSE",
    "result": "the errnos of the tree of errors",
    "code": "the tree of errors",
    "kind": "kinds of requests, of memory, of records: words of this code",
    "status": "of S3: a list and the classes; of gRPC: its codes",
    "direction": "up, down",
    "reason": "age, room",
    "volume": "volumes that are mounted, and the latest that were",
    "cause": "signals and exit codes",
    "method": "of CSI",
    "version": "one",
    "python": "one",
}


def test_the_values_of_each_label_are_known_to_be_bounded():
    labels = {label for metric in metrics.ALL for label in metric.exported_labels}
    new = sorted(labels - BOUNDED_LABELS.keys())
    assert not new, f"say in BOUNDED_LABELS what bounds the values of {new}"
