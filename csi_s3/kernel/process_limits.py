"""The limits of this process: getrlimit(2)."""

import resource
from contextlib import suppress


def raise_descriptor_limit() -> int:
    """Let this process have all descriptors that it may; returns how many.

    Container runtimes and systemd give 1,024, for the sake of select(2), which no worker uses,
    and let a process take more: 524,288 or above.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # hard is above what the kernel allows (fs.nr_open)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
