"""The S3 server is slow, goes away, and comes back, under pods that use it."""

import pytest

from e2e import kube, space

BIG = 24 << 20


@pytest.fixture
def claim(ns, bucket, link):
    return ns.claim(
        bucket, f"endpoint-url {link.url}", "allow-delete", "allow-overwrite", "aws-max-attempts 3"
    )


def test_a_slow_server_is_waited_for(ns, s3, bucket, link, claim):
    s3.put(bucket, "big", b"x" * (4 << 20))
    pod = ns.pod(claim)
    link.delay_s = 0.02  # per 16 KiB: some 5 s for the file
    assert ns.sh(pod, "cat /data/big | wc -c; echo new > /data/new; cat /data/new") == (
        f"{4 << 20}\nnew\n"
    )
    assert s3.get(bucket, "new") == b"new\n"


def test_a_server_that_is_away_is_an_error_and_no_hang_and_then_all_goes_on(
    ns, s3, bucket, link, claim
):
    s3.put(bucket, "f", "hello")
    pod = ns.pod(claim)
    assert ns.sh(pod, "cat /data/f") == "hello"
    link.down()
    said = ns.fails(pod, "sleep 1.5; timeout -s KILL 100 cat /data/f", within_s=120)
    assert "Input/output error" in said or "Connection timed out" in said
    ns.event(pod, "FailedMount.*s3-unavailable", within_s=150)
    link.up()
    assert ns.sh(pod, "cat /data/f; echo again > /data/again") == "hello"
    assert s3.get(bucket, "again") == b"again\n"


def test_a_write_that_cannot_be_uploaded_says_so_at_close_and_a_short_break_is_bridged(
    ns, s3, bucket, link
):
    claim = ns.claim(bucket, f"endpoint-url {link.url}")
    pod = ns.pod(claim)
    script = (
        f"head -c {BIG} /dev/urandom > /tmp/b; (sleep 1; cat /tmp/b) > /data/b; cmp /tmp/b /data/b"
    )
    ns.sh(pod, f"({script}) > /tmp/log 2>&1; echo $? >> /tmp/log &")
    link.down()
    kube.until(lambda: not link.up(), what="the end of a short break", within_s=1)
    ended = kube.until(
        lambda: ns.sh(pod, "cat /tmp/log").split(), what="the end of the write", within_s=90
    )
    assert ended == ["0"]
    assert len(s3.get(bucket, "b")) == BIG


def test_a_pod_is_deleted_while_the_server_is_away_and_its_bytes_reach_s3_with_the_next(
    ns, s3, bucket, link, claim, *, nodes
):
    pod = ns.pod(claim, node=nodes[0], container=space.HOLDS_OPEN)
    link.down()
    ns.delete(f"pod/{pod}", within_s=150)  # close and release each wait for all retries
    said = ns.event(pod, "UploadFailed.*s3-unavailable", within_s=90)
    assert f"s3://{bucket}/…" in said  # the Event is every pod's, the log has the name
    assert "the volume's next mount on this node uploads it from /" in said
    link.up()
    ns.pod(claim, node=nodes[0])
    kube.until(lambda: s3.keys(bucket) == ["open"], what="the upload by the next worker")
    assert s3.get(bucket, "open") == b"kept"
