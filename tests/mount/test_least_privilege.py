"""What the guides' IAM policy allows is enough: List on the bucket; Get, Put, Delete on objects.

The identity is MinIO's anonymous one, which may do exactly what the bucket's policy says.
"""

import errno
import json
import os
import subprocess
import time
from contextlib import suppress

import pytest

import csi_s3
from tests.mount.command import WITHIN_S, free_directory
from tests.servers import running

BIG = os.urandom(20 << 20)  # several parts


@pytest.fixture(scope="module")
def minio():
    with running("minio") as server:
        yield server


@pytest.fixture
def bucket(minio, request):
    """A bucket on which everybody may do what the test's parameter says."""
    name = minio.create_bucket(f"policy-{len(request.param)}")
    minio.request("PUT", f"/{name}/there.txt", b"there", {"Content-Type": "text/plain"})
    statements = [
        {"Effect": "Allow", "Principal": "*", "Action": ["s3:ListBucket"],
         "Resource": [f"arn:aws:s3:::{name}"]},
        {"Effect": "Allow", "Principal": "*", "Action": request.param,
         "Resource": [f"arn:aws:s3:::{name}/*"]},
    ]  # fmt: skip
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements}).encode()
    status, body = minio.request(
        "PUT", f"/{name}?policy=", policy, {"Content-Type": "application/json"}
    )
    assert status in {200, 204}, body
    return name


def write_and_sync(file):
    for start in range(0, len(BIG), 1 << 20):
        file.write(BIG[start : start + (1 << 20)])
    os.fsync(file.fileno())


def mounted(minio, bucket, directory, **options):
    return csi_s3.Mount(
        bucket, directory, anonymous=True, endpoint_url=minio.endpoint, force_path_style=True,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "bucket", [["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]], indirect=True
)
def test_list_get_put_delete_are_enough_for_everything(minio, bucket):
    with (
        free_directory() as directory,
        mounted(minio, bucket, directory, allow_delete=True, allow_overwrite=True) as path,
    ):
        assert (path / "there.txt").read_text() == "there"
        (path / "d").mkdir()
        (path / "d" / "big").write_bytes(BIG)
        assert (path / "d" / "big").read_bytes() == BIG
        (path / "there.txt").write_text("again")
        assert sorted(p.name for p in path.iterdir()) == ["d", "there.txt"]
        subprocess.run(["rm", "-r", path / "d"], check=True, timeout=WITHIN_S)
        assert [p.name for p in path.iterdir()] == ["there.txt"]
    assert minio.request("GET", f"/{bucket}/there.txt") == (200, b"again")


@pytest.mark.parametrize("bucket", [["s3:GetObject"]], indirect=True)
def test_a_read_only_policy_is_enough_to_read_and_a_write_says_so_at_close(minio, bucket):
    with free_directory() as directory:
        with mounted(minio, bucket, directory, read_only=True) as path:
            assert (path / "there.txt").read_text() == "there"
            assert os.listdir(path) == ["there.txt"]  # noqa: PTH208
        with mounted(minio, bucket, directory) as path:
            file = (path / "new.txt").open("w")
            file.write("x")
            with pytest.raises(PermissionError) as refused:
                file.close()
            assert refused.value.errno == errno.EACCES
            assert os.listdir(path) == ["there.txt"]  # noqa: PTH208


@pytest.mark.parametrize("bucket", [["s3:GetObject", "s3:DeleteObject"]], indirect=True)
def test_a_large_file_that_may_not_be_put_fails_before_it_is_whole(minio, bucket):
    with free_directory() as directory, mounted(minio, bucket, directory) as path:
        file = (path / "big").open("wb", buffering=0)
        with pytest.raises(PermissionError):
            write_and_sync(file)
        with suppress(PermissionError):
            file.close()
        deadline = time.monotonic() + WITHIN_S  # the kernel sends RELEASE after close has returned
        while os.listdir(path) != ["there.txt"]:  # noqa: PTH208
            assert time.monotonic() < deadline
