"""The directories of mounts that are gone are removed a part at a time, and none that is used."""

import asyncio
import threading

import pytest

from csi_s3.config.volume import BucketConfig, VolumeConfig
from csi_s3.errors import MountError
from csi_s3.link.spec import MountSpec
from csi_s3.node import reconcile
from csi_s3.node.reconcile import DirectorySweep
from csi_s3.node.source_mounts import SourceMounts

PART = 16


class CountingSources(SourceMounts):
    """Counts how many directories are looked at between two turns of the event loop."""

    def __init__(self, state_dir):
        super().__init__(state_dir, owner=0)
        self.parts, self.looked = [], 0

    def remove_empty(self, mount_id):
        self.looked += 1
        return super().remove_empty(mount_id)


def mount_id(number):
    return f"{number:032x}"


@pytest.fixture
def sources(tmp_path):
    sources = CountingSources(tmp_path)
    sources.prepare()
    return sources


def left(sources, n, *, with_file=()):
    for number in range(n):
        state = sources.state(mount_id(number))
        state.mkdir()
        sources.path(mount_id(number)).mkdir(parents=True)
        if number in with_file:
            (state / "file-0.data").write_text("x")


@pytest.mark.parametrize("n", [100, 1000])
async def test_any_number_is_removed_a_part_at_a_time(sources, n):
    await asyncio.to_thread(left, sources, n)
    (sources.volumes / "other").mkdir()
    sweep = DirectorySweep(sources, lambda _: False, part=PART)
    largest = 0

    async def watch():
        nonlocal largest
        while True:
            largest = max(largest, len(sweep.ids))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await sweep.run(now_s=0.0)
    watching.cancel()
    assert [path.name for path in sources.volumes.iterdir()] == ["other"]
    assert (sources.looked, largest, sweep.ids) == (n, PART, frozenset())


@pytest.mark.warnings_expected("2 volumes that are not mounted have data")
async def test_directories_in_use_or_with_data_stay(sources, caplog):
    left(sources, 5, with_file={1, 3})
    sweep = DirectorySweep(sources, {mount_id(4)}.__contains__, part=2)
    await sweep.run(now_s=0.0)
    assert sorted(p.name for p in sources.spools.iterdir()) == [mount_id(n) for n in (1, 3, 4)]
    assert [p.name for p in sources.volumes.iterdir()] == [mount_id(4)]
    assert sources.path(mount_id(4)).exists()
    assert [r.levelname for r in caplog.records] == ["WARNING"]


@pytest.mark.warnings_expected("looking for directories failed")
async def test_a_failure_is_logged_and_ends_nothing(sources):
    sources.spools.rmdir()
    await DirectorySweep(sources, lambda _: False).run(now_s=0.0)


@pytest.mark.warnings_expected("removing directories failed: late")
async def test_a_call_that_is_late_reserves_its_ids_until_it_ends(sources, monkeypatch):
    """And then the next run goes on."""
    left(sources, 3)
    may_end, threads = threading.Event(), []

    async def late(call, action, **_):
        if action != "removing directories" or threads:
            return call()
        thread = threading.Thread(target=lambda: (may_end.wait(), call()))
        threads.append(thread)
        thread.start()
        raise MountError(f"{action} failed: late")

    monkeypatch.setattr(reconcile, "off_loop", late)
    sweep = DirectorySweep(sources, lambda _: False)
    await sweep.run(now_s=0.0)
    assert sweep.ids == {mount_id(n) for n in range(3)}
    await sweep.run(now_s=0.0)
    assert sources.looked == 0
    may_end.set()
    await asyncio.to_thread(threads[0].join)
    assert (sweep.ids, sources.looked) == (frozenset(), 3)
    left(sources, 1)
    await sweep.run(now_s=0.0)
    assert sources.looked == 4


@pytest.mark.warnings_expected("1 volumes that are not mounted have data")
async def test_spools_of_an_earlier_build_are_put_where_spools_are(sources):
    """They lay beside the mounts. One without files goes, with its directory."""
    for number, files in ((1, ["file-0.data"]), (2, [])):
        old = sources.volumes / mount_id(number) / "state"
        old.mkdir(parents=True)
        for name in files:
            (old / name).write_text("x")
    await DirectorySweep(sources, lambda _: False).run(now_s=0.0)
    assert list(sources.volumes.iterdir()) == []
    assert [p.name for p in sources.spools.rglob("*")] == [mount_id(1), "file-0.data"]


async def test_the_next_mount_of_a_volume_has_the_spool_of_an_earlier_build(sources):
    old = sources.volumes / mount_id(1) / "state"
    old.mkdir(parents=True)
    (old / "file-0.data").write_text("x")
    volume = VolumeConfig(bucket=BucketConfig(bucket="b"))
    with sources._made_directory(MountSpec(mount_id=mount_id(1), volume_handle="v", volume=volume)):
        assert (sources.state(mount_id(1)) / "file-0.data").read_text() == "x"
        assert not old.exists()
