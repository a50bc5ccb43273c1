"""A process beside a test session that frees threads which hang in a FUSE mount of the session.

A thread that waits for an answer of a dead daemon cannot be killed, so the session may be unable to
clean up after itself: pytest-timeout's exit would wait for that thread indefinitely. This process
runs in the session's mount namespace, touches no mount, and aborts every FUSE connection
mounted there since it started when

- the session's end of the pipe is closed (its normal end, or its death), or
- the session is overdue: it wrote "SECONDS\\n" and nothing else for that long plus a margin.

    python -I watchdog.py < pipe        writes "ready" when it has seen what was mounted before
"""

import ctypes
import os
import selectors
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MARGIN_S = 30.0
FOUND = 3  # exit status: something had to be aborted

MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo."""

    mount_id: int
    minor: int
    path: str
    fstype: str

    @property
    def is_fuse(self) -> bool:
        return self.fstype in {"fuse", "fuseblk"} or self.fstype.startswith("fuse.")


def mounts() -> frozenset[Mount]:
    """What is mounted in this process's namespace."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        head, _, tail = line.partition(b" - ")
        fields = head.split()
        path = os.fsdecode(fields[4].decode("unicode_escape").encode("latin-1"))
        minor = int(fields[2].split(b":")[1])
        found.add(Mount(int(fields[0]), minor, path, tail.split()[0].decode()))
    return frozenset(found)


def abort(left: frozenset[Mount]) -> None:
    """Abort the connections behind these mounts (all FUSE) and detach every one of them."""
    control = tempfile.mkdtemp(prefix="fusectl-")
    try:
        _call("mount", b"none", os.fsencode(control), b"fusectl", 0, None)
        try:
            for minor in {m.minor for m in left if m.is_fuse}:
                try:
                    Path(control, str(minor), "abort").write_text("1")
                except FileNotFoundError:
                    continue  # it has ended by itself
        finally:
            _call("umount2", os.fsencode(control), MNT_DETACH)
    finally:
        Path(control).rmdir()
    for mount in sorted(left, key=lambda m: m.mount_id, reverse=True):
        # EINVAL: it was unmounted with the mount below it
        _libc.umount2(os.fsencode(mount.path), MNT_DETACH)


def _call(name: str, *args: object) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{args}: {os.strerror(number)}")


def main() -> int:
    inherited, deadline, found = mounts(), float("inf"), False
    os.write(1, b"ready\n")
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while True:
            wait = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
            if selector.select(wait):
                data = os.read(0, 4096)
                if not data:
                    break
                last = float(data.split()[-1])
                deadline = time.monotonic() + last + MARGIN_S if last else float("inf")
            elif time.monotonic() >= deadline:
                found |= _free(inherited, "the session is overdue")
                deadline = float("inf")
    found |= _free(inherited, "the session ended")
    return FOUND if found else 0


def _free(inherited: frozenset[Mount], why: str) -> bool:
    left = frozenset(m for m in mounts() - inherited if m.is_fuse)
    if left:
        where = ", ".join(sorted({m.path for m in left}))
        sys.stderr.write(f"watchdog: {why}; aborting the FUSE mounts left at {where}\n")
        sys.stderr.flush()
        abort(left)
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
