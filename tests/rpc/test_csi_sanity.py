"""kubernetes-csi's own test of drivers, nothing skipped, on real buckets by the real mounter."""

import asyncio
import subprocess

import pytest

from tests.binaries import binary
from tests.rpc.conftest import real_mounter
from tests.rpc.controller_double import serving
from tests.rpc.fake_mounter import until
from tests.servers import running

SPECS = 32  # those that apply to a driver with our capabilities; the others skip themselves


@pytest.mark.timeout(300)
async def test_csi_sanity_passes_with_nothing_skipped(node):
    program = await asyncio.to_thread(binary, "csi-sanity")
    buckets: set[str] = set()
    with running("moto") as s3:

        def create_bucket(name: str) -> None:
            if name not in buckets:
                s3.create_bucket(name)
                buckets.add(name)

        with real_mounter(node, {**s3.env(), "AWS_ENDPOINT_URL": s3.endpoint}):
            await until(lambda: node.logged("INFO", "mounter is connected"))
            socket = node.base / "sanity.sock"
            server, channel = serving(socket, node.socket, create_bucket)
            await server.start()
            try:
                done = await asyncio.to_thread(
                    subprocess.run,
                    [
                        str(program),
                        f"--csi.endpoint=unix://{socket}",
                        f"--csi.mountdir={node.kubelet}/mnt",
                        f"--csi.stagingdir={node.kubelet}/staging",
                        "--ginkgo.no-color",
                    ],
                    capture_output=True,
                    text=True,
                    timeout=240,
                )
            finally:
                await server.stop(None)
                await channel.close()
            report = f"{done.stdout}\n{done.stderr}\n{node.log.read_text()}"
            assert done.returncode == 0, report
            assert f"Ran {SPECS} of " in done.stdout, report
            assert f"{SPECS} Passed | 0 Failed" in done.stdout, report
            assert buckets
            await node.wait_until_clean()
    assert not node.logged("ERROR")
