"""Landlock: what this process may reach from now on, by its own choice (landlock(7), Linux 5.13).

It holds for the calling thread and all that it starts later. What is refused fails with EACCES, or
EPERM for a signal. Open descriptors keep their rights. Without a rule of its own a confined process
cannot trace, or read the memory or the environment of, a process outside.

Rejected: the packages on PyPI, none of which knows ports or signals.
"""

import ctypes
import os
import stat
from collections.abc import Iterable

from csi_s3.kernel.syscalls import numbered, open_fd

# linux/landlock.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_ABSTRACT_UNIX_SOCKETS, _SIGNALS = 1 << 0, 1 << 1

_FIRST_RIGHTS = (1 << 13) - 1  # ABI 1
_SPECIAL_FILES = (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11)  # devices, sockets, FIFOs: none makes
_READ = _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

PORTS_ABI = 4  # Linux 6.7
SIGNALS_ABI = 6  # Linux 6.12


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),  # ABI 4
        ("scoped", ctypes.c_uint64),  # ABI 6
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    _fields_ = (("allowed_access", ctypes.c_uint64), ("port", ctypes.c_uint64))


def abi() -> int:
    """The version that the kernel has; 0: none, or switched off."""
    try:
        return numbered("landlock_create_ruleset", _CREATE_RULESET, None, 0, _VERSION)
    except OSError:  # ENOSYS, EOPNOTSUPP, or EPERM from a container's seccomp filter
        return 0


def restrict(*, readable: Iterable[str], writable: Iterable[str], tcp_ports: Iterable[int]) -> int:
    """Leave this thread only these files, directories with all below, and ports to connect to.

    Of a readable path that does not exist, or that this process may not reach, there is no rule,
    even if it is made later. Ports are limited from
    ABI 4 on, signals to processes outside refused from ABI 6 on. Linux refuses it to a process that
    may still gain privileges: `process_limits.give_up_privileges` comes first.

    Returns the kernel's ABI; 0: nothing is restricted.

    Raises:
        OSError: EPERM as above; E2BIG: 16 rulesets are in force; a writable path cannot be opened.

    """
    version = abi()
    if not version:
        return 0
    handled = _handled(version)
    attr = _Ruleset(
        handled_access_fs=handled,
        handled_access_net=_BIND_TCP | _CONNECT_TCP if version >= PORTS_ABI else 0,
        scoped=_ABSTRACT_UNIX_SOCKETS | _SIGNALS if version >= SIGNALS_ABI else 0,
    )
    size = 8 * (1 + (version >= PORTS_ABI) + (version >= SIGNALS_ABI))
    made = numbered(
        "landlock_create_ruleset", _CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(size), 0
    )
    with open_fd(made) as ruleset:
        for path in readable:
            _allow_path(ruleset, path, handled & _READ)
        for path in writable:
            _allow_path(ruleset, path, handled & ~(_SPECIAL_FILES | _EXECUTE | _IOCTL_DEV))
        if version >= PORTS_ABI:
            for port in set(tcp_ports):
                rule = _NetPort(allowed_access=_CONNECT_TCP, port=port)
                _add(ruleset, _NET_PORT, rule)
        numbered("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
    return version


def _handled(version: int) -> int:
    """All rights to files that this ABI knows: what is not handled is not refused."""
    rights = _FIRST_RIGHTS
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if version >= since:
            rights |= right
    return rights


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        if rights & _WRITE_FILE:  # without a rule each write would fail, and nothing say why
            raise
        return
    with open_fd(opened) as fd:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        _add(ruleset, _PATH_BENEATH, _PathBeneath(allowed_access=rights, parent_fd=fd))


def _add(ruleset: int, kind: int, rule: ctypes.Structure) -> None:
    numbered("landlock_add_rule", _ADD_RULE, ruleset, kind, ctypes.byref(rule), 0)
