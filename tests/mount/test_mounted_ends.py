"""How a mount ends: told to, killed, or with a silent store; and look-ups in parallel."""

import ctypes
import errno
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.mount.command import (
    WITHIN_S,
    directory,
    foreground,
    is_mounted,
    mount,
    names,
    wait_gone,
    worker,
)
from tests.mount.mounted import env, errno_of, minio, sh
from tests.servers import running

__all__ = ["directory", "env", "minio"]

AT_ONCE = 5


class Store(ThreadingHTTPServer):
    """A bucket of one directory `d/`, with any file that is asked for but `new`.

    HEADs below `d/` are answered once AT_ONCE of them are waiting together; GETs and parts of
    uploads when `let_go` is set. completed: the body of a CompleteMultipartUpload has come.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.together = threading.Barrier(AT_ONCE)
        self.let_go = threading.Event()
        self.asked = threading.Event()
        self.completed = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        """Not to the terminal."""

    def answer(self, status, body=b"", *, size=None):
        self.send_response(status)
        self.send_header("ETag", '"0123456789abcdef0123456789abcdef"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self):
        if self.path.endswith(".rclonelink"):
            self.answer(404)
            return
        if "/d/" in self.path:
            try:
                self.server.together.wait(WITHIN_S / 4)
            except threading.BrokenBarrierError:
                self.answer(500)
                return
        is_file = not self.path.endswith(("/d", "/new"))
        self.answer(200 if is_file else 404, size=5 if is_file else 0)

    def do_GET(self):
        if "list-type=2" in self.path:
            is_d = "prefix=d%2F&" in self.path + "&"
            found = "<Contents><Key>d/x</Key><Size>5</Size></Contents>" if is_d else ""
            self.answer(200, f"<ListBucketResult>{found}</ListBucketResult>".encode())
        else:
            self.server.asked.set()
            self.server.let_go.wait(WITHIN_S)
            self.answer(200, b"hello")

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.set()
        self.server.let_go.wait(WITHIN_S)
        self.answer(200)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("uploads="):
            self.answer(200, b"<R><UploadId>1</UploadId></R>")
        else:
            self.server.completed.set()
            self.answer(200, b"<R><ETag>&quot;0-2&quot;</ETag></R>")


@contextmanager
def serving(env):
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server, {**env, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        finally:
            server.let_go.set()
            server.shutdown()
            thread.join(WITHIN_S)


def test_look_ups_in_one_directory_go_in_parallel(env, directory):
    """None is answered before all of them have reached the store (FUSE_PARALLEL_DIROPS)."""
    with serving(env) as (_store, slow_env):
        assert mount("data", directory, "--no-sign-request", env=slow_env).returncode == 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(lambda n: (directory / "d" / f"{n}").stat(), range(AT_ONCE)))
        assert [f.st_size for f in found] == [5] * AT_ONCE
        unmount(directory)


def unmount(directory):
    pid = worker(directory)
    subprocess.run(["umount", directory], check=True, timeout=WITHIN_S)
    wait_gone(pid)


def test_a_killed_worker_frees_whoever_waits_with_an_error(env, directory):
    with serving(env) as (store, slow_env):
        assert mount("data", directory, "--no-sign-request", env=slow_env).returncode == 0
        with subprocess.Popen(
            ["cat", directory / "f"], stderr=subprocess.PIPE, text=True
        ) as process:
            assert store.asked.wait(WITHIN_S)
            pid = worker(directory)
            os.kill(pid, signal.SIGKILL)
            _, error = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 1
        assert "connection abort" in error or "not connected" in error
        wait_gone(pid)
        assert errno_of((directory / "never-asked-for").stat) == errno.ENOTCONN
        subprocess.run(["umount", "-l", directory], check=True, timeout=WITHIN_S)


def test_a_killed_worker_fails_the_writers_close_and_the_foreground_process(env, directory, minio):
    with foreground("data", directory, env=env) as process:
        fd = os.open(directory / "lost", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"not yet in S3")
        os.kill(worker(directory), signal.SIGKILL)
        assert process.wait(WITHIN_S) == 1
        aborted = (errno.ENOTCONN, errno.ECONNABORTED)
        assert errno_of(lambda: os.write(fd, b"more")) in aborted
        assert errno_of(lambda: os.close(fd)) in aborted
    assert not is_mounted(directory)
    assert minio.request("GET", "/data/lost")[0] == 404


def test_sigterm_uploads_files_of_every_size_that_are_open(env, directory, minio):
    with foreground("data", directory, env=env) as process:
        descriptors = []
        for name, size in (("empty", 0), ("small", 100), ("large", 20 << 20)):
            fd = os.open(directory / name, os.O_CREAT | os.O_WRONLY)
            descriptors.append(fd)
            view = memoryview(b"x" * size)
            while view:
                view = view[os.write(fd, view) :]
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 0, process.stderr.read()
        for fd in descriptors:
            with pytest.raises(OSError, match=r"not connected|aborted"):
                os.close(fd)
    for name, size in (("empty", 0), ("small", 100), ("large", 20 << 20)):
        assert minio.request("GET", f"/data/{name}") == (200, b"x" * size)


def test_a_mount_that_is_torn_off_while_its_worker_drains_is_drained_to_the_end(env, directory):
    """SIGTERM and the end of the connection come together when a node is emptied."""
    with serving(env) as (store, slow_env):
        options = ("--no-sign-request", "--upload-checksums=off")
        assert mount("data", directory, *options, env=slow_env).returncode == 0
        fd = os.open(directory / "new", os.O_CREAT | os.O_WRONLY)
        view = memoryview(bytes(9 << 20))
        while view:
            view = view[os.write(fd, view) :]
        pid = worker(directory)
        os.kill(pid, signal.SIGTERM)
        assert store.asked.wait(WITHIN_S)
        served = fuse_descriptors(pid)
        abort(directory)
        assert errno_of(lambda: os.write(fd, b"x")) in (errno.ENOTCONN, errno.ECONNABORTED)
        wait_until(lambda: fuse_descriptors(pid) < served)
        store.let_go.set()
        assert store.completed.wait(WITHIN_S)
        wait_gone(pid)
        assert errno_of(lambda: os.close(fd)) in (errno.ENOTCONN, errno.ECONNABORTED)
        subprocess.run(["umount", "-l", directory], check=False, timeout=WITHIN_S)


@pytest.mark.parametrize(
    ("program", "waits_in"),
    [
        ("cp /bin/true new", "cannot create"),
        ("dd status=none if=/bin/true of=new", "closing output file"),
    ],
)
def test_a_worker_that_cannot_drain_ends_after_its_grace_period(env, directory, program, waits_in):
    """A silent store: a program waits in open() (cp makes files with O_EXCL) or in close()."""
    with serving(env) as (store, slow_env):
        options = ("--no-sign-request", "--drain-timeout=1")
        assert mount("data", directory, *options, env=slow_env).returncode == 0
        with subprocess.Popen(
            program.split(), cwd=directory, stderr=subprocess.PIPE, text=True
        ) as process:
            assert store.asked.wait(WITHIN_S)
            pid = worker(directory)
            os.kill(pid, signal.SIGTERM)
            wait_gone(pid)
            assert not store.let_go.is_set()
            _, error = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 1
        assert waits_in in error
    assert not is_mounted(directory)


def abort(directory):
    """umount -f; in a child, the descriptor of the file would be flushed before it execs."""
    ctypes.CDLL(None).umount2(os.fsencode(directory), 1)  # MNT_FORCE


def fuse_descriptors(pid):
    """How many a process has; its session's is closed when it has ended."""
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found += entry.readlink() == Path("/dev/fuse")
    return found


def wait_until(is_so):
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_umount_after_close_loses_nothing(env, directory, minio):
    assert mount("data", directory, env=env).returncode == 0
    sh("for i in $(seq 20); do echo $i > umounted-$i; done", directory)
    unmount(directory)
    assert minio.request("GET", "/data/umounted-20") == (200, b"20\n")


def test_a_store_that_went_away_gives_errors_and_no_hang(directory):
    with ExitStack() as store:
        server = store.enter_context(running("moto"))
        server.create_bucket("data")
        there = {**os.environ, **server.env(), "AWS_ENDPOINT_URL": server.endpoint}
        done = mount("data", directory, "--aws-max-attempts=2", "--metadata-ttl=minimal", env=there)
        assert done.returncode == 0, done.stderr
        (directory / "before").write_text("x")
        fd = os.open(directory / "unsaved", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"x")
        store.close()
        for call in (
            lambda: os.close(fd),
            lambda: names(directory),
            (directory / "before").read_text,
            lambda: (directory / "new").write_text("x"),
            (directory / "d").mkdir,
        ):
            assert errno_of(call) == errno.EIO
        unmount(directory)
