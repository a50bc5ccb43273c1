"""The kernel layer on the real kernel: mounts, binds, aborts, tuning, and who may use them."""

import logging
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from csi_s3.errors import FuseUnavailableError, MountError
from csi_s3.kernel import fusectl, mount, syscalls, tuning
from csi_s3.kernel.mountinfo import mount_at, mounts_at
from tests.rpc.conftest import run
from tests.rpc.fake_fuse import FakeFuse


@pytest.fixture
def fuse(base):
    """A mount with its descriptor, not served."""
    source = base / "source"
    source.mkdir()
    fd = mount.open_fuse()
    try:
        mount.mount_fuse(fd, source, source_name="s3://bucket/a b")
        yield source, fd
    finally:
        os.close(fd)
        mount.umount(source)


def test_the_kernels_first_request_is_init(fuse):
    _, fd = fuse
    init = mount.read_init(fd, 1)
    length, opcode = struct.unpack_from("<II", init)
    assert (length, opcode) == (len(init), 26)


def test_a_second_init_does_not_come(fuse):
    _, fd = fuse
    mount.read_init(fd, 1)
    with pytest.raises(MountError, match="did not send INIT"):
        mount.read_init(fd, 0)


def test_the_connection_is_over_when_its_last_mount_is_gone(fuse):
    source, fd = fuse
    assert not mount.is_over(fd)
    assert mount.umount(source)
    assert mount.is_over(fd)
    with pytest.raises(MountError, match="ended before INIT"):
        mount.read_init(fd, 1)
    assert not mount.umount(source)


def test_umount_of_what_is_not_there_is_no_error(base):
    assert mount.umount(base / "missing") is False
    (base / "plain").mkdir()
    assert mount.umount(base / "plain") is False


def test_binds_differ_in_read_only_and_touch_nothing(base, fuse):
    """The mount is not served yet: any look-up in it would hang here."""
    source, _ = fuse
    for name, read_only in (("ro", True), ("rw", False)):
        (base / name).mkdir()
        root, directory = (os.open(path, os.O_PATH) for path in (source, base / name))
        mount.bind(root, directory, read_only=read_only)
        os.close(root)
        os.close(directory)
        entry = mount_at(str(base / name))
        assert entry.device == mount_at(str(source)).device
        assert entry.read_only is read_only
    assert not mount_at(str(source)).read_only
    for name in ("ro", "rw"):
        assert mount.umount(base / name)


def test_what_is_mounted_on_one_bind_is_not_on_the_others(base, fuse):
    source, _ = fuse
    root = os.open(source, os.O_PATH)
    for name in ("a", "b"):
        (base / name).mkdir()
        directory = os.open(base / name, os.O_PATH)
        mount.bind(root, directory, read_only=name == "b")
        os.close(directory)
    on_top = os.open(base / "a", os.O_PATH)
    mount.bind(root, on_top, read_only=False)
    os.close(on_top)
    os.close(root)
    assert [len(mounts_at(str(base / name))) for name in ("a", "b")] == [2, 1]
    for name in ("a", "a", "b"):
        assert mount.umount(base / name)


def test_a_bind_of_what_is_no_mount_is_an_error(base):
    directory = os.open(base, os.O_PATH)
    with Path("/proc/self/cmdline").open() as file, pytest.raises(MountError, match="cannot bind"):
        mount.bind(file.fileno(), directory, read_only=False)
    os.close(directory)


def test_abort_frees_who_waits(fuse):
    source, fd = fuse
    served = FakeFuse(os.dup(fd), mount.read_init(fd, 1))
    assert run("cat", source / "hello").stdout == "hello\n"
    served.silence()
    waiting = subprocess.Popen(["cat", source / "hello"], stderr=subprocess.PIPE)
    minor = mount_at(str(source)).minor
    assert fusectl.abort(minor, fd=fd)
    assert waiting.wait(10) != 0
    waiting.stderr.close()
    assert mount.is_over(fd)
    assert not fusectl.abort(minor, fd=fd)
    served.close()


def test_abort_does_not_hit_the_next_mount_that_got_the_minor(base):
    first, second = base / "first", base / "second"
    first.mkdir()
    second.mkdir()
    old = mount.open_fuse()
    mount.mount_fuse(old, first, source_name="old")
    minor = mount_at(str(first)).minor
    mount.umount(first)
    new = mount.open_fuse()
    mount.mount_fuse(new, second, source_name="new")
    assert mount_at(str(second)).minor == minor, "the kernel gave it another one"
    assert not fusectl.abort(minor, fd=old)
    assert not mount.is_over(new)
    mount.umount(second)
    for fd in (old, new):
        os.close(fd)


def test_abort_of_what_is_not_there_is_no_error():
    assert not fusectl.abort(999999)


def test_umount_by_force_ends_all_copies(base, fuse):
    source, fd = fuse
    mount.umount(source, force=True)
    assert mount.is_over(fd)


def test_what_is_opened_beneath_a_directory_stays_beneath_it(base):
    (base / "in" / "deep").mkdir(parents=True)
    (base / "in" / "link").symlink_to("deep")
    (base / "in" / "out").symlink_to("/etc")
    root = os.open(base / "in", os.O_PATH)
    os.close(syscalls.open_beneath(root, "deep", os.O_PATH))
    for path in ("link", "out", "out/passwd", "../in/deep", "/etc"):
        with pytest.raises(OSError, match="openat2"):
            syscalls.open_beneath(root, path, os.O_PATH)
    os.close(root)


AS_NOBODY = """
import os, sys
from csi_s3.errors import MountError
from csi_s3.kernel import mount
from pathlib import Path
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    mount.umount(Path(sys.argv[1]))
except MountError as exc:
    print(exc)
try:
    os.close(mount.open_fuse())
except MountError as exc:
    print(type(exc).__name__, exc)
"""


def test_without_privileges_the_message_says_what_is_missing(fuse):
    source, _ = fuse
    out = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(source)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert "cannot unmount" in out.stdout, out.stderr
    assert "needs CAP_SYS_ADMIN" in out.stdout


def test_without_the_device_the_message_says_what_to_do():
    program = [sys.executable, "-c", "from csi_s3.kernel import mount; mount.open_fuse()"]
    hidden = subprocess.run(
        ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh", *program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert FuseUnavailableError.__name__ in hidden.stderr
    assert "cannot open /dev/fuse: No such file or directory" in hidden.stderr
    assert "modprobe fuse" in hidden.stderr


def test_read_ahead_is_set(fuse):
    source, fd = fuse
    served = FakeFuse(os.dup(fd), mount.read_init(fd, 1))
    device = mount_at(str(source)).device
    assert tuning.set_read_ahead(device)
    assert Path(f"/sys/class/bdi/{device}/read_ahead_kb").read_text() == "1024\n"
    mount.umount(source)
    assert served.over.wait(10)
    served.close()


@pytest.mark.warnings_expected("reads are slower than they could be: cannot write")
def test_read_ahead_that_cannot_be_set_is_one_warning_and_no_error(tmp_path, caplog):
    tuning._warned.clear()
    with caplog.at_level(logging.DEBUG, "csi_s3.kernel.tuning"):
        assert not tuning.set_read_ahead("0:1", bdi=tmp_path)
        assert not tuning.set_read_ahead("0:2", bdi=tmp_path)
    assert [r.levelname for r in caplog.records] == ["WARNING", "DEBUG"]
    assert "mount the host's /sys writable" in caplog.records[0].getMessage()
