"""Unix sockets of the gRPC servers, which only root may connect to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from csi_s3.errors import BadOptionError
from csi_s3.link import unix_socket


@contextmanager
def bound(server: grpc.aio.Server, path: Path, *, flag: str) -> Iterator[None]:
    """Give the server a socket at path, and remove it at the end; see `link.unix_socket`.

    Callers may connect from now on and are answered once the server has started.

    Raises:
        BadOptionError: path cannot be used; names the flag that it comes from.

    """
    try:
        inode = unix_socket.bind(
            path, lambda short: server.add_insecure_port(f"unix:{short}"), mode=0o600
        )
    except FileExistsError as exc:
        raise BadOptionError(f"{flag} {path}: {exc.strerror}", "give another path") from exc
    except OSError as exc:
        raise BadOptionError(f"{flag} {path}: {exc.strerror}", "its directory must exist") from exc
    except RuntimeError as exc:
        raise BadOptionError(
            f"{flag} {path}: cannot listen there", "expected a path on this machine"
        ) from exc
    try:
        yield
    finally:
        unix_socket.remove(path, inode)
