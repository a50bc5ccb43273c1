"""How a mount ends: told to, killed, or with a store that does not answer; and parallel look-ups."""

import errno
import os
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.mount.command import (
    WITHIN_S,
    directory,
    foreground,
    is_mounted,
    mount,
    wait_gone,
    worker,
)
from tests.mount.mounted import env, minio, sh

__all__ = ["directory", "env", "minio"]

AT_ONCE = 5


class Store(ThreadingHTTPServer):
    """A bucket of one directory `d/`, with any file that is asked for.

    HEADs below `d/` are answered once AT_ONCE of them are waiting together; GETs when `let_go` is
    set.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.together = threading.Barrier(AT_ONCE)
        self.let_go = threading.Event()
        self.asked = threading.Event()


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
        if "/d/" in self.path:
            try:
                self.server.together.wait(WITHIN_S / 4)
            except threading.BrokenBarrierError:
                self.answer(500)
                return
        self.answer(200, size=5) if not self.path.endswith("/d") else self.answer(404, size=0)

    def do_GET(self):
        if "list-type=2" in self.path:
            is_d = "prefix=d%2F&" in self.path + "&"
            found = "<Contents><Key>d/x</Key><Size>5</Size></Contents>" if is_d else ""
            self.answer(200, f"<ListBucketResult>{found}</ListBucketResult>".encode())
        else:
            self.server.asked.set()
            self.server.let_go.wait(WITHIN_S)
            self.answer(200, b"hello")


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
        with pytest.raises(OSError) as caught:
            os.stat(directory / "never-asked-for")
        assert caught.value.errno == errno.ENOTCONN
        subprocess.run(["umount", "-l", directory], check=True, timeout=WITHIN_S)


def test_a_killed_worker_fails_the_writers_close_and_the_foreground_process(env, directory, minio):
    with foreground("data", directory, env=env) as process:
        fd = os.open(directory / "lost", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"not yet in S3")
        os.kill(worker(directory), signal.SIGKILL)
        assert process.wait(WITHIN_S) == 1
        with pytest.raises(OSError) as caught:
            os.write(fd, b"more")
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        with pytest.raises(OSError):
            os.close(fd)
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
            with pytest.raises(OSError, match="not connected|aborted"):
                os.close(fd)
    for name, size in (("empty", 0), ("small", 100), ("large", 20 << 20)):
        assert minio.request("GET", f"/data/{name}") == (200, b"x" * size)


def test_umount_after_close_loses_nothing(env, directory, minio):
    assert mount("data", directory, env=env).returncode == 0
    sh("for i in $(seq 20); do echo $i > umounted-$i; done", directory)
    unmount(directory)
    assert minio.request("GET", "/data/umounted-20") == (200, b"20\n")


def test_a_store_that_went_away_gives_errors_and_no_hang(env, directory, minio):
    """Behind a forwarder that is closed: connections are refused from then on."""
    with forwarder(minio) as (port, close):
        there = {**env, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        done = mount("data", directory, "--aws-max-attempts=2", "--metadata-ttl=minimal", env=there)
        assert done.returncode == 0, done.stderr
        (directory / "before").write_text("x")
        fd = os.open(directory / "unsaved", os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"x")
        close()
        with pytest.raises(OSError) as caught:
            os.close(fd)
        assert caught.value.errno == errno.EIO
        for call in (
            lambda: os.listdir(directory),
            lambda: (directory / "before").read_text(),
            lambda: (directory / "new").write_text("x"),
            lambda: (directory / "d").mkdir(),
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EIO
        unmount(directory)


@contextmanager
def forwarder(server):
    """Forwards TCP connections to the server until `close` is called."""
    listener = socket.create_server(("127.0.0.1", 0))
    target = ("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
    pairs, threads = [], []

    def pump(source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            return
        finally:
            for sock in (source, sink):
                sock.shutdown(socket.SHUT_RDWR) if sock.fileno() >= 0 else None

    def accept():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(target)
            pairs.append((client, upstream))
            for way in ((client, upstream), (upstream, client)):
                threads.append(threading.Thread(target=quietly, args=(pump, *way)))
                threads[-1].start()

    def quietly(call, *args):
        try:
            call(*args)
        except OSError:
            return

    def close():
        try:
            listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        listener.close()
        for pair in pairs:
            for sock in pair:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1], close
    finally:
        close()
        for thread in (accepting, *threads):
            thread.join(WITHIN_S)
        for pair in pairs:
            for sock in pair:
                sock.close()
