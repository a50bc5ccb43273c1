"""The walls around the worker of a volume: what code that runs in it could reach.

A worker parses what a store sends. Should one of them be taken over, it has its own volume: the
state directory, the connections to the store, this volume's credentials. All workers of a node have
one user, so the kernel must be asked to keep them apart; docs/security.md has the whole picture.
"""

import logging
import sys
import threading
from pathlib import Path

from csi_s3.kernel import landlock, process_limits, seccomp
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.s3.reach import Reach

log = logging.getLogger(__name__)

# Programs and name service. Nothing of these differs between volumes or is secret.
_IMAGE = ("/usr", "/lib", "/lib64", "/bin", "/proc", "/dev/null", "/dev/urandom")
_NAME_SERVICE = tuple(
    f"/etc/{name}"
    for name in (
        *("resolv.conf", "hosts", "nsswitch.conf", "host.conf", "gai.conf", "services"),
        *("protocols", "localtime", "ld.so.cache", "passwd", "group", "ssl", "pki"),
    )
)
# What is mapped but has no pages: 17 to 33 MiB under load (measured), and 8 MiB for the stack of
# each thread that a library starts.
_DATA_SLACK_BYTES = 96 << 20
_STACK_BYTES = 1 << 20  # of Python's threads


def confine(reach: Reach, state_dir: Path | None) -> None:
    """Give up all files and ports but these, local sockets, and signals to other processes.

    To be called before the process starts a thread: threads that run already keep everything.

    Raises:
        OSError: the kernel knows such a wall and does not build it.

    """
    process_limits.give_up_privileges()
    has_filter = seccomp.refuse_local_sockets()
    version = landlock.restrict(
        readable=[*_IMAGE, *_NAME_SERVICE, sys.prefix, sys.base_prefix, *_modules(), *reach.files],
        writable=["/dev/null"] if state_dir is None else ["/dev/null", str(state_dir)],
        tcp_ports=reach.ports,
    )
    metrics.LANDLOCK_ABI.set(version)
    if not version:
        log.warning(
            "this kernel has no Landlock: code that runs in a worker could reach the files of "
            "other volumes; nodes with Linux 6.12 or later have it, if `landlock` is in lsm="
        )
    elif version < landlock.SIGNALS_ABI:
        log.info("Landlock's ABI is %d: signals to other workers are not refused", version)
    if not has_filter:
        log.warning("no seccomp filter could be set: a worker could connect to local sockets")


def limit_memory(cost_bytes: int) -> None:
    """Make allocations fail before they take other volumes' memory. cost_bytes: its share."""
    threading.stack_size(_STACK_BYTES)
    limit = process_limits.limit_data(cost_bytes + _DATA_SLACK_BYTES)
    log.debug("at most %d MiB of data", limit >> 20)


def _modules() -> list[str]:
    """Where modules are imported from; a directory of a working copy among them."""
    return [path or str(Path.cwd()) for path in sys.path]
