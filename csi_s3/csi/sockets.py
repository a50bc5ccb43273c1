"""The gRPC servers and their Unix sockets, which only root may connect to.

kubelet is trusted, but a server is bounded all the same: many pods may start at once, and another
program of root may call by mistake.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from csi_s3.csi.interceptors import ErrorInterceptor
from csi_s3.errors import BadOptionError
from csi_s3.link import unix_socket

MAX_CALLS = 1000
MAX_REQUEST_BYTES = 1 << 20  # etcd holds no object of more than 1.5 MB


def new_server(*, max_calls: int = MAX_CALLS) -> grpc.aio.Server:
    """A server whose handlers raise errors of `csi_s3.errors`.

    max_calls: at a time; another one is answered RESOURCE_EXHAUSTED at once, which kubelet takes as
        temporary. A larger request than MAX_REQUEST_BYTES is answered likewise.
    """
    return grpc.aio.server(
        interceptors=[ErrorInterceptor()],
        maximum_concurrent_rpcs=max_calls,
        options=[("grpc.max_receive_message_length", MAX_REQUEST_BYTES)],
    )


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
