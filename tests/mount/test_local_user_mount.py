"""What making a mount leaves when it fails, below the command."""

import os
import subprocess

import pytest

from csi_s3.config.mount_command import parse_command
from csi_s3.errors import MountError
from csi_s3.kernel.mountinfo import mount_at
from csi_s3.local.driver import Driver
from csi_s3.local.user_mount import open_mount
from tests.mount.command import WITHIN_S, directory

__all__ = ["directory"]


def test_a_failed_start_with_auto_unmount_leaves_alone_what_was_mounted_before(directory):
    """Such as a systemd automount point, or another mount a moment later."""
    subprocess.run(["mount", "-t", "tmpfs", "below", directory], check=True, timeout=WITHIN_S)
    command = parse_command(["data", str(directory), "--auto-unmount"], uid=0, gid=0)
    made = []

    def start() -> None:
        with open_mount(command, directory, "s3://data/") as fuse:
            made.append((fuse.auto_unmount, mount_at(str(directory)).is_fuse))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start()
    ((watcher, was_fuse),) = made
    assert was_fuse
    watcher.wait()
    assert mount_at(str(directory)).source == "below"


def test_the_demos_cleanup_goes_on_when_a_process_ends_by_itself(tmp_path):
    """Workers end with their mounter: between the look and the kill."""
    ended = subprocess.Popen(["true"])
    ended.wait(WITHIN_S)

    class LateDriver(Driver):
        def _pids(self):
            return [ended.pid]

    place = tmp_path / "demo"
    place.mkdir()
    LateDriver(place).close()
    assert not os.path.lexists(place)


def test_a_plugin_that_does_not_answer_the_demo_is_an_error_in_words(tmp_path):
    with pytest.raises(MountError, match="csi-s3 csi probe: no answer within"):
        Driver(tmp_path, deadline_s=0.01).probe()
