"""Node, mounter and a store that fails: what `kubectl describe pod` shows, and how it recovers."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.contract.scripted import error, listing, scripted_s3
from tests.rpc.conftest import real_mounter, refused, run
from tests.rpc.fake_mounter import until
from tests.rpc.test_real_mounter import workers
from tests.servers import running

ONCE = "aws-max-attempts 1"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-real-one"}
HOLDS_OPEN = (
    "import os, sys; fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT); os.write(fd, b'kept');"
    "print('up', flush=True); sys.stdin.read()"
)
NOWHERE = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def minio():
    with running("minio") as server:
        server.create_bucket("data")
        server.request("PUT", "/data/hello.txt", b"hello")
        yield server


@contextlib.asynccontextmanager
async def mounting(node, **env: str) -> AsyncIterator[object]:
    ups = len(node.logged("INFO", "mounter is connected"))
    with real_mounter(node, {**NOWHERE, **env}) as process:
        await until(lambda: len(node.logged("INFO", "mounter is connected")) > ups)
        yield process


async def shell(command: str):
    return await asyncio.to_thread(run, "sh", "-c", command)


class Relay:
    """A port that relays connections to a server; while it is closed, it refuses them."""

    def __init__(self, port: int) -> None:
        self._to, self._port = port, 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await until(lambda: not self._open)

    async def _pass(self, reader, writer) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._open |= {writer, back}
        copies = [
            asyncio.create_task(self._copy(reader, back)),
            asyncio.create_task(self._copy(there, writer)),
        ]
        await asyncio.wait(copies)
        self._open -= {writer, back}

    async def _copy(self, reader, writer) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@pytest.fixture
async def relay(minio):
    relay = Relay(int(minio.endpoint.rpartition(":")[2]))
    await relay.open()
    try:
        yield relay
    finally:
        await relay.close()


# --- a volume that was healthy --------------------------------------------------------------------


async def test_a_store_that_is_away_is_the_answer_until_it_is_back(node, minio, relay):
    async with mounting(node, **minio.env(), AWS_ENDPOINT_URL_S3=relay.endpoint):
        target = node.target("a")
        await node.publish(target, ONCE, bucket="data", pod="a")
        assert (await shell(f"cat {target}/hello.txt")).stdout == "hello"
        await node.publish(target, ONCE, bucket="data", pod="a")
        await relay.close()
        await node.publish(target, ONCE, bucket="data", pod="a")  # no request has failed yet
        assert "Input/output error" in (await shell(f"cat {target}/other.txt")).stderr
        code, text = await refused(node.publish(target, ONCE, bucket="data", pod="a"))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert text.startswith("volume pv is mounted, but LIST s3://data/: ")
        assert relay.endpoint in text
        assert "endpoint-url" in text
        assert text.endswith("[s3-unavailable]")
        assert (await node.stats(target)).volume_condition.abnormal
        await relay.open()
        async with asyncio.timeout(30):  # it asks the bucket every ten seconds at most
            while True:
                try:
                    await node.publish(target, ONCE, bucket="data", pod="a")
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.2)
                else:
                    break
        assert not (await node.stats(target)).volume_condition.abnormal
        assert (await shell(f"cat {target}/hello.txt")).stdout == "hello"
        await node.unpublish(target)
        await node.wait_until_clean()


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (
            error(400, "ExpiredToken", "The provided token has expired."),
            grpc.StatusCode.UNAUTHENTICATED,
            "ExpiredToken: The provided token has expired. (HTTP 400)",
        ),
        (
            error(403, "AccessDenied", "no"),
            grpc.StatusCode.PERMISSION_DENIED,
            "s3:ListBucket on the bucket",
        ),
        (error(404, "NoSuchBucket", "gone"), grpc.StatusCode.NOT_FOUND, "[no-such-bucket]"),
        (error(503, "SlowDown", "less"), grpc.StatusCode.UNAVAILABLE, "SlowDown"),
    ],
)
async def test_a_bucket_that_refuses_since_the_pod_was_started_says_why(node, fault, code, said):
    async with scripted_s3() as s3:
        s3.rule = lambda _: listing()
        async with mounting(node, **KEYS, AWS_ENDPOINT_URL_S3=s3.endpoint):
            target = node.target("a")
            await node.publish(target, ONCE)
            s3.rule = lambda _: fault
            assert (await shell(f"cat {target}/any")).returncode != 0
            found, text = await refused(node.publish(target, ONCE))
            assert found is code, text
            assert text.startswith(
                "volume pv is mounted, but LIST s3://bucket/"
            )  # its look-up, or ours
            assert said in text
            s3.rule = lambda _: listing()
            assert (await shell(f"ls {target}")).returncode == 0
            await node.publish(target, ONCE)
            await node.unpublish(target)
            await node.wait_until_clean()


async def test_a_healthy_volume_costs_no_request(node):
    async with scripted_s3() as s3:
        s3.rule = lambda _: listing()
        async with mounting(node, **KEYS, AWS_ENDPOINT_URL_S3=s3.endpoint):
            target = node.target("a")
            await node.publish(target, ONCE)
            before = len(s3.seen)
            for _ in range(3):
                await node.publish(target, ONCE)
                assert not (await node.stats(target)).volume_condition.abnormal
            assert len(s3.seen) == before
            await node.unpublish(target)
            await node.wait_until_clean()


async def test_a_killed_worker_is_an_event_on_its_pod_and_the_next_publish_works(node, minio):
    async with mounting(node, **minio.env(), AWS_ENDPOINT_URL_S3=minio.endpoint) as mounter:
        target = node.target("a")
        await node.publish(target, bucket="data", pod="a")
        (worker,) = workers(mounter.pid)
        os.kill(worker, signal.SIGKILL)
        await until(node.events)
        ((pod, reason, text),) = node.events()
        assert (pod, reason) == ("a", "VolumeBroken")
        assert "died: SIGKILL (" in text
        assert "memory ran out" in text
        await node.publish(target, bucket="data", pod="a")
        assert run("cat", target / "hello.txt").stdout == "hello"
        await node.unpublish(target)
        await node.wait_until_clean()


async def test_bytes_that_miss_the_store_at_the_last_close_are_an_event_and_uploaded_later(
    node, minio, relay
):
    async with mounting(node, **minio.env(), AWS_ENDPOINT_URL_S3=relay.endpoint):
        target = node.target("a")
        await node.publish(target, ONCE, bucket="data", pod="a")
        with subprocess.Popen(
            [sys.executable, "-c", HOLDS_OPEN, f"{target}/late"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert await asyncio.to_thread(holder.stdout.readline) == b"up\n"
            await relay.close()
            await node.unpublish(target)  # while a process has it open still
            holder.stdin.close()  # flush fails, then release, and that is the mount's end
            await asyncio.to_thread(holder.wait, 20)
        await until(lambda: node.logged("WARNING", "a worker left files"))
        await until(lambda: [e for e in node.events() if e[1] == "UploadFailed"])
        pod, _, text = node.events()[0]
        assert pod == "a"
        assert "PUT s3://data/…: " in text
        assert "late" not in text
        assert "the volume's next mount on this node uploads it" in text
        await relay.open()
        await node.publish(target, ONCE, bucket="data", pod="b")
        await until(lambda: minio.request("GET", "/data/late")[1] == b"kept")
        await node.unpublish(target)
        await node.wait_until_clean()


async def test_a_missing_option_is_an_event_that_names_it(node, minio):
    """Promise: An operation that is refused because an option is missing is also an Event on the
    pod.
    """
    async with mounting(node, **minio.env(), AWS_ENDPOINT_URL_S3=minio.endpoint):
        target = node.target("a")
        await node.publish(target, bucket="data", pod="a")
        gone = await shell(f"rm {target}/hello.txt; rm {target}/hello.txt; : > {target}/hello.txt")
        assert gone.stderr.count("Operation not permitted") == 3
        await until(lambda: len(node.events()) == 2)
        first, second = node.events()
        assert (first[0], first[1]) == ("a", "MissingMountOption")
        assert "refused because it needs the mount option allow-delete" in first[2]
        assert "allow-overwrite" in second[2]
        await node.unpublish(target)
        await node.wait_until_clean()


# --- a volume that is not mounted -----------------------------------------------------------------


async def test_a_program_that_is_not_root_where_only_root_may_write_is_an_event_once(node, minio):
    """Promise: A program that runs as a user other than root on a CSI volume without uid, gid and
    fsGroup: an Event on the pods that may write names the options.
    """
    as_user = "setpriv --reuid 1000 --regid 2000 --clear-groups"
    async with mounting(node, **minio.env(), AWS_ENDPOINT_URL_S3=minio.endpoint):
        said = {}
        for name, handle, flags in (
            ("writes", "pv", []),
            ("reads", "pv", []),
            ("is-given-it", "pv-2", ["uid=1000"]),
            ("may-all", "pv-3", ["dir-mode=777", "file-mode=666"]),
        ):
            target, pod = node.target(name), {"pod": name, "readonly": name == "reads"}
            await node.publish(target, *flags, bucket="data", handle=handle, **pod)
            assert (await shell(f"ls {target}")).returncode == 0  # root's
            for n in range(2):
                said[name] = (await shell(f"{as_user} touch {target}/of-{name}-{n}")).stderr
            await until(node.events)  # of the first one; no more may come
            await node.unpublish(target, handle=handle)
        assert "Permission denied" in said["writes"]
        assert "Read-only file system" in said["reads"]
        assert said["is-given-it"] == said["may-all"] == ""
        await node.wait_until_clean()
        ((pod, reason, text),) = node.events()
        assert (pod, reason) == ("writes", "NotWritable")
        assert text.startswith("volume pv: a program runs as user 1000, group 2000, and ")
        assert "mountOptions uid=1000 and gid=2000, or the pod a securityContext with fsGr" in text


async def test_a_publish_that_fails_says_what_and_what_to_do(node, minio):
    async with mounting(node, **minio.env(), AWS_ENDPOINT_URL_S3=minio.endpoint):
        for flags, bucket, code, said in (
            ([], "nowhere", grpc.StatusCode.NOT_FOUND, [
                "LIST s3://nowhere/: NoSuchBucket", "check the bucket's name",
                minio.endpoint, "[no-such-bucket]"]),
            (["no-sign-request", "prefix=a/"], "data", grpc.StatusCode.PERMISSION_DENIED, [
                "LIST s3://data/…: AccessDenied", "s3:ListBucket on the bucket", "anonymous",
                "[s3-access-denied]"]),
            (["endpoint-url=http://127.0.0.1:1", ONCE], "data", grpc.StatusCode.UNAVAILABLE, [
                "Cannot connect to host", "check `endpoint-url`",
                "[s3-unavailable]"]),
            (["regoin=x"], "data", grpc.StatusCode.INVALID_ARGUMENT, [
                "mount option regoin is not known", "did you mean region", "[bad-option]"]),
            (["metadata-ttl=soon"], "data", grpc.StatusCode.INVALID_ARGUMENT, [
                "metadata-ttl", "'soon'", "[bad-option]"]),
        ):  # fmt: skip
            found, text = await refused(node.publish(node.target("a"), *flags, bucket=bucket))
            assert found is code, text
            assert [part for part in said if part not in text] == [], text
            assert "\n" not in text
            again = await refused(node.publish(node.target("a"), *flags, bucket=bucket))
            assert again == (found, text)  # kubelet counts what is the same
        assert "NoSuchBucket" in node.log.read_text()
        assert len(set(re.findall(r"request id \w+", node.log.read_text()))) >= 2


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, ["no AWS credentials found for bucket 'data'"]),
        (KEYS, ["InvalidAccessKeyId", "check access key and secret key"]),
    ],
)
async def test_a_publish_without_valid_credentials_says_so(node, minio, env, said):
    async with mounting(node, **env, AWS_ENDPOINT_URL_S3=minio.endpoint):
        code, text = await refused(node.publish(node.target("a"), bucket="data"))
        assert code is grpc.StatusCode.UNAUTHENTICATED, text
        assert [part for part in said if part not in text] == [], text
        assert text.endswith("[s3-credentials]")


async def test_a_key_with_another_secret_is_unauthenticated(node, minio):
    env = {**minio.env(), "AWS_SECRET_ACCESS_KEY": "another"}
    async with mounting(node, **env, AWS_ENDPOINT_URL_S3=minio.endpoint):
        code, text = await refused(node.publish(node.target("a"), bucket="data"))
        assert code is grpc.StatusCode.UNAUTHENTICATED, text
        assert "SignatureDoesNotMatch" in text


async def test_a_publish_with_an_endpoint_that_volumes_may_not_name_says_so(node):
    async with mounting(node, **KEYS, CSI_S3_ALLOW_LOOPBACK="off"):
        for host in ("127.0.0.1:1", "169.254.169.254", "localhost:1"):
            flags = f"endpoint-url=http://{host}", ONCE
            code, text = await refused(node.publish(node.target("a"), *flags, bucket="data"))
            assert code is grpc.StatusCode.INVALID_ARGUMENT, text
            assert "volumes may not use it" in text
            assert text.endswith("[bad-option]")
