"""Node with `csi-s3 mounter` and a real S3 server behind it."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import grpc
import pytest

from tests.faulty import Act, Fault, faulty
from tests.rpc.conftest import is_dead, real_mounter, refused, run
from tests.rpc.fake_mounter import until
from tests.servers import running

AS_SCIENTIST = ["setpriv", "--reuid=12574", "--regid=12574", "--clear-groups"]
OPTIONS = ["allow-delete", "region us-east-1", "uid=12574", "gid=12574"]


@pytest.fixture(scope="module")
def s3():
    with running("moto") as server:
        server.create_bucket("data")
        yield server


@pytest.fixture
async def served(node, s3):
    environment = {**s3.env(), "AWS_ENDPOINT_URL": s3.endpoint}
    with real_mounter(node, environment) as process:
        await until(lambda: node.logged("INFO", "mounter is connected"))
        yield process


async def test_a_pod_writes_and_the_object_is_in_the_bucket(node, served, s3):
    s3.request("PUT", "/data/in/hello.txt", b"hello")
    target = node.target("a")
    await node.publish(target, *OPTIONS, bucket="data")
    assert run("cat", target / "in" / "hello.txt").stdout == "hello"
    wrote = run(*AS_SCIENTIST, "sh", "-c", f"echo written > {target}/out.txt")
    assert wrote.returncode == 0, wrote.stderr
    assert s3.request("GET", "/data/out.txt") == (200, b"written\n")
    ahead = f"/sys/class/bdi/{node.fuse_mounts()[str(target)].device}/read_ahead_kb"
    assert run("cat", ahead).stdout == "1024\n"
    assert not (await node.stats(target)).volume_condition.abnormal
    await node.unpublish(target)
    await node.wait_until_clean()
    assert not node.logged("ERROR")
    assert not node.logged("WARNING")


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


async def test_an_idle_worker_owns_at_most_40_mb(node, served):
    target = node.target("a")
    await node.publish(target, *OPTIONS, bucket="data")
    assert run("ls", "-lR", target).returncode == 0
    (zygote,) = children(served.pid)
    (worker,) = children(zygote)
    rollup = Path(f"/proc/{worker}/smaps_rollup").read_text()
    owned_kb = sum(
        int(n) for n in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", rollup, re.MULTILINE)
    )
    assert 0 < owned_kb <= 40_000
    await node.unpublish(target)
    await node.wait_until_clean()


async def test_a_signal_to_the_mounter_has_each_volume_log_which_requests_hang(node, s3):
    s3.request("PUT", "/data/hanging/file", b"content")
    with faulty(s3.endpoint) as store:
        environment = {**s3.env(), "AWS_ENDPOINT_URL": store.endpoint}
        with real_mounter(node, environment) as process:
            await until(lambda: node.logged("INFO", "mounter is connected"))
            target = node.target("a")
            await node.publish(target, *OPTIONS, bucket="data")
            assert run("ls", target).returncode == 0
            store.faults.append(Fault(Act.HANG, times=-1))
            reader = subprocess.Popen(["cat", target / "hanging" / "file"])
            await until(lambda: store.faults[0].times < -1)
            process.send_signal(signal.SIGUSR1)
            log = node.base / "mounter.log"
            await until(lambda: "wait for an answer" in log.read_text())
            (line,) = [
                entry
                for entry in map(json.loads, log.read_text().splitlines())
                if entry.get("code") == "requests-waiting"
            ]
            assert (line["volume"], line["level"]) == ("pv", "INFO")
            oldest = r"1 requests .*; the oldest: LOOKUP \d+ of inode \d+( \(hanging/\))?, \d+ s"
            assert re.fullmatch(oldest, line["message"]), line
            store.faults.clear()
            store.let_go.set()
            assert reader.wait(60) == 0
            await node.unpublish(target)
            await node.wait_until_clean()


async def test_a_bucket_that_is_not_there_is_the_answer(node, served):
    target = node.target("a")
    code, text = await refused(node.publish(target, bucket="no-such-bucket"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "no-such-bucket" in text
    assert text.endswith("[no-such-bucket]")
    assert not target.exists()
    await node.wait_until_clean()


async def test_a_killed_mounter_leaves_nobody_hanging_and_its_successor_serves(node, served, s3):
    target = node.target("a")
    await node.publish(target, *OPTIONS, bucket="data")
    reader = subprocess.Popen(
        ["sh", "-c", f"while ls -l {target} && sleep 0.01; do :; done"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    served.kill()
    served.wait(20)
    await until(lambda: not node.volume_directories())
    await is_dead(target)
    with real_mounter(node, {**s3.env(), "AWS_ENDPOINT_URL": s3.endpoint}):
        await until(lambda: len(node.logged("INFO", "mounter is connected")) == 2)
        await node.publish(target, *OPTIONS, bucket="data")
        assert run("ls", target).returncode == 0
        await node.unpublish(target)
        await node.wait_until_clean()
    reader.kill()
    reader.wait(20)


async def test_a_killed_worker_ends_only_its_own_volume(node, served, s3):
    s3.create_bucket("other")
    a, b = node.target("a"), node.target("b")
    await node.publish(a, bucket="data")
    (worker,) = workers(served.pid)
    await node.publish(b, handle="pv-2", bucket="other")
    mount_id = node.logged("INFO", "volume is mounted")[0]["mount"]
    os.kill(worker, signal.SIGKILL)
    await is_dead(a)
    (line,) = node.logged("ERROR")
    assert (line["mount"], line["volume"]) == (mount_id, "pv")
    assert run("ls", b).returncode == 0
    await node.publish(a, bucket="data")
    assert run("ls", a).returncode == 0


def workers(mounter: int) -> list[int]:
    """The processes below the mounter's first one that hold a /dev/fuse descriptor."""
    below, todo = [], [mounter]
    while todo:
        children = run("pgrep", "-P", str(todo.pop())).stdout.split()
        todo += map(int, children)
        below += map(int, children)
    return [pid for pid in below if "/dev/fuse" in run("ls", "-l", f"/proc/{pid}/fd").stdout]
