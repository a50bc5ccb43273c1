"""Files on a real mount, through the programs that people use."""

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

from tests.mount.command import WITHIN_S, names
from tests.mount.mounted import env, errno_of, here, minio, mounted, sh

__all__ = ["env", "here", "minio", "mounted"]

MIB = 1 << 20


def forget_pages(path):
    """Let the kernel drop what it has cached of a file, so that reads reach the mount."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def test_cp_cat_cmp_and_dd(here, mounted, tmp_path):
    local = tmp_path / "local"
    local.write_bytes(os.urandom(3 * MIB + 17))
    sh(f"cp {local} a && cat a > b && cmp a b && cmp {local} b", here)
    sh("dd if=a of=c bs=64k 2>/dev/null && dd if=a of=d bs=1 count=3 2>/dev/null && cmp a c", here)
    for name in "abc":
        assert mounted.get(f"{here.name}/{name}") == local.read_bytes()
    assert mounted.get(f"{here.name}/d") == local.read_bytes()[:3]


def test_a_shells_redirects(here, mounted):
    sh("(echo a; echo b) > f && { echo c; /bin/echo d; } > g && echo e | tee h && : > i", here)
    assert mounted.get(f"{here.name}/f") == b"a\nb\n"
    assert mounted.get(f"{here.name}/g") == b"c\nd\n"
    assert mounted.get(f"{here.name}/h") == b"e\n"
    assert sh("cat f g h i && wc -c < i", here).stdout == "a\nb\nc\nd\ne\n0\n"


def test_a_file_may_be_rewritten_right_after_it_was_made_empty(here):
    """RELEASE of the first comes while the second opens."""
    sh("for i in $(seq 50); do : > f; echo $i > f; test $(cat f) = $i; done", here)


def test_tar_find_and_grep_over_a_tree(here, mounted):
    sh("mkdir -p a/b/c && echo 1 > a/1 && echo 2 > a/b/2 && echo 3 > a/b/c/3", here)
    listed = sh("tar -cf - a | tar -tf -", here).stdout.split()
    assert sorted(listed) == ["a/", "a/1", "a/b/", "a/b/2", "a/b/c/", "a/b/c/3"]
    assert sh("find . -type f | sort", here).stdout.split() == ["./a/1", "./a/b/2", "./a/b/c/3"]
    assert sh("grep -r 3 .", here).stdout == "./a/b/c/3:3\n"
    assert "a/b/c:" in sh("ls -lR", here).stdout


def test_tar_unpacks_into_the_mount(here, mounted, tmp_path):
    (tmp_path / "t").mkdir()
    for n in range(30):
        (tmp_path / "t" / f"{n}").write_bytes(os.urandom(n * 1000))
    sh(f"tar -C {tmp_path} -cf - t | tar -xf - && diff -r {tmp_path}/t t", here)
    assert len(mounted.get(f"{here.name}/t/29")) == 29000


def test_cp_p_touch_chmod_and_chown_go_on(here, tmp_path):
    local = tmp_path / "local"
    local.write_text("x")
    sh(f"touch -d @1000000000 {local} && cp -p {local} a", here)
    sh("chmod 755 a && chown 1:1 a && touch -d @1234567890 a", here)
    found = (here / "a").stat()
    assert (found.st_mode, found.st_uid, found.st_gid) == (0o100644, 12574, 12574)
    assert found.st_mtime == 1234567890
    sh("touch b && test -f b && test ! -s b", here)


def test_64_mib_are_read_back_as_they_were_written(here, mounted):
    digest = hashlib.sha256()
    with (here / "big").open("wb") as file:
        for _ in range(16):
            block = os.urandom(4 * MIB)
            digest.update(block)
            file.write(block)
    forget_pages(here / "big")
    with (here / "big").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == digest.digest()
    assert hashlib.sha256(mounted.get(f"{here.name}/big")).digest() == digest.digest()


def test_a_child_that_ends_does_not_cut_its_parents_file(here, mounted):
    """FLUSH comes with each close of a duplicate, also when a child ends."""
    code = (
        "import os, subprocess\n"
        "f = open('f', 'wb', buffering=0)\n"
        "os.set_inheritable(f.fileno(), True)\n"
        "for i in range(20):\n"
        "    f.write(b'%04d\\n' % i)\n"
        "    pid = os.fork()\n"
        "    if pid == 0: os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "    subprocess.run(['true'], close_fds=False, check=True)\n"
        "f.close()\n"
    )
    sh(f'{sys.executable} -c "{code}"', here)
    assert mounted.get(f"{here.name}/f") == b"".join(b"%04d\n" % i for i in range(20))


def test_fsync_makes_it_visible_and_writing_goes_on(here, mounted):
    fd = os.open(here / "f", os.O_CREAT | os.O_WRONLY)
    try:
        os.write(fd, b"one")
        assert mounted.get(f"{here.name}/f") is None
        os.fsync(fd)
        assert mounted.get(f"{here.name}/f") == b"one"
        os.write(fd, b"two")
    finally:
        os.close(fd)
    assert mounted.get(f"{here.name}/f") == b"onetwo"


def test_mmap_reads_private_and_shared(here):
    """Promise: mmap for reading, private and shared, works."""
    data = os.urandom(MIB + 123)
    (here / "f").write_bytes(data)
    forget_pages(here / "f")
    with (here / "f").open("rb") as file:
        for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
            with mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as view:
                assert view[:] == data
                assert view[MIB:] == data[MIB:]


def test_a_temporary_file_without_a_name_can_be_written_and_read(here, mounted):
    with tempfile.TemporaryFile(dir=here) as file:
        file.write(b"scratch" * 1000)
        file.seek(0)
        assert file.read() == b"scratch" * 1000
    assert names(here) == []
    (here / "visible").write_text("x")
    assert mounted.get(f"{here.name}/visible") == b"x"


def test_locks_work_within_the_mount(here):
    """Promise: flock and fcntl locks work within the mount, not between mounts."""
    (here / "f").write_text("x")
    script = (
        "import fcntl, sys\n"
        "f = open('f', 'rb')\n"
        "try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(3)\n"
    )
    with (here / "f").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sh(f'{sys.executable} -c "{script}"', here, code=3)
    sh(f'{sys.executable} -c "{script}"', here)


# what is replaced while it is read


def read_all(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while piece := os.read(fd, 64 << 10):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def test_readers_of_a_file_that_is_replaced_elsewhere_see_one_version_or_estale(here, mounted):
    """Promise: The page cache also shows one version, never a mix of two."""
    versions = [bytes([65 + n]) * MIB for n in range(6)]
    key = f"{here.name}/f"
    mounted.put(key, versions[0])
    stop = threading.Event()

    def read_until_stopped():
        seen = set()
        while not stop.is_set():
            seen.add(read_all_or_stale(here / "f"))
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read_until_stopped) for _ in range(2)]
        for version in versions * 3:
            mounted.put(key, version)
            read_all_or_stale(here / "f")
        stop.set()
        seen = set().union(*(reader.result(WITHIN_S) for reader in readers))
    assert seen & set(versions)
    assert seen <= {*versions, None}
    assert read_all(here / "f") == versions[-1]


def read_all_or_stale(path):
    try:
        return read_all(path)
    except OSError as exc:
        if exc.errno != errno.ESTALE:
            raise
        return None


def test_a_new_version_elsewhere_is_seen_by_the_next_open_at_once(here, mounted):
    key = f"{here.name}/f"
    for n in range(10):
        mounted.put(key, b"%03d" % n)
        assert read_all(here / "f") == b"%03d" % n


def test_an_open_handle_keeps_its_version_while_a_new_open_sees_the_new(here, mounted):
    key = f"{here.name}/f"
    mounted.put(key, b"old")
    with (here / "f").open("rb") as old:
        mounted.put(key, b"newer")
        with (here / "f").open("rb") as new:
            assert new.read() == b"newer"
        assert old.read() == b"old"


def test_a_file_that_is_being_written_is_read_through_another_handle(here):
    with (here / "f").open("wb", buffering=0) as writer:
        writer.write(b"one")
        assert read_all(here / "f") == b"one"
        writer.write(b"two")
        assert read_all(here / "f") == b"onetwo"
    assert read_all(here / "f") == b"onetwo"


# what is not there yet, and what never will be


def test_what_is_never_built_says_eopnotsupp(here):
    """Promise: EOPNOTSUPP: extended attributes, O_TMPFILE, fallocate with COLLAPSE_RANGE,
    INSERT_RANGE or UNSHARE_RANGE, and what is not implemented yet.
    """
    (here / "f").write_text("data")
    assert errno_of(lambda: os.getxattr(here / "f", "user.x")) == errno.EOPNOTSUPP
    assert errno_of(lambda: os.setxattr(here / "f", "user.x", b"x")) == errno.EOPNOTSUPP
    assert errno_of(lambda: os.open(here, os.O_TMPFILE | os.O_RDWR)) == errno.EOPNOTSUPP
    collapse, insert, unshare = 0x8, 0x20, 0x40
    with (here / "g").open("wb") as file:
        for mode in (collapse, insert, unshare):
            assert fallocate(file.fileno(), mode) == errno.EOPNOTSUPP
    assert (here / "f").read_text() == "data"
    assert errno_of(lambda: os.listxattr(here / "f")) == errno.EOPNOTSUPP
    assert errno_of(lambda: os.removexattr(here / "f", "user.x")) == errno.EOPNOTSUPP


def fallocate(fd, mode):
    """The error."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(4096)) == -1
    return ctypes.get_errno()


def test_what_s3_cannot_hold_says_eperm(here, mounted):
    """Promise: Hard links, fifos, sockets and devices give EPERM (not EOPNOTSUPP: programs fall
    back to O_EXCL only on EPERM and similar errors), without a line in the log.
    """
    (here / "f").write_text("data")
    assert errno_of(lambda: os.link(here / "f", here / "g")) == errno.EPERM
    assert errno_of(lambda: os.mkfifo(here / "p")) == errno.EPERM
    assert errno_of(lambda: os.mknod(here / "d", 0o20600, os.makedev(1, 3))) == errno.EPERM
    os.mknod(here / "regular")
    assert names(here) == ["f", "regular"]
    assert [line for line in mounted.log() if line.get("op") in ("link", "mknod")] == []


def test_a_write_in_the_middle_of_a_new_file(here, mounted):
    with (here / "f").open("wb", buffering=0) as file:
        file.write(b"data")
        file.seek(1)
        file.write(b"x")
        file.seek(4)
        file.write(b"more")
    assert mounted.get(f"{here.name}/f") == b"dxtamore"


def test_a_writer_that_is_killed_leaves_what_it_wrote(here, mounted):
    """The kernel closes its files; no program sees a failure."""
    script = "import sys; f = open('f', 'wb', buffering=0); f.write(b'x'); print('ready'); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", script],
        cwd=here,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait(WITHIN_S)
    assert read_all(here / "f") == b"x"
    assert mounted.get(f"{here.name}/f") == b"x"


def test_now_is_never_before_what_was_written_before(here):
    """The kernel's clock for time stamps is a tick coarser, and it says what `touch` means."""
    path = here / "f"
    for _ in range(30):
        path.write_text("x")
        written = path.stat().st_mtime_ns
        os.utime(path)
        assert path.stat().st_mtime_ns >= written
