"""After a start of node: what is found of mounts, also where the kernel does not answer at once."""

import os

import pytest

from csi_s3.config.volume import BucketConfig, VolumeConfig
from csi_s3.kernel import mount
from csi_s3.kernel.mountinfo import MountEntry
from csi_s3.link.spec import MountSpec
from csi_s3.node.mounter_link import HeldMount
from csi_s3.node.reconcile import survey
from csi_s3.node.source_mounts import SourceMounts
from csi_s3.node.targets import Target, Targets


class Sources(SourceMounts):
    """What mountinfo has of source mounts is given; the first `failures` calls fail."""

    def __init__(self, state_dir, found, failures=0):
        super().__init__(state_dir, owner=0)
        self.found, self.failures, self.calls = found, failures, 0

    def mounted(self, entries):
        self.calls += 1
        if self.calls <= self.failures:
            raise OSError("no answer")
        return self.found

    def record(self, mount_id):
        return spec(int(mount_id, 16))


class EachTarget(Targets):
    """Each device has one target, of its name; counts how often mountinfo is gone through."""

    passes = 0

    def all_on(self, devices, entries):
        self.passes += 1
        return {device: {Target("/kubelet", device): False} for device in devices}


def entry(number):
    return MountEntry(
        mount_id=number,
        device=f"0:{number}",
        root="/",
        mount_point=f"/volumes/{number}/fs",
        fs_type=mount.FS_TYPE,
        source=f"s3://bucket-{number}/",
        options=frozenset(),
        super_options=frozenset(),
    )


def spec(number):
    volume = VolumeConfig(bucket=BucketConfig(bucket="b"))
    return MountSpec(mount_id=f"{number:032x}", volume_handle="pv", volume=volume)


def held(number):
    return HeldMount(spec=spec(number), fd=os.open(os.devnull, os.O_RDONLY))


@pytest.mark.parametrize("n", [10, 100])
async def test_mounts_without_a_worker_are_dead_and_mountinfo_is_read_once(tmp_path, n):
    sources = Sources(tmp_path, {f"{k:032x}": entry(k) for k in range(n)})
    targets = EachTarget(tmp_path, tmp_path / "state")
    found = await survey([held(k) for k in range(0, n, 2)], frozenset(), sources, targets)
    for one in found.live:
        os.close(one.source.fd)
    assert [one.source.device for one in found.live] == [f"0:{k}" for k in range(0, n, 2)]
    assert list(found.dead) == [f"{k:032x}" for k in range(1, n, 2)]
    assert found.lost == {Target("/kubelet", f"0:{k}"): f"s3://bucket-{k}/" for k in range(1, n, 2)}
    assert (sources.calls, targets.passes) == (1, 1)


@pytest.mark.warnings_expected("looking for mounts failed: no answer; trying again")
async def test_mounts_are_looked_for_until_the_kernel_answers(tmp_path):
    sources = Sources(tmp_path, {}, failures=1)
    found = await survey([], frozenset(), sources, EachTarget(tmp_path, tmp_path / "state"))
    assert (sources.calls, found.live, found.dead) == (2, [], {})
