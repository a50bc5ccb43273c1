"""The limits of this process, and what others may see of it: getrlimit(2), prctl(2)."""

import ctypes
import resource
from contextlib import suppress
from pathlib import Path

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_NAME = 4, 38, 15  # linux/prctl.h


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


def hide_memory() -> None:
    """Let no other process of this user read this one's memory, environment or descriptors.

    It writes no core file either. Children by fork inherit both; a new program must do it again.
    The files of /proc/self stay readable, but belong to root: none can be written.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def give_up_privileges() -> None:
    """Gain no privileges from a program's mode or capabilities from now on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_process_name(name: str) -> None:
    """Show at most 15 characters of it as this thread's name, in ps(1) and the kernel's log."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def limit_data(more_bytes: int) -> int:
    """Let this process have so many bytes of private memory more than now; returns the limit.

    Beyond it brk(2) and mmap(2) fail with ENOMEM, a MemoryError in Python. Stacks of threads and
    what is mapped but not used count in full (RLIMIT_DATA; VmData in proc(5)).
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    limit = (used << 10) + more_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return limit


def _prctl(option: int, value: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}")
