"""Containers that start on a path, one after the other, until stdin ends; then one JSON line.

python -m tests.rpc.container_loop PATH INSIDE NAME

Each start binds PATH as runc does: in a mount namespace that hears of the node's mounts, to INSIDE.
Every second one stats the path first, as containerd does, which makes a directory where there is
none. Counted are: `live`, NAME is there; `error`, no start or no access; `bare`, anything else.
"""

import ctypes
import json
import os
import select
import sys
from collections import Counter
from pathlib import Path

CLONE_NEWNS, MS_BIND, MS_REC, MS_SLAVE, MNT_DETACH = (
    0x20000, 0x1000, 0x4000, 1 << 19, 2,
)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def start(path, inside, *, is_looked_at):
    if is_looked_at:
        try:
            path.stat()
        except FileNotFoundError:
            path.mkdir(parents=True)
    checked(_libc.mount(bytes(path), bytes(inside), None, MS_BIND | MS_REC, None))


def seen(path, inside, name, *, is_looked_at):
    try:
        start(path, inside, is_looked_at=is_looked_at)
    except OSError:
        return "error"
    try:
        return "live" if name in {found.name for found in inside.iterdir()} else "bare"
    except OSError:
        return "error"
    finally:
        checked(_libc.umount2(bytes(inside), MNT_DETACH))


if __name__ == "__main__":
    path, inside = map(Path, sys.argv[1:3])
    checked(_libc.unshare(CLONE_NEWNS))
    checked(_libc.mount(None, b"/", None, MS_SLAVE | MS_REC, None))
    checked(_libc.mount(b"none", bytes(inside), b"tmpfs", 0, None))  # hears of nothing
    place = inside / "data"
    place.mkdir()
    count = Counter(live=0, error=0, bare=0)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    while not select.select([0], [], [], 0)[0]:
        count[seen(path, place, sys.argv[3], is_looked_at=count.total() % 2 == 0)] += 1
    json.dump(count, sys.stdout)
