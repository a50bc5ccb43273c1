"""Mount and unmount for people who are not root, through the setuid program fusermount3.

It opens /dev/fuse, calls mount(2) and hands the descriptor over a socket whose number stands in
_FUSE_COMMFD (libfuse's util/fusermount.c). Root calls mount(2) itself, except where it asks for
auto_unmount, which only fusermount3 has: it stays alive and unmounts when its socket closes.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from csi_s3.errors import BadOptionError, MountError

PROGRAM = "fusermount3"
DEADLINE_S = 20.0
CONF = Path("/etc/fuse.conf")


@dataclass(slots=True)
class UserMount:
    """A fresh mount: its /dev/fuse descriptor, INIT not read yet.

    watcher: with auto_unmount, fusermount3 itself and the socket whose last duplicate keeps the
    mount. The caller closes the descriptors and reaps the process.
    """

    fd: int
    watcher: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def mount_as_user(
    target: Path,
    *,
    source_name: str,
    read_only: bool,
    allow_other: bool,
    auto_unmount: bool = False,
) -> UserMount:
    """Mount on target.

    Raises:
        BadOptionError: allow_other, which /etc/fuse.conf does not grant to ordinary users.
        MountError: fusermount3 is missing or refuses; `what` carries its words.

    """
    program = find_program()
    if allow_other and os.geteuid() != 0 and not _user_allow_other():
        raise BadOptionError(
            "allow-other: an ordinary user may not let others into a FUSE mount on this machine",
            hint=f"ask root to add the line 'user_allow_other' to {CONF}, or drop the option",
        )
    options = [f"fsname={_escaped(source_name)}", "subtype=csi-s3", "default_permissions"]
    options += ["nosuid", "nodev"]
    wanted = {"allow_other": allow_other, "ro": read_only, "auto_unmount": auto_unmount}
    options += [name for name, given in wanted.items() if given]
    arguments = [program, "-o", ",".join(options), "--", str(target)]
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as stderr:
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - a list, no shell
                arguments,
                env={"_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        fd = _receive(ours)
        if fd is None or not auto_unmount:
            ours.close()  # ends fusermount3, whatever it waits for
            process.wait(DEADLINE_S)
        if fd is None:
            stderr.seek(0)
            raise _refusal(target, _words(stderr.read()))
    return UserMount(fd, (process, ours) if auto_unmount else None)


def unmount_as_user(target: Path) -> None:
    """Detach target at once (-z), whoever still uses it.

    Raises:
        MountError: fusermount3 refuses, e.g. target is no FUSE mount of this user.

    """
    done = subprocess.run(  # noqa: S603 - a list, no shell
        [find_program(), "-u", "-z", "--", str(target)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if done.returncode != 0:
        raise MountError(f"cannot unmount {target}: {_words(done.stderr)}")


def find_program() -> str:
    """Path of fusermount3.

    Raises:
        MountError: not installed.

    """
    found = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/local/bin:/usr/bin:/bin")
    if found is None:
        raise MountError(
            f"{PROGRAM} is not installed, so an ordinary user cannot mount",
            hint="install the package fuse3, or mount as root",
        )
    return found


def _receive(sock: socket.socket) -> int | None:
    sock.settimeout(DEADLINE_S)
    try:
        _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    except OSError:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds[0] if fds else None


def _refusal(target: Path, words: str) -> MountError:
    if "/dev/fuse" in words:
        hint = "load the kernel module (modprobe fuse); in a container, pass the device in"
    elif "access" in words or "not owned" in words:
        hint = "an ordinary user mounts on a directory that is his own and writable to him"
    else:
        hint = ""
    return MountError(f"cannot mount on {target}: {words}", hint)


def _user_allow_other() -> bool:
    try:
        lines = CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _words(stderr: bytes) -> str:
    return stderr.decode(errors="replace").strip().replace("\n", "; ") or "it gave no reason"
