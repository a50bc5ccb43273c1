"""Mount and unmount for people who are not root, through the setuid program fusermount3.

It opens /dev/fuse, calls mount(2) and hands the descriptor over a socket whose number stands in
_FUSE_COMMFD (libfuse's util/fusermount.c). Rejected: its option auto_unmount, which does nothing
for an ordinary user's mount without allow_other (3.14, Linux 6.18: it looks for ENOTCONN as root
and gets EACCES); `local.user_mount` has one of its own.
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from csi_s3.errors import BadOptionError, MountError

PROGRAM = "fusermount3"
DEADLINE_S = 20.0
CONF = Path("/etc/fuse.conf")


def mount_as_user(
    target: Path,
    *,
    source_name: str,
    read_only: bool,
    allow_other: bool,
    allow_root: bool = False,
    no_exec: bool = False,
) -> int:
    """Mount on target; the /dev/fuse descriptor, INIT not read yet, is the caller's to close.

    allow_root: the kernel has no such option: it is asked to let everybody in, and who serves the
        mount must turn away all but root and its owner (`fuse.session`).

    Raises:
        BadOptionError: allow_other or allow_root, which /etc/fuse.conf does not grant to ordinary
            users.
        MountError: fusermount3 is missing or refuses; `what` carries its words.

    """
    program = find_program()
    if (allow_other or allow_root) and not _user_allow_other():
        name = "allow-other" if allow_other else "allow-root"
        raise BadOptionError(
            f"{name}: an ordinary user may not let others into a FUSE mount on this machine",
            hint=f"ask root to add the line 'user_allow_other' to {CONF}, or drop the option",
        )
    options = [f"fsname={_escaped(source_name)}", "subtype=csi-s3", "default_permissions"]
    options += ["nosuid", "nodev", *(["noexec"] if no_exec else [])]
    options += ["allow_other"] if allow_other or allow_root else []
    options += ["ro"] if read_only else []
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - a list, no shell
                [program, "-o", ",".join(options), "--", str(target)],
                env={"_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        with process:
            try:
                _, stderr = process.communicate(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired as exc:
                process.kill()
                raise _silence(target) from exc
            except BaseException:
                process.kill()
                raise
        fd = _receive(ours)
    if fd is None:
        raise _refusal(target, _words(stderr))
    return fd


def unmount_as_user(target: Path) -> None:
    """Detach target at once (-z), whoever still uses it.

    Raises:
        MountError: fusermount3 refuses, e.g. target is no FUSE mount of this user.

    """
    try:
        done = subprocess.run(  # noqa: S603 - a list, no shell
            [find_program(), "-u", "-z", "--", str(target)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise _silence(target) from exc
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
    """What fusermount3 has sent; it has ended."""
    sock.setblocking(False)
    try:
        _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    except OSError:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds[0] if fds else None


def _silence(target: Path) -> MountError:
    return MountError(
        f"{target}: no answer from {PROGRAM} within {DEADLINE_S:.0f} s",
        hint="does a mount on the way to it hang? see mountinfo",
    )


def _refusal(target: Path, words: str) -> MountError:
    if "/dev/fuse: Permission denied" in words:
        hint = "everybody may open it where udev made it: chmod 666 /dev/fuse, as root"
    elif "/dev/fuse" in words:
        hint = "load the kernel module (modprobe fuse); in a container, pass the device in"
    elif "username" in words:
        hint = "fusermount3 asks /etc/passwd for the caller's name: add a line for this uid"
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
    return any(line.partition("#")[0].strip() == "user_allow_other" for line in lines)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _words(stderr: bytes) -> str:
    return stderr.decode(errors="replace").strip().replace("\n", "; ") or "it gave no reason"
