"""FUSE mounts by mount(2), binds of them, and unmounting.

No function opens a path in a mount: a mount that is not served yet would hang its caller. A
read-only bind is complete before it is attached (clone, set read-only, attach), because a later
remount is not propagated to the host and the pods (tried on a real cluster).
"""

import os
import select
import struct
from collections.abc import Mapping
from errno import EACCES, EINVAL, ENODEV, ENOENT, ENXIO, EPERM
from pathlib import Path

from csi_s3.errors import BadOptionError, FuseUnavailableError, MountError
from csi_s3.kernel import syscalls

FS_TYPE = "fuse.csi-s3"

FUSE_DEVICE = os.makedev(10, 229)  # Documentation/admin-guide/devices.txt
_INIT = 26  # FUSE_INIT (include/uapi/linux/fuse.h)
_HEADER = struct.Struct("<IIQ")  # length, opcode, unique
_REQUEST_BYTES = (1 << 20) + (64 << 10)  # the kernel refuses to fill less than max_write + header
_PRIVILEGED = "mount(2) needs CAP_SYS_ADMIN: run as root, in a container privileged"


def open_fuse() -> int:
    """A new descriptor of /dev/fuse, which the caller closes.

    Raises:
        FuseUnavailableError: this machine or container does not offer the device.

    """
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        hint = {
            ENOENT: "load the kernel module (modprobe fuse); in a container, pass the device in",
            ENODEV: "load the kernel module (modprobe fuse)",
            ENXIO: "load the kernel module (modprobe fuse)",
            EACCES: "run as root, or allow this user to read and write it",
            EPERM: "the container's device rules forbid it: run it privileged",
        }.get(exc.errno or 0, "")
        raise FuseUnavailableError(f"cannot open /dev/fuse: {exc.strerror}", hint) from exc
    if os.fstat(fd).st_rdev != FUSE_DEVICE:
        os.close(fd)
        raise FuseUnavailableError(
            "/dev/fuse is not the FUSE device", "mount the host's /dev, or mknod /dev/fuse c 10 229"
        )
    return fd


def mount_fuse(
    fd: int,
    target: Path,
    *,
    source_name: str,
    read_only: bool = False,
    allow_other: bool = True,
    no_exec: bool = False,
    labels: Mapping[str, str] | None = None,
    directory: int | None = None,
) -> None:
    """Mount the connection fd on target, owned by this user; the kernel checks permissions.

    directory: the target, open (O_PATH), so that its path cannot be replaced concurrently.
    max_read is not set: libfuse refuses a value that differs from its own.
    labels: SELinux's options (context and so on, mount(8)). They are quoted, so that SELinux does
        not split them at commas (selinux_sb_eat_lsm_opts).

    Raises:
        BadOptionError: the kernel has no SELinux, or its policy does not have a label.
        MountError: the kernel refused.

    """
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOATIME
    flags |= syscalls.MS_RDONLY if read_only else 0
    flags |= syscalls.MS_NOEXEC if no_exec else 0
    data = f"fd={fd},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
    data += ",default_permissions" + (",allow_other" if allow_other else "")
    data += "".join(f',{name}="{label}"' for name, label in (labels or {}).items())
    try:
        at = str(target) if directory is None else f"/proc/self/fd/{directory}"
        syscalls.mount(source_name, at, FS_TYPE, flags, data)
    except OSError as exc:
        if labels and exc.errno == EINVAL:  # also from a kernel without SELinux (6.18)
            raise _bad_label(labels) from exc
        hints = {EPERM: _PRIVILEGED, ENODEV: "this kernel has no FUSE: modprobe fuse"}
        hint = hints.get(exc.errno or 0, "")
        raise MountError(f"cannot mount on {target}: {exc.strerror}", hint) from exc


def _bad_label(labels: Mapping[str, str]) -> BadOptionError:
    listed = ", ".join(f"{name}={label!r}" for name, label in labels.items())
    if "\tselinuxfs\n" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        return BadOptionError(
            f"option {listed} needs SELinux, which this machine's kernel lacks or has disabled",
            "remove the option; kubelet adds it where it is needed",
        )
    return BadOptionError(
        f"option {listed} is refused by SELinux",
        "is the label in the node's policy (seinfo)? dmesg has details",
    )


def read_init(fd: int, within_s: float) -> bytes:
    """The kernel's first request on a new mount, for the worker (INIT relay).

    Raises:
        MountError: it did not arrive in time, or is not INIT.

    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(within_s * 1000):
        raise MountError(f"the kernel did not send INIT within {within_s:.0f} s")
    try:
        request = os.read(fd, _REQUEST_BYTES)
    except OSError as exc:
        raise MountError(f"the mount ended before INIT: {exc.strerror}") from exc
    if len(request) < _HEADER.size or _HEADER.unpack_from(request)[1] != _INIT:
        raise MountError("the kernel's first request is not INIT")
    return request


def is_over(fd: int) -> bool:
    """Whether the connection has ended: it is unmounted everywhere, or was aborted.

    Never waits, and has the same result for every duplicate of the descriptor.
    """
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR is always reported
    return any(events & select.POLLERR for _, events in poll.poll(0))


def connection_of(fd: int) -> int | None:
    """The minor of the connection that a descriptor of /dev/fuse serves, as in fusectl.

    None: it serves none, or the kernel does not say it (6.18 does, by fdinfo).
    """
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "fuse_connection":
            return int(value)
    return None


def bind(source: int, target: int, *, read_only: bool) -> None:
    """Attach another copy of the mount at source onto target; both are open (O_PATH).

    It acts on descriptors, so that the target cannot be replaced concurrently. On a target that is
    the root of a mount, the copy is on top of that mount. The copy is private: mounts on top of a
    peer of the source would appear on all its copies, writable (tried).

    Raises:
        MountError: the kernel refused.

    """
    try:
        with syscalls.open_fd(syscalls.clone_mount(source)) as tree:
            syscalls.set_private(tree, read_only=read_only)
            syscalls.attach_mount(tree, target)
    except OSError as exc:
        hint = _PRIVILEGED if exc.errno == EPERM else ""
        raise MountError(f"cannot bind a mount to its target: {exc.strerror}", hint) from exc


def umount(target: Path | str, *, force: bool = False) -> bool:
    """Detach the topmost mount on target at once, even if it is in use; follows no symlink there.

    force: abort the FUSE connection first, so that
    every process that waits in it gets an error; that ends all other copies of the mount as well.
    Returns False if nothing is mounted there.

    Raises:
        MountError: the kernel refused.

    """
    flags = syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH
    flags |= syscalls.MNT_FORCE if force else 0
    try:
        syscalls.umount(str(target), flags)
    except OSError as exc:
        if exc.errno in {EINVAL, ENOENT}:  # not a mount point; no such path
            return False
        hint = _PRIVILEGED if exc.errno == EPERM else ""
        raise MountError(f"cannot unmount {target}: {exc.strerror}", hint) from exc
    return True
