"""Files of volumes that are not mounted: their number, age and end."""

import os

import pytest

from csi_s3.node.reconcile import DirectorySweep
from csi_s3.node.source_mounts import SourceMounts
from csi_s3.node.unmounted_spools import UnmountedSpools
from csi_s3.obs.metrics import catalog as metrics

BLOCK = 4096
OVER = pytest.mark.warnings_expected("because their time is over")
LEFT = pytest.mark.warnings_expected("volumes that are not mounted have data")


@pytest.fixture
def sources(tmp_path):
    sources = SourceMounts(tmp_path, owner=0)
    sources.prepare()
    return sources


def leave(sources, volume, *times_s):
    """As a worker that ended: a file for each time, and a journal of a rename."""
    state = sources.state(f"{volume:032x}")
    state.mkdir()
    for number, time_s in enumerate(times_s):
        for suffix in (".data", ".json"):
            path = state / f"file-{number}{suffix}"
            path.write_bytes(b"x" * BLOCK)
            os.utime(path, (time_s, time_s))
    return state


def gauge(metric):
    return metric.values()[()]


@LEFT
async def test_they_are_counted_with_the_age_of_the_oldest(sources):
    leave(sources, 1, 100.0, 50.0)
    leave(sources, 2, 200.0)
    (leave(sources, 3) / "rename-1.json").write_text("{}")  # no file of a spool
    leave(sources, 4, 1.0)
    sweep = DirectorySweep(sources, {f"{4:032x}"}.__contains__)
    await sweep.run(now_s=250.0)
    assert gauge(metrics.UNMOUNTED_SPOOLS) == 2
    assert gauge(metrics.UNMOUNTED_SPOOL_FILES) == 3
    assert gauge(metrics.UNMOUNTED_SPOOL_BYTES) == 3 * 2 * BLOCK
    assert gauge(metrics.UNMOUNTED_SPOOL_AGE) == 200.0


@OVER
@LEFT
async def test_what_is_older_than_its_time_is_removed_and_named(sources, caplog):
    """Promise: What is left of a volume that is not mounted on its node any more is removed after
    the same time, also if it could be uploaded.
    """
    state = leave(sources, 1, 100.0, 50.0)
    empty = leave(sources, 2, 20.0)
    used = leave(sources, 3, 1.0)
    bare = leave(sources, 4) / "file-7.data"
    bare.write_bytes(b"x")
    os.utime(bare, (10.0, 10.0))
    (state / "rename-1.json").write_text("{}")
    os.utime(state / "rename-1.json", (1.0, 1.0))
    before = sum(metrics.UNMOUNTED_SPOOL_REMOVED.values().values())
    sweep = DirectorySweep(sources, {f"{3:032x}"}.__contains__)
    await sweep.run(now_s=200.0, before_s=100.0)
    stay = ["file-0.data", "file-0.json", "rename-1.json"]
    assert sorted(p.name for p in state.iterdir()) == stay
    assert not empty.exists(), "its directory is empty"
    assert not bare.parent.exists()
    assert len(list(used.iterdir())) == 2, "its volume is mounted"
    assert sum(metrics.UNMOUNTED_SPOOL_REMOVED.values().values()) == before + 3
    (line,) = [r.getMessage() for r in caplog.records if "time is over" in r.getMessage()]
    assert line.startswith("3 files")
    assert str(state / "file-1.data") in line


@OVER
@pytest.mark.warnings_expected("file-2 cannot be removed: Is a directory")
async def test_no_link_of_the_mounter_is_followed(sources, tmp_path):
    """The directory is the mounter's: it may have put anything there."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file-1.json").write_text("{}")
    (secret / "file-1.data").write_text("x")
    for path in secret.iterdir():
        os.utime(path, (1.0, 1.0))
    state = leave(sources, 1)
    (state / "file-1.json").symlink_to(secret / "file-1.json")
    (state / "file-2.json").mkdir()
    os.utime(state / "file-2.json", (1.0, 1.0))
    os.utime(state / "file-1.json", (1.0, 1.0), follow_symlinks=False)
    other = sources.state(f"{2:032x}")
    other.symlink_to(secret)
    with_warning = UnmountedSpools(before_s=100.0)
    with_warning.take(state)
    with_warning.take(other)
    with_warning.publish(200.0)
    assert len(list(secret.iterdir())) == 2
    assert not (state / "file-1.json").is_symlink()
    assert with_warning.removed_files == 1
