"""/metrics, /healthz and /readyz of node and mounter, around a workload that is known."""

import asyncio
import contextlib
import os
import re
import signal

import grpc
import pytest

from csi_s3.mounter.memory_shares import MemoryShares
from csi_s3.obs.http_endpoint import EndpointLimits
from tests.rpc.conftest import is_dead, real_mounter, refused, run
from tests.rpc.fake_mounter import until
from tests.rpc.test_real_mounter import workers
from tests.scraping import Scrape, free_port, get, scrape
from tests.servers import running

MIB = 1 << 20
OPTIONS = ["allow-delete", "region us-east-1"]
LIMIT, MAX_VOLUMES = 1024 * MIB, 4
SHARE = MemoryShares(LIMIT, MAX_VOLUMES).share_bytes


@pytest.fixture(scope="module")
def s3():
    with running("moto") as server:
        server.create_bucket("data")
        assert server.request("PUT", "/data/big", b"b" * MIB)[0] == 200
        yield server


@pytest.fixture
async def ports(idle, s3):
    """Those of node and mounter, both up."""
    at_node, at_mounter = free_port(), free_port()
    await idle.start("--http-address", f"127.0.0.1:{at_node}")
    env = {
        **s3.env(),
        "AWS_ENDPOINT_URL": s3.endpoint,
        "CSI_S3_HTTP_ADDRESS": f"127.0.0.1:{at_mounter}",
        "CSI_S3_MEMORY_LIMIT": str(LIMIT),
        "CSI_S3_MAX_VOLUMES": str(MAX_VOLUMES),
        "CSI_S3_SPOOL_LIMIT": "40Mi",
        "CSI_S3_SPOOL_FREE_PERCENT": "1",
    }
    assert (await ask(at_node, "/healthz")) == (200, "ok\n")
    status, reason = await ask(at_node, "/readyz")
    assert (status, reason) == (503, "no mounter is connected: is its pod running on this node?\n")
    with real_mounter(idle, env) as process:
        await until(lambda: idle.logged("INFO", "mounter is connected"))
        idle.mounter_pid = process.pid
        yield at_node, at_mounter


async def ask(port: int, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(get, port, path)


async def scraped(port: int) -> Scrape:
    """Numbers of now: those of an earlier scrape are answered again for a second."""
    await asyncio.sleep(EndpointLimits().fresh_s)
    return await asyncio.to_thread(scrape, port)


async def scraped_without_workers(port: int) -> Scrape:
    """A worker's process ends a moment after its mount is gone."""
    while (found := await scraped(port)).value("workers"):
        pass
    return found


def read_4k(path, times: int) -> None:
    """Past the page cache: as many reads as asked for reach the file system."""
    flags = ["iflag=direct", "bs=4096", f"count={times}", "status=none"]
    done = run("dd", f"if={path}", "of=/dev/null", *flags)
    assert done.returncode == 0, done.stderr


async def test_a_known_workload_is_counted_as_it_was(idle, ports):
    at_node, at_mounter = ports
    assert [await ask(p, "/readyz") for p in ports] == [(200, "ok\n")] * 2
    target = idle.target("a")
    await idle.publish(target, *OPTIONS, bucket="data", handle="pv-1")
    before = await scraped(at_mounter)
    read_4k(target / "big", 50)
    assert run("sh", "-c", f"head -c 300000 /dev/zero > {target}/new").returncode == 0
    assert run("cat", target / "nothing").returncode != 0
    after = await scraped(at_mounter)

    def more(name: str, **labels: str) -> float:
        return after.value(name, volume="pv-1", **labels) - before.value(
            name, volume="pv-1", **labels
        )

    assert more("fuse_operations_total", op="read", result="ok") == 50
    assert more("fuse_operation_seconds_count", op="read") == 50
    assert more("fuse_operation_seconds_bucket", op="read", le="+Inf") == 50
    assert more("read_bytes_total") == 50 * 4096
    assert more("written_bytes_total") == 300_000
    assert more("s3_requests_total", kind="GET", status="206") == 1
    assert more("s3_requests_total", kind="PUT", status="200") == 1
    assert more("s3_request_seconds_count", kind="PUT") == 1
    assert more("s3_bytes_total", direction="up") == 300_000
    assert MIB <= more("s3_bytes_total", direction="down") < MIB + 20_000  # and the listings
    assert more("fuse_operations_total", op="lookup", result="ENOENT") >= 1
    assert more("errors_total", code="not-found") >= 1
    assert ("csi_s3_open_files", frozenset({("volume", "pv-1")})) in after.samples
    assert after.value("inodes", volume="pv-1") >= 3
    assert after.value("spool_limit_bytes", volume="pv-1") == 40 * MIB // MAX_VOLUMES
    assert after.value("spool_leftovers", volume="pv-1", kind="whole") == 0
    assert ("csi_s3_unmounted_spools", frozenset()) in (await scraped(at_node)).samples
    assert after.value("worker_starts_total", volume="pv-1") == 1
    assert after.value("workers") == 1
    assert after.value("memory_limit_bytes") == LIMIT
    assert 0 <= after.value("memory_bytes", volume="pv-1", kind="buffers") < 16 * MIB
    private = after.value("worker_memory_bytes", volume="pv-1", kind="private")
    assert 5 * MIB < private < after.value("worker_memory_bytes", volume="pv-1", kind="rss")
    assert after.value("node_connected") == after.sum("build_info") == 1

    node = await scraped(at_node)
    assert node.value("csi_calls_total", method="NodePublishVolume", status="OK") == 1
    assert node.value("csi_call_seconds_count", method="NodePublishVolume") == 1
    assert (node.value("mounts"), node.value("published_targets")) == (1, 1)
    assert node.value("mounter_connected") == node.value("registered") == 1
    assert node.sum("build_info") == 1


async def test_a_refused_publish_is_counted_by_status_and_code(idle, ports):
    at_node, at_mounter = ports
    with pytest.raises(Exception, match="no-such-bucket"):
        await idle.publish(idle.target("a"), *OPTIONS, bucket="no-such-bucket", handle="pv-2")
    node = await scraped(at_node)
    assert node.value("csi_calls_total", method="NodePublishVolume", status="NOT_FOUND") == 1
    assert node.value("csi_errors_total", method="NodePublishVolume", code="no-such-bucket") == 1
    await idle.wait_until_clean()
    mounter = await scraped_without_workers(at_mounter)
    assert mounter.value("mount_failures_total", volume="pv-2", code="no-such-bucket") == 1
    assert mounter.value("s3_requests_total", volume="pv-2", kind="LIST", status="404") == 1


async def test_a_killed_worker_is_counted_and_no_total_goes_backwards(idle, ports):
    at_node, at_mounter = ports
    target = idle.target("a")
    await idle.publish(target, *OPTIONS, bucket="data", handle="pv-1")
    read_4k(target / "big", 20)
    before = await scraped(at_mounter)
    (worker,) = workers(idle.mounter_pid)
    os.kill(worker, signal.SIGKILL)
    await is_dead(target)
    node = await scraped(at_node)
    assert (node.value("mounts"), node.value("published_targets")) == (1, 0)
    dead = await scraped(at_mounter)
    assert dead.value("worker_deaths_total", volume="pv-1", cause="SIGKILL") == 1
    assert dead.value("mount_failures_total", volume="pv-1", code="worker-died") == 1
    assert dead.value("worker_memory_bytes", volume="pv-1", kind="private") == 0
    await idle.publish(target, *OPTIONS, bucket="data", handle="pv-1")
    read_4k(target / "big", 5)
    again = await scraped(at_mounter)
    reads = {"volume": "pv-1", "op": "read", "result": "ok"}
    totals = [s.value("fuse_operations_total", **reads) for s in (before, dead, again)]
    assert totals == [20, 20, 25]
    for earlier, later in ((before, dead), (dead, again)):
        counts = {k: v for k, v in earlier.samples.items() if is_a_total(k[0])}
        assert {k: (v, later.samples[k]) for k, v in counts.items() if later.samples[k] < v} == {}
    assert again.value("worker_starts_total", volume="pv-1") == 2


def is_a_total(name: str) -> bool:
    return re.search(r"_(total|count|sum|bucket)$", name) is not None


async def test_what_a_volume_counted_is_there_after_its_unmount(idle, ports):
    _, at_mounter = ports
    target = idle.target("a")
    await idle.publish(target, *OPTIONS, bucket="data", handle="pv-1")
    read_4k(target / "big", 7)
    await idle.unpublish(target, handle="pv-1")
    await idle.wait_until_clean()
    after = await scraped_without_workers(at_mounter)
    assert after.value("read_bytes_total", volume="pv-1") == 7 * 4096
    assert ("csi_s3_inodes", frozenset({("volume", "pv-1")})) not in after.samples


async def test_two_mounts_of_one_handle_are_one_volume(idle, ports):
    _, at_mounter = ports
    one, two = idle.target("a"), idle.target("b")
    await idle.publish(one, *OPTIONS, bucket="data", handle="pv-1")
    await idle.publish(two, *OPTIONS, "uid=5", bucket="data", handle="pv-1")
    read_4k(one / "big", 3)
    read_4k(two / "big", 4)
    after = await scraped(at_mounter)
    assert after.value("workers") == 2
    assert after.value("read_bytes_total", volume="pv-1") == 7 * 4096


@pytest.mark.parametrize(
    ("asked", "budget"),
    [((), SHARE), (("memory-target 64",), 64 * MIB), (("memory-target 4096",), SHARE)],
)
async def test_a_volume_s_budget_is_its_share_of_the_limit_or_less(idle, ports, asked, budget):
    _, at_mounter = ports
    await idle.publish(idle.target("a"), *OPTIONS, *asked, bucket="data", handle="pv-1")
    found = await scraped(at_mounter)
    assert found.value("memory_bound_bytes", volume="pv-1", kind="buffers") == budget
    log = (idle.base / "mounter.log").read_text()
    assert ("is more than a volume's share" in log) == (asked == ("memory-target 4096",))


async def test_a_volume_too_many_is_answered_resource_exhausted(idle, ports):
    for n in range(MAX_VOLUMES):
        await idle.publish(idle.target(f"t{n}"), *OPTIONS, bucket="data", handle=f"pv-{n}")
    code, text = await refused(idle.publish(idle.target("x"), *OPTIONS, bucket="data", handle="x"))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text.endswith("[memory-limit]")
    assert "mounter.maxVolumes" in text
    await idle.unpublish(idle.target("t0"), handle="pv-0")
    await idle.publish(idle.target("x"), *OPTIONS, bucket="data", handle="x")


async def test_a_volume_that_comes_right_after_another_waits_for_its_memory(idle, ports):
    await idle.publish(idle.target("t0"), *OPTIONS, bucket="data", handle="pv-0")
    (worker,) = workers(idle.mounter_pid)
    for n in range(1, MAX_VOLUMES):
        await idle.publish(idle.target(f"t{n}"), *OPTIONS, bucket="data", handle=f"pv-{n}")
    mounter = idle.base / "mounter.log"
    os.kill(worker, signal.SIGSTOP)  # it cannot end yet
    try:
        await idle.unpublish(idle.target("t0"), handle="pv-0")
        new = idle.publish(idle.target("x"), *OPTIONS, bucket="data", handle="x")
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(new)
            await until(lambda: "waiting for the memory of a mount" in mounter.read_text())
            assert not publishing.done()
            os.kill(worker, signal.SIGCONT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
    assert str(idle.target("x")) in idle.fuse_mounts()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"CSI_S3_MEMORY_LIMIT": "1000000000"}, "--memory-limit 1000000000 is too small for --max"),
        ({"CSI_S3_HTTP_ADDRESS": "203.0.113.1:9811"}, "--http-address 203.0.113.1:9811: cannot li"),
    ],
)
async def test_a_mounter_that_cannot_be_as_asked_ends_at_once_and_says_why(idle, more, said):
    with real_mounter(idle, more) as process:
        assert await asyncio.to_thread(process.wait, 20) == 2
    assert f"csi-s3: error: {said}" in (idle.base / "mounter.log").read_text()
