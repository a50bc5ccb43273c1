"""Two processes of one user, as workers of two volumes are: the second attacks the first.

python -m tests.mounter.hostile_worker DIRECTORY PORT FORBIDDEN_PORT {confined|open}

Root starts it; both give that up. DIRECTORY has the volumes' state directories and node's socket.
Prints a JSON object: each try, and `done` or the name of its error.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import sys
from pathlib import Path

from csi_s3.kernel.process_limits import hide_memory
from csi_s3.mounter.confinement import confine
from csi_s3.s3.reach import Reach

USER = 65532
_PR_SET_DUMPABLE = 4


def become_worker(state_dir: Path, port: int, *, is_confined: bool) -> None:
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as after exec
    if is_confined:
        hide_memory()
        confine(Reach(files=[], ports={port}), state_dir)


def victim(state_dir: Path, port: int, *, is_confined: bool) -> int:
    """Start it; returns its pid when it is what it will be."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        become_worker(state_dir, port, is_confined=is_confined)
        os.write(tell, b"1")
        signal.pause()
    os.read(ready, 1)
    return pid


def tried(attempt) -> str:
    try:
        attempt()
    except OSError as exc:
        return errno.errorcode[exc.errno]
    return "done"


def connect(family: int, address) -> None:
    with socket.socket(family) as sock:
        sock.settimeout(20)
        sock.connect(address)


def io_uring() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(425, 1, ctypes.create_string_buffer(120))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    os.close(fd)


def main() -> None:
    directory, port, forbidden = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    is_confined = sys.argv[4] == "confined"
    theirs, ours = directory / "victim", directory / "hostile"
    pid = victim(theirs, port, is_confined=is_confined)
    become_worker(ours, port, is_confined=is_confined)
    tries = {
        "own state": lambda: (ours / "planted").write_bytes(b"x"),
        "own port": lambda: connect(socket.AF_INET, ("127.0.0.1", port)),
        "name service": lambda: Path("/etc/hosts").read_bytes(),
        "pair of sockets": lambda: [end.close() for end in socket.socketpair()],
        "environment": lambda: Path(f"/proc/{pid}/environ").read_bytes(),
        "memory": lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY)),
        "descriptors": lambda: list(Path(f"/proc/{pid}/fd").iterdir()),
        "state": (theirs / "kept").read_bytes,
        "plant": lambda: (theirs / "rename-99.json").write_bytes(b"{}"),
        "list": lambda: list(directory.iterdir()),
        "link": lambda: os.link(theirs / "kept", ours / "stolen"),
        "socket": lambda: connect(socket.AF_UNIX, str(directory / "node.sock")),
        "other port": lambda: connect(socket.AF_INET, ("127.0.0.1", forbidden)),
        "listen": lambda: socket.socket().bind(("127.0.0.1", 0)),
        "io_uring": io_uring,
        "another file": (directory / "token").read_bytes,
        "program": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "signal": lambda: os.kill(pid, signal.SIGTERM),
    }
    sys.stdout.write(json.dumps({name: tried(attempt) for name, attempt in tries.items()}))


if __name__ == "__main__":
    main()
