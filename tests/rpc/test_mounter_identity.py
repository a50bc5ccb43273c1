"""The mounter's identity as a pod has it, from its environment and files to a read of a volume."""

import asyncio
import re
import urllib.parse
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from tests.contract.scripted import Reply, error, listing, scripted_s3
from tests.issuer import MINIO_ROLE, issuer, minio_with_role
from tests.rpc.conftest import real_mounter, refused, run
from tests.rpc.fake_mounter import until

SUBJECT = "system:serviceaccount:kube-system:s3-csi-driver-sa"
ALONE = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}
SLOW_READER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
for i in range(40):
    assert os.pread(fd, 4096, (63 - i) << 20) == bytes([63 - i]) * 4096, i
    time.sleep(0.1)
"""


def key_of(seen) -> str:
    return seen.headers["Authorization"].split("Credential=")[1].split("/")[0]


def write_secret(directory: Path, name: str) -> None:
    """Files that hold still only as a whole, as kubelet makes them."""
    directory.mkdir(exist_ok=True)
    (directory / "..next").mkdir()
    (directory / "..next" / "key_id").write_text(f"{name}\n")
    (directory / "..next" / "access_key").write_text("secret\n")
    data = (directory / "..next").rename(directory / f"..{name}")
    (directory / "..tmp").symlink_to(data.name)
    (directory / "..tmp").rename(directory / "..data")
    for file in ("key_id", "access_key"):
        if not (directory / file).is_symlink():
            (directory / file).symlink_to(f"..data/{file}")


async def test_a_rotated_secret_is_used_by_a_mount_that_is_up(node, tmp_path):
    """Endpoint and region are also the installation's: the volume names neither."""
    known = {"OLDKEY"}

    def rule(seen):
        if key_of(seen) not in known:
            return error(403, "InvalidAccessKeyId", "The key id does not exist in our records.")
        if seen.method == "HEAD":
            return Reply(200, b"", {"ETag": '"e"', "Content-Length": "1"})
        if "list-type=2" in seen.path:  # no directory of the file's name
            return listing() if "prefix=" in seen.path else listing("hello.txt")
        return Reply(206, b"x", {"ETag": '"e"', "Content-Range": "bytes 0-0/1"})

    secret = tmp_path / "secret"
    async with scripted_s3() as s3:
        s3.rule = rule
        environment = {
            **ALONE,
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "AWS_REGION": "eu-central-1",
            "CSI_S3_CREDENTIALS_DIR": str(secret),
        }
        with real_mounter(node, environment):
            await until(lambda: node.logged("INFO", "mounter is connected"))
            target = node.target("a")
            code, text = await refused(node.publish(target, bucket="data"))
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert f"{secret} has no key_id" in text
            write_secret(secret, "OLDKEY")  # it appears later, without a restart
            await node.publish(target, bucket="data")
            read = await asyncio.to_thread(run, "cat", target / "hello.txt")
            assert read.stdout == "x"
            write_secret(secret, "NEWKEY")
            known.clear()
            known.add("NEWKEY")
            listed = await asyncio.to_thread(run, "ls", target)
            read = await asyncio.to_thread(run, "cat", target / "hello.txt")
            assert (listed.stdout, read.stdout) == ("hello.txt\n", "x"), (listed, read)
            await node.unpublish(target)
            await node.wait_until_clean()
        assert {key_of(seen) for seen in s3.seen} == {"OLDKEY", "NEWKEY"}
        assert all("/eu-central-1/s3/" in seen.headers["Authorization"] for seen in s3.seen)
        assert all(seen.path.startswith("/data") for seen in s3.seen)  # path style


@pytest.fixture(scope="module")
def cluster():
    with issuer() as found:
        yield found


@pytest.fixture(scope="module")
def minio(cluster):
    with minio_with_role(cluster) as server:
        server.create_bucket("data")
        body = b"".join(bytes([number]) * (1 << 20) for number in range(64))
        assert server.request("PUT", "/data/large", body)[0] == 200
        yield server


def role(endpoint: str, minio, token: Path) -> dict[str, str]:
    return {
        **ALONE,
        "AWS_ROLE_ARN": MINIO_ROLE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_REGION": "us-east-1",
        "CSI_S3_ALLOW_TOKEN_OVER_HTTP": "on",
        "AWS_ENDPOINT_URL_STS": endpoint,
        "AWS_ENDPOINT_URL_S3": minio.endpoint,
    }


async def test_a_read_goes_on_across_the_end_of_the_roles_keys(node, minio, cluster, tmp_path):
    """MinIO's own STS gives the keys; on the way to us their end is brought near."""

    def rule(seen):
        request = urllib.request.Request(minio.endpoint, data=seen.body, method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            body = answer.read()
        ends = (datetime.now(UTC) + timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        found = re.sub(rb"<Expiration>.*?</Expiration>", f"<Expiration>{ends}</>".encode(), body)
        return Reply(200, found.replace(b"</>", b"</Expiration>"))

    token = tmp_path / "token"
    async with scripted_s3() as sts:
        sts.rule = rule
        token.write_text(cluster.token(SUBJECT))
        with real_mounter(node, role(sts.endpoint, minio, token)):
            await until(lambda: node.logged("INFO", "mounter is connected"))
            target = node.target("a")
            await node.publish(target, bucket="data")
            token.write_text(cluster.token(SUBJECT, ends_in_s=1800))  # kubelet renews the file
            reader = ["python3", "-c", SLOW_READER, target / "large"]
            done = await asyncio.to_thread(run, *reader)
            assert done.returncode == 0, done.stderr
            await node.unpublish(target)
            await node.wait_until_clean()
        tokens = [
            urllib.parse.parse_qs(seen.body.decode())["WebIdentityToken"] for seen in sts.seen
        ]
        assert len(tokens) >= 2
        assert tokens[0] != tokens[-1] == [token.read_text()]


async def test_each_worker_asks_sts_once_and_owns_little_memory(node, minio, cluster, tmp_path):
    token = tmp_path / "token"
    token.write_text(cluster.token(SUBJECT))
    with real_mounter(node, role(minio.endpoint, minio, token)) as mounter:
        await until(lambda: node.logged("INFO", "mounter is connected"))
        target = node.target("a")
        await node.publish(target, bucket="data")
        assert run("ls", "-l", target).returncode == 0
        (zygote,) = _children(mounter.pid)
        (worker,) = _children(zygote)
        rollup = Path(f"/proc/{worker}/smaps_rollup").read_text()
        private = re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", rollup, re.MULTILINE)
        assert 0 < sum(map(int, private)) <= 40_000
        await node.unpublish(target)
        await node.wait_until_clean()
    log = (node.base / "mounter.log").read_text()
    assert log.count("credentials for bucket data: web identity") == 1
    assert token.read_text() not in log


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
