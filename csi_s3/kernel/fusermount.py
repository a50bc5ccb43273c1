"""Mount and unmount for ordinary users, through the setuid program fusermount3.

It opens /dev/fuse, calls mount(2) and sends the descriptor over a socket whose number is in
_FUSE_COMMFD (libfuse's util/fusermount.c). Rejected: its option auto_unmount, which does nothing
for an ordinary user's mount without allow_other (3.14, Linux 6.18: it looks for ENOTCONN as root
and gets EACCES); `local.user_mount` implements it.
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path

from csi_s3.errors import BadOptionError, MountError

PROGRAM = "fusermount3"
WITHIN_S = 20.0
CONF = Path("/etc/fuse.conf")


def mount_as_user(
    target: Path,
    *,
    source_name: str,
    read_only: bool,
    allow_other: bool,
    allow_root: bool = False,
    no_exec: bool = False,
    within_s: float = WITHIN_S,
) -> int:
    """Mount on target. Returns the /dev/fuse descriptor, INIT not read yet, which the caller owns.

    allow_root: the kernel has no such option. It gets allow_other, and the server of the mount must
        refuse all users but root and its owner (`fuse.session`).

    Raises:
        BadOptionError: /etc/fuse.conf does not allow allow_other and allow_root to ordinary users.
        MountError: fusermount3 is missing or failed; `what` has its message.

    """
    program = find_program()
    if (allow_other or allow_root) and not _user_allow_other(CONF):
        name = "allow-other" if allow_other else "allow-root"
        raise BadOptionError(
            f"{name}: ordinary users may not share a FUSE mount with other users on this machine",
            hint=f"have root add the line 'user_allow_other' to {CONF}, or drop the option",
        )
    options = [f"fsname={_escaped(source_name)}", "subtype=csi-s3", "default_permissions"]
    options += ["nosuid", "nodev", *(["noexec"] if no_exec else [])]
    options += ["allow_other"] if allow_other or allow_root else []
    options += ["ro"] if read_only else []
    ours, child_end = socket.socketpair()
    with ours:
        with child_end:
            process = subprocess.Popen(  # noqa: S603 - a list, no shell
                [program, "-o", ",".join(options), "--", str(target)],
                env={"_FUSE_COMMFD": str(child_end.fileno())},
                pass_fds=[child_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        with process:
            try:
                _, stderr = process.communicate(timeout=within_s)
            except subprocess.TimeoutExpired as exc:
                process.kill()
                raise _timeout(target, within_s) from exc
            except BaseException:
                process.kill()
                raise
        fd = _receive(ours)
    if fd is None:
        raise _failure(target, _message(stderr))
    return fd


def unmount_as_user(target: Path, *, within_s: float = WITHIN_S) -> None:
    """Detach target at once (-z), even if it is in use.

    Raises:
        MountError: fusermount3 failed, for example because this is not a FUSE mount of this user.

    """
    try:
        done = subprocess.run(  # noqa: S603 - a list, no shell
            [find_program(), "-u", "-z", "--", str(target)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise _timeout(target, within_s) from exc
    if done.returncode != 0:
        raise MountError(f"cannot unmount {target}: {_message(done.stderr)}")


def find_program() -> str:
    """The path of fusermount3.

    Raises:
        MountError: it is not installed.

    """
    path = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/local/bin:/usr/bin:/bin")
    if path is None:
        raise MountError(
            f"{PROGRAM} is not installed, so an ordinary user cannot mount",
            hint="install the package fuse3, or mount as root",
        )
    return path


def _receive(sock: socket.socket) -> int | None:
    """The descriptor that fusermount3 has sent; it has exited."""
    sock.setblocking(False)
    try:
        _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    except OSError:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds[0] if fds else None


def _timeout(target: Path, within_s: float) -> MountError:
    return MountError(
        f"{target}: no answer from {PROGRAM} within {within_s:g} s",
        hint="does a mount above this directory hang? see /proc/self/mountinfo",
    )


def _failure(target: Path, message: str) -> MountError:
    if "/dev/fuse: Permission denied" in message:
        hint = "udev gives all users access to it: chmod 666 /dev/fuse, as root"
    elif "/dev/fuse" in message:
        hint = "load the kernel module (modprobe fuse); in a container, pass the device in"
    elif "username" in message:
        hint = "fusermount3 looks up the caller's name in /etc/passwd: add a line for this uid"
    elif "access" in message or "not owned" in message:
        hint = "ordinary users can mount on a directory that they own and can write to"
    else:
        hint = ""
    return MountError(f"cannot mount on {target}: {message}", hint)


def _user_allow_other(conf: Path) -> bool:
    try:
        lines = conf.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.partition("#")[0].strip() == "user_allow_other" for line in lines)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _message(stderr: bytes) -> str:
    return stderr.decode(errors="replace").strip().replace("\n", "; ") or "it gave no reason"
