"""System calls for which Python has no function, through ctypes; each failure is an OSError.

Numbers from 424 on are the same on every architecture, so one table is right for amd64 and arm64.
Rejected: calling the programs `mount` and `umount`, which canonicalise paths by stat (a mount
whose daemon does not answer hangs them), follow symlinks, and cannot act on descriptors.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from typing import NamedTuple

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME = 0x1, 0x2, 0x4, 0x8, 0x400
MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 0x1, 0x2, 0x8

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_OPENAT2, _SYS_MOUNT_SETATTR = 428, 429, 437, 442
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC, _FSCONFIG_CMD_CREATE = 0x1, 0x1, 6
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE = 0x1
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
_MOUNT_ATTR_RDONLY = 0x1
_MS_PRIVATE = 1 << 18
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 0x1, 0x2
_AT_STATX_DONT_SYNC = 0x4000
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x2, 0x4, 0x8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.statx.argtypes = [
    *(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
]


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _Statx(ctypes.Structure):
    """include/uapi/linux/stat.h; what is not used here has no name of its own."""

    _fields_ = (
        ("to_mode", ctypes.c_uint32 * 7),
        ("mode", ctypes.c_uint16),
        ("to_rdev", ctypes.c_uint8 * 98),
        ("rdev_major", ctypes.c_uint32),
        ("rdev_minor", ctypes.c_uint32),
        ("dev_major", ctypes.c_uint32),
        ("dev_minor", ctypes.c_uint32),
        ("rest", ctypes.c_uint64 * 14),
    )


class CachedStatus(NamedTuple):
    """What the kernel knows of a file without asking its file system. mode: with its type."""

    mode: int
    rdev: int
    dev: int


@contextmanager
def open_fd(fd: int) -> Iterator[int]:
    """Close the descriptor at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def mount(source: str, target: str, fs_type: str, flags: int, data: str) -> None:
    """As in section 2 of the manual."""
    parts = (_text(source), _text(target), _text(fs_type))
    _checked(_libc.mount(*parts, flags, _text(data)), "mount", target)


def umount(target: str, flags: int) -> None:
    """As in section 2 of the manual."""
    _checked(_libc.umount2(_text(target), flags), "umount", target)


def cached_status(fd: int) -> CachedStatus:
    """statx(2) with AT_STATX_DONT_SYNC: of a FUSE file it asks no daemon, as fstat would.

    Of a FUSE file that this user may not access, `dev` alone is set (fs/fuse/dir.c, fuse_getattr).
    """
    found = _Statx()
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    result = _libc.statx(fd, b"", flags, 0, ctypes.byref(found))
    _checked(result, "statx", f"descriptor {fd}")
    return CachedStatus(
        found.mode,
        os.makedev(found.rdev_major, found.rdev_minor),
        os.makedev(found.dev_major, found.dev_minor),
    )


def punch_hole(fd: int, start: int, length: int) -> None:
    """fallocate(2): give the blocks of a range back; it reads as zeros, and the size stays."""
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    _checked(_libc.fallocate64(fd, mode, start, length), "fallocate", f"descriptor {fd}")


def open_beneath(directory: int, path: str, flags: int) -> int:
    """openat2(2): a descriptor of path below directory, without symlinks and without leaving it.

    Raises:
        OSError: ELOOP: a component is a symlink; EXDEV: path leaves directory; as open(2) else.

    """
    how = _OpenHow(
        flags=flags | os.O_CLOEXEC,
        resolve=_RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
    )
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _syscall("openat2", path, _SYS_OPENAT2, directory, _text(path), ctypes.byref(how), size)


def clone_mount(root: int) -> int:
    """open_tree(2): a detached copy of the mount from root on (O_PATH is enough)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
    return _syscall("open_tree", "", _SYS_OPEN_TREE, root, b"", flags)


def detached_mount(fs_type: str) -> int:
    """fsopen(2) and fsmount(2): the root of a new detached mount."""
    fd = _syscall("fsopen", fs_type, _SYS_FSOPEN, _text(fs_type), _FSOPEN_CLOEXEC)
    with open_fd(fd) as context:
        _syscall("fsconfig", fs_type, _SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall("fsmount", fs_type, _SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)


def set_private(tree: int, *, read_only: bool) -> None:
    """mount_setattr(2): make one mount private, and read-only if asked; its copies do not change.

    Later mounts on it do not appear on its copies. read_only=False does not make it writable.
    """
    attr = _MountAttr(attr_set=_MOUNT_ATTR_RDONLY if read_only else 0, propagation=_MS_PRIVATE)
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    _syscall(
        "mount_setattr",
        "",
        _SYS_MOUNT_SETATTR,
        tree,
        b"",
        _AT_EMPTY_PATH,
        ctypes.byref(attr),
        size,
    )


def attach_mount(tree: int, directory: int) -> None:
    """move_mount(2): attach a detached mount to an open directory (O_PATH is enough)."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _syscall("move_mount", "", _SYS_MOVE_MOUNT, tree, b"", directory, b"", flags)


def numbered(name: str, *args: object) -> int:
    """syscall(2): the number, then its arguments. name: for messages."""
    return _syscall(name, "", *args)


def _text(text: str) -> bytes:
    """As the kernel gets it: up to its end.

    Raises:
        OSError: EINVAL: it has a NUL, at which the kernel would cut it.

    """
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise OSError(EINVAL, f"there is a NUL in {text!r}")
    return raw


def _syscall(name: str, path: str, *args: object) -> int:
    return _checked(_libc.syscall(*args), name, path)


def _checked(result: int, name: str, path: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", path)
    return result
