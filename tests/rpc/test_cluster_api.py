"""Events and the startup taint, asked of an API server over HTTP."""

import asyncio
import logging
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from csi_s3.config.api_server import ApiServer
from csi_s3.kubernetes import cluster_api as module
from csi_s3.kubernetes.api_client import ApiLimits
from csi_s3.kubernetes.cluster_api import ClusterApi, PodRef
from tests.rpc.conftest import ROOT
from tests.rpc.fake_cluster import USER, fake_cluster
from tests.rpc.fake_mounter import FakeMounter, until

TAINT = "s3.csi.aws.com/agent-not-ready"
POD = PodRef(namespace="domino-compute", name="run-1", uid="1234")


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at


def client(server, clock, **limits):
    return ClusterApi(
        server,
        component="s3.csi.aws.com",
        host="node-1",
        now=clock,
        limits=ApiLimits(pause_s=0.01, **limits),
    )


@pytest.fixture
def api(tmp_path):
    with fake_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ours(api, clock):
    return client(api.server, clock)


# --- events -------------------------------------------------------------------------------------


async def test_an_event_says_what_kubectl_describe_shows(api, ours):
    await ours.event(
        POD, reason="MountFailed", message="bucket b: AccessDenied (add s3:ListBucket)"
    )
    (name,) = api.events
    assert name.startswith("run-1.")
    assert api.events[name] == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "domino-compute"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "domino-compute",
            "name": "run-1",
            "uid": "1234",
        },
        "type": "Warning",
        "reason": "MountFailed",
        "message": "bucket b: AccessDenied (add s3:ListBucket)",
        "source": {"component": "s3.csi.aws.com", "host": "node-1"},
        "reportingComponent": "s3.csi.aws.com",
        "reportingInstance": "node-1",
        "count": 1,
        "firstTimestamp": "2026-01-02T03:04:05Z",
        "lastTimestamp": "2026-01-02T03:04:05Z",
    }
    (asked,) = api.requests
    assert (asked.method, asked.path) == ("POST", "/api/v1/namespaces/domino-compute/events")
    assert asked.headers["authorization"] == "Bearer first"


async def test_the_same_words_within_ten_minutes_are_counted(api, ours, clock):
    for _ in range(3):
        await ours.event(POD, reason="MountFailed", message="no")
        clock.at += timedelta(minutes=9)
    (event,) = api.events.values()
    assert event["count"] == 3
    assert event["firstTimestamp"] == "2026-01-02T03:04:05Z"
    assert event["lastTimestamp"] == "2026-01-02T03:22:05Z"
    assert [asked.method for asked in api.requests] == ["POST", "PATCH", "PATCH"]
    clock.at += timedelta(minutes=10)
    await ours.event(POD, reason="MountFailed", message="no")
    assert sorted(event["count"] for event in api.events.values()) == [1, 3]


async def test_other_words_another_reason_or_another_pod_make_an_event_of_their_own(api, ours):
    await ours.event(POD, reason="MountFailed", message="no")
    await ours.event(POD, reason="MountFailed", message="never")
    await ours.event(POD, reason="WorkerDied", message="no")
    await ours.event(replace(POD, uid="5678"), reason="MountFailed", message="no")
    assert len(api.events) == 4


async def test_an_event_that_has_expired_is_posted_again(api, ours):
    await ours.event(POD, reason="MountFailed", message="no")
    api.events.clear()
    await ours.event(POD, reason="MountFailed", message="no")
    (event,) = api.events.values()
    assert event["count"] == 1


async def test_a_long_message_is_cut_between_characters(api, ours):
    await ours.event(POD, reason="MountFailed", message="ß" * 1024)
    (event,) = api.events.values()
    assert len(event["message"].encode()) <= 1024
    assert event["message"] == "ß" * 510 + "…"


async def test_only_so_many_events_are_remembered(api, clock):
    ours = client(api.server, clock, events_remembered=2)
    for message in ("a", "b", "c", "c", "a"):
        await ours.event(POD, reason="MountFailed", message=message)
    assert [event["message"] for event in api.events.values()] == ["a", "b", "c", "a"]


async def test_events_are_dropped_while_a_slow_api_server_has_many_to_answer(api, clock, caplog):
    ours = client(api.server, clock, events_waiting=3)
    caplog.set_level(logging.DEBUG, module.__name__)
    api.gate.clear()
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(ours.event(POD, reason="MountFailed", message=str(number)))
        await until(lambda: api.requests)
        api.gate.set()
    assert [event["message"] for event in api.events.values()] == ["0", "1", "2"]
    assert caplog.text.count("an event is dropped") == 2


async def test_a_hiccup_is_tried_once_more(api, ours):
    api.answers = [(503, "leader changed")]
    await ours.event(POD, reason="MountFailed", message="no")
    assert len(api.events) == 1
    first, second = api.requests
    assert first.body == second.body


async def test_an_answer_that_was_lost_makes_no_second_event(api, ours):
    """The first try had worked: the second is told that there is such an event."""
    api.answers = [(504, "timeout"), (409, "events already exists")]
    await ours.event(POD, reason="MountFailed", message="no")
    await ours.event(POD, reason="MountFailed", message="no")
    assert [asked.method for asked in api.requests] == ["POST", "POST", "PATCH", "POST"]


@pytest.mark.warnings_expected("no Event was posted on pod domino-compute/run-1")
async def test_a_missing_permission_is_one_warning_that_names_the_verb(api, ours, caplog):
    caplog.set_level(logging.DEBUG, module.__name__)
    said = f'events is forbidden: User "{USER}" cannot create resource "events"'
    api.answers = [(403, said), (403, said)]
    await ours.event(POD, reason="MountFailed", message="no")
    await ours.event(POD, reason="MountFailed", message="never")
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG"]
    assert caplog.records[0].getMessage() == (
        "no Event was posted on pod domino-compute/run-1: the API server refused to create "
        f"events with 403: {said} (the service account's role needs the verb create on events)"
    )
    assert len(api.requests) == 2  # not tried again: it would not help


@pytest.mark.warnings_expected("no Event was posted")
async def test_an_api_server_that_does_not_answer_is_given_up(api, ours, clock, caplog):
    await ours.event(POD, reason="MountFailed", message="the library is imported")
    assert caplog.text == ""
    api.gate.clear()
    hasty = client(api.server, clock, request_s=0.2)
    await hasty.event(POD, reason="MountFailed", message="no")
    assert "could not be reached to create events: no answer within 0 s" in caplog.text


@pytest.mark.warnings_expected("no Event was posted")
async def test_an_api_server_that_is_not_there_is_named(api, clock, caplog):
    nowhere = replace(api.server, url="http://127.0.0.1:1")
    ours = client(nowhere, clock)
    await ours.event(POD, reason="MountFailed", message="no")
    assert "the API server could not be reached to create events: " in caplog.text
    assert "Connection refused" in caplog.text


@pytest.mark.warnings_expected("no Event was posted")
async def test_a_pod_without_a_token_is_told_so(api, clock, caplog):
    server = ApiServer(url=api.server.url, token=api.server.token.parent / "none", ca=None)
    await client(server, clock).event(POD, reason="R", message="m")
    assert "No such file or directory" in caplog.text
    assert "none" in caplog.text
    assert api.requests == []


async def test_a_renewed_token_is_used(api, ours):
    await ours.event(POD, reason="MountFailed", message="no")
    api.server.token.write_text("second")
    await ours.event(POD, reason="MountFailed", message="no")
    assert [asked.headers["authorization"] for asked in api.requests] == [
        "Bearer first",
        "Bearer second",
    ]


async def test_a_cancelled_caller_keeps_nobody_else_waiting(api, ours):
    api.gate.clear()
    first = asyncio.create_task(ours.event(POD, reason="MountFailed", message="a"))
    await until(lambda: api.requests)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    api.gate.set()
    await ours.event(POD, reason="MountFailed", message="b")
    assert "b" in [event["message"] for event in api.events.values()]


def test_the_library_is_loaded_only_when_the_cluster_is_asked():
    """It takes 24 MB and half a second, which most node plugins can do without."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, csi_s3.node.server; print('kubernetes' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "False\n"


TYPED = """
import pathlib, sys
from csi_s3.config.api_server import ApiServer
from csi_s3.kubernetes.api_client import connection
from kubernetes.client import CoreV1Api

server = ApiServer(url=sys.argv[1], token=pathlib.Path(sys.argv[2]), ca=None)
node = CoreV1Api(connection(server)).read_node("node-1", _request_timeout=30)
print(node.metadata.name, [taint.key for taint in node.spec.taints])
"""


def test_the_typed_api_of_the_library_works_over_the_same_connection(api):
    """In a process of its own: it takes 100 MB."""
    api.put_node("node-1", TAINT)
    done = subprocess.run(
        [sys.executable, "-c", TYPED, api.server.url, str(api.server.token)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert (done.stdout, done.returncode) == (f"node-1 [{TAINT!r}]\n", 0), done.stderr
    (request,) = api.requests
    assert request.headers["authorization"] == "Bearer first"
    assert request.headers["user-agent"] == "csi-s3"


# --- the startup taint ----------------------------------------------------------------------------


async def test_the_taint_is_removed_and_others_stay(api, ours):
    api.put_node("node-1", "other", TAINT, "another")
    assert await ours.remove_taint("node-1", TAINT)
    assert api.taints("node-1") == ["other", "another"]


async def test_a_node_without_the_taint_is_left_alone(api, ours):
    api.put_node("node-1", "other")
    assert await ours.remove_taint("node-1", TAINT)
    assert [asked.method for asked in api.requests] == ["GET"]


async def test_a_node_that_has_changed_meanwhile_is_read_again(api, ours):
    api.put_node("node-1", TAINT)
    real, changed = api._node, []

    def changing(asked, name):
        if asked.method == "PATCH" and not changed:
            changed.append(name)
            api.put_node("node-1", TAINT, "put-there-meanwhile")
        return real(asked, name)

    api._node = changing
    assert await ours.remove_taint("node-1", TAINT)
    assert api.taints("node-1") == ["put-there-meanwhile"]
    assert [asked.method for asked in api.requests] == ["GET", "PATCH", "GET", "PATCH"]


@pytest.mark.warnings_expected("stays on node node-1")
async def test_a_taint_that_may_not_be_removed_is_a_warning_that_names_the_verb(api, ours, caplog):
    api.put_node("node-1", TAINT)
    api.answers = [(403, f'nodes "node-1" is forbidden: User "{USER}" cannot get resource')]
    assert not await ours.remove_taint("node-1", TAINT)
    assert f"taint {TAINT} stays on node node-1: the API server refused to get nodes" in (
        caplog.text
    )
    assert "(the service account's role needs the verb get on nodes)" in caplog.text
    assert await ours.remove_taint("node-1", TAINT)  # granted later


@pytest.mark.warnings_expected("stays on node no-such")
async def test_a_node_that_the_cluster_does_not_know_is_a_warning(api, ours, caplog):
    assert not await ours.remove_taint("no-such", TAINT)
    assert 'with 404: nodes "no-such" not found' in caplog.text


async def test_node_takes_the_taint_away_once_volumes_can_be_mounted(idle, tmp_path, monkeypatch):
    with fake_cluster(tmp_path) as api:
        api.put_node("node-1", TAINT)
        monkeypatch.setenv("TEST_API_SERVER", api.server.url)
        monkeypatch.setenv("TEST_API_TOKEN", str(api.server.token))
        await idle.start("--startup-taint", TAINT)
        assert api.requests == []
        async with FakeMounter(idle.mounter_socket):
            await until(lambda: not api.taints("node-1"))
        await idle.stop()


async def test_node_tries_until_the_api_server_lets_it(idle, tmp_path, monkeypatch):
    with fake_cluster(tmp_path) as api:
        api.answers = [(403, "not yet")]
        api.put_node("node-1", TAINT)
        monkeypatch.setenv("TEST_API_SERVER", api.server.url)
        monkeypatch.setenv("TEST_API_TOKEN", str(api.server.token))
        await idle.start("--startup-taint", TAINT, patience_s=0.3)
        async with FakeMounter(idle.mounter_socket):
            await until(lambda: not api.taints("node-1"))
        assert len(idle.logged("WARNING", "stays on node node-1")) == 1
        assert await idle.stop() == 0


async def test_a_node_that_waits_for_kubelet_ends_when_asked_to(idle, tmp_path, monkeypatch):
    registry = idle.base / "registry"
    registry.mkdir()
    with fake_cluster(tmp_path) as api:
        monkeypatch.setenv("TEST_API_SERVER", api.server.url)
        monkeypatch.setenv("TEST_API_TOKEN", str(api.server.token))
        await idle.start("--startup-taint", TAINT, "--registration-dir", str(registry))
        assert await idle.stop() == 0
        assert api.requests == []


# --- Events of a node plugin ----------------------------------------------------------------------


async def test_node_posts_on_the_pod_that_kubelet_named(idle, tmp_path, monkeypatch):
    with fake_cluster(tmp_path) as api:
        monkeypatch.setenv("TEST_API_SERVER", api.server.url)
        monkeypatch.setenv("TEST_API_TOKEN", str(api.server.token))
        await idle.start("--events", "on")
        async with FakeMounter(idle.mounter_socket):
            for name, flag in (("run-1", "uid=1"), ("run-2", "uid=2")):
                pod = {"name": name, "namespace": "domino-compute", "uid": f"uid-{name}"}
                context = {f"csi.storage.k8s.io/pod.{key}": value for key, value in pod.items()}
                target = idle.target(name)
                await idle.publish(target, flag, context={"bucketName": "bucket", **context})
            await until(lambda: api.events)
            (event,) = api.events.values()
        await idle.stop()
    assert event["involvedObject"]["name"] == "run-2"
    assert event["involvedObject"]["uid"] == "uid-run-2"
    assert event["reason"] == "DuplicateVolumeHandle"
    assert event["source"] == {"component": "s3.csi.aws.com", "host": "node-1"}
