"""`csi-s3 csi`, for nights: what it says when it cannot. The demo's test publishes with it."""

from tests.unit.test_cli import csi_s3_says


def test_a_plugin_that_is_not_there_is_named(tmp_path):
    endpoint = f"unix://{tmp_path}/csi.sock"
    done = csi_s3_says("csi", "probe", "--endpoint", endpoint)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"csi-s3: error: Probe at {endpoint}: UNAVAILABLE")
    assert "csi-s3 node" in done.stderr


def test_an_attribute_without_a_value_is_refused(tmp_path):
    words = ["--endpoint", f"unix://{tmp_path}/csi.sock", "--volume-id", "v", "--target", "/t"]
    done = csi_s3_says("csi", "publish", *words, "--attribute", "bucketName")
    assert done.returncode == 2
    assert "expected KEY=VALUE" in done.stderr
