"""Unix sockets of our gRPC servers: for root only, a stale one replaced, however long the path."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc

from csi_s3.errors import BadOptionError


@contextmanager
def bound(server: grpc.aio.Server, path: Path, *, flag: str) -> Iterator[None]:
    """Give the server a socket at path; it is gone at the end, unless it is a successor's.

    Callers may connect from now on and are answered once the server has started. The socket is
    made under another name, through /proc/self/fd (path may be longer than sun_path's 107 bytes),
    and renamed: gRPC, when it stops, removes whatever has the name that it was told, and after a
    forced deletion of a pod that is the new pod's socket. kubelet's plug-in watcher overlooks
    names with a dot before them.

    Raises:
        BadOptionError: path cannot be used; names the flag it comes from.

    """
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise BadOptionError(f"{flag} {path}: {exc.strerror}", "its directory must exist") from exc
    try:
        _refuse_others(path.name, directory, flag)
        made = f".{secrets.token_hex(6)}"
        old = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:/proc/self/fd/{directory}/{made}")
        except RuntimeError as exc:
            raise BadOptionError(
                f"{flag} {path}: cannot listen there", "expected a path of this machine"
            ) from exc
        finally:
            os.umask(old)
        ours = os.stat(made, dir_fd=directory).st_ino
        os.rename(made, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                if os.stat(path.name, dir_fd=directory).st_ino == ours:
                    os.unlink(path.name, dir_fd=directory)
    finally:
        os.close(directory)


def _refuse_others(name: str, directory: int, flag: str) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise BadOptionError(f"{flag}: {name!r} exists and is no socket", "give another path")
