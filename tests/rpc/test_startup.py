"""`csi-s3 node` that cannot start says why in one line and ends with 2."""

import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.rpc.fake_mounter import FakeMounter

ROOT = Path(__file__).parents[2]


def started(base: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    flags = {
        "--endpoint": f"unix://{base}/csi.sock",
        "--node-id": "node-1",
        "--state-dir": f"{base}/state",
        "--kubelet-dir": str(base),
        "--mounter": f"{base}/node.sock",
        **{f"--{name.replace('_', '-')}": value for name, value in changes.items()},
    }
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "csi_s3",
            "node",
            *(part for item in flags.items() for part in item),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"kubelet_dir": "/no/such"},
            "--kubelet-dir '/no/such': No such file or directory (expect",
        ),
        ({"endpoint": "unix:///proc/no/s"}, "/proc/no: No such file or directory (--state-dir"),
        ({"mounter": "/proc/no/s"}, "/proc/no: No such file or directory (--state-dir and"),
        ({"state_dir": "/proc/no/such"}, "/proc/no: No such file or directory"),
        ({"endpoint": "unix:///etc/passwd"}, "--endpoint /etc/passwd: exists and is not a socket"),
        ({"endpoint": "/etc"}, "--endpoint='/etc' is not valid (expected unix:///"),
    ],
)
def test_a_path_that_cannot_be_used(tmp_path, changes, text):
    done = started(tmp_path, **changes)
    assert done.returncode == 2
    assert done.stderr.startswith("csi-s3: error: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


async def test_sockets_with_long_paths_and_a_kubelet_directory_behind_a_link(idle):
    long = idle.base / ("d" * 120)
    long.mkdir()
    idle.socket, idle.mounter_socket = long / "csi.sock", long / "node.sock"
    real = idle.kubelet
    idle.kubelet = idle.base / "kubelet-link"
    idle.kubelet.symlink_to(real)
    short = idle.base / "s"
    short.symlink_to(long)
    try:
        await idle.start()
        assert (idle.socket.stat().st_mode & 0o777) == 0o600
        idle.socket = short / "csi.sock"  # gRPC's client has the limit, not we
        idle.connect()
        async with FakeMounter(idle.mounter_socket):
            target = idle.target("a")
            await idle.publish(target)
            assert str(real / target.relative_to(idle.kubelet)) in idle.fuse_mounts()
            await idle.publish(target)
            await idle.unpublish(target)
            assert not target.exists()
            await idle.wait_until_clean()
    finally:
        short.unlink()


def test_a_node_plugin_that_has_no_volumes_leaves_nothing_behind(tmp_path):
    plugin = tmp_path / "plugins" / "s3.csi.aws.com"
    args = [
        f"--endpoint=unix://{plugin}/csi.sock",
        "--node-id=node-1",
        f"--state-dir={plugin}/state",
        f"--kubelet-dir={tmp_path}",
        f"--mounter={plugin}/link/mounter.sock",
        "--mounter-uid=65532",
    ]
    with subprocess.Popen([sys.executable, "-m", "csi_s3", "node", *args], cwd=ROOT) as process:
        wait_until((plugin / "csi.sock").exists)
        link = (plugin / "link").stat()
        assert (link.st_uid, link.st_gid, stat.S_IMODE(link.st_mode)) == (0, 65532, 0o750)
        process.terminate()
        assert process.wait(30) == 0
    assert list(plugin.iterdir()) == []


def wait_until(is_so, within_s=30.0):
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
