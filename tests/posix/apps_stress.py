"""stress-ng and fio, which read back and check what they have done."""

import pytest

from tests.posix.limits import excluded
from tests.posix.place import minio, place

__all__ = ["minio"]

STRESSORS = [
    "access", "aio", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dnotify", "dup",
    "fallocate", "fcntl", "filename", "flock", "fpunch", "fsize", "fstat", "getdent", "hdd",
    "inotify", "iomix", "lease", "link", "locka", "lockf", "lockofd", "mmap", "open", "readahead",
    "rename", "seek", "sendfile", "splice", "symlink", "sync-file", "touch", "utime", "xattr",
]  # fmt: skip
FIO = {
    "sequential": "--rw=write --bs=1M --size=48M --ioengine=psync --end_fsync=1",
    "random": "--rw=randwrite --bs=4k --size=32M --io_size=4M --ioengine=psync --fsync=256",
    "mapped": "--rw=randwrite --bs=16k --size=16M --ioengine=mmap",
    "several": "--rw=randwrite --bs=8k --size=4M --numjobs=3 --nrfiles=4 --ioengine=libaio"
    " --iodepth=8",
}


@pytest.mark.parametrize("stressor", STRESSORS)
def test_a_stressor_finds_nothing_wrong(minio, stressor):
    with place(minio, f"stress-{stressor}") as here:
        here.root.chmod(0o777)
        words = [f"--{stressor}", 1, f"--{stressor}-ops", 20, "--timeout", "15s", "--verify"]
        words += ["--mmap-file"] if stressor == "mmap" else []
        done = here.run("stress-ng", "--temp-path", here.root, *words, within_s=100)
    complaints = [x for x in done.stdout.splitlines() if " fail: " in x or "skip" in x]
    is_limit = stressor in excluded("stress-ng")
    assert bool(complaints or done.returncode) == is_limit, done.stdout


@pytest.mark.parametrize("job", FIO)
def test_fio_reads_back_what_it_wrote(minio, job):
    verify = ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]
    with place(minio, f"fio-{job}") as here:
        words = [f"--directory={here.root}", f"--name={job}", *FIO[job].split(), *verify]
        done = here.run("fio", *words, within_s=100)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "verify:" not in done.stdout
