"""`csi-s3 demo`: the main job, and what it leaves, which is nothing."""

import subprocess
import tempfile
from pathlib import Path

from tests.mount.command import AS_USER, CSI_S3, env, put, s3
from tests.servers import Server

__all__ = ["env", "s3"]


def demo(*words: str, env: dict[str, str], before: list[str] | None = None):
    return subprocess.run(
        [*(before or []), *CSI_S3, "demo", *words],
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )


def keys(s3: Server) -> bytes:
    return s3.request("GET", "/data?list-type=2&prefix=csi-s3-demo")[1]


def test_the_demo_shows_every_step_and_leaves_nothing(env):
    before = set(Path(tempfile.gettempdir()).glob("csi-s3-demo-*"))
    done = demo(env={k: v for k, v in env.items() if not k.startswith("AWS_")})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for words in (
        "NodePublishVolume, mountOptions ['allow-delete', 'uid=12574', 'gid=12574'",
        "s3://csi-s3-demo/demo/ of type fuse.csi-s3",
        "found sales.csv, sales.parquet; 20,000 rows in each",
        "demo/by_region.parquet: ",
        "NodeUnpublishVolume",
        "nothing is left: no mount, no process, no directory.",
    ):
        assert words in done.stdout
    assert set(Path(tempfile.gettempdir()).glob("csi-s3-demo-*")) == before


def test_on_a_real_bucket_only_its_own_objects_come_and_go(env, s3):
    put(s3, "csi-s3-demo-of-another-user", b"mine")
    variables = {k: v for k, v in env.items() if k != "AWS_ENDPOINT_URL"}
    done = demo("--bucket", "data", "--endpoint-url", s3.endpoint, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "s3://data/csi-s3-demo-" in done.stdout
    assert keys(s3).count(b"<Key>") == 1
    assert s3.request("GET", "/data/csi-s3-demo-of-another-user") == (200, b"mine")


def test_a_wrong_bucket_ends_in_one_line_and_exit_code_1(env, s3):
    variables = {k: v for k, v in env.items() if k != "AWS_ENDPOINT_URL"}
    done = demo("--bucket", "not-there", "--endpoint-url", s3.endpoint, env=variables)
    assert done.returncode == 1
    assert done.stderr.startswith("csi-s3: error: ")
    assert "NoSuchBucket" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_root_it_says_what_works_without(env):
    done = demo(env=env, before=AS_USER)
    assert done.returncode == 1
    assert "the demo needs root" in done.stderr
    assert "csi-s3 mount" in done.stderr
