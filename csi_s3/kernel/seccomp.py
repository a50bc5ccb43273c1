"""A filter of system calls for this process and its children (seccomp(2)).

Landlock does not limit connections to sockets that have a path (before its ABI 9 at least). A
worker has all the UNIX sockets it needs when it starts, so it gives up making others.

Rejected: libseccomp and a binding for it, two more things in the image for a filter of so few
lines; a longer list, because container runtimes already refuse what is dangerous.
"""

import ctypes
import platform
import struct
from errno import EACCES

# linux/seccomp.h, linux/filter.h, linux/audit.h
_SECCOMP, _SET_MODE_FILTER, _ALL_THREADS = {"x86_64": 317, "aarch64": 277}, 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | EACCES
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NR, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little-endian
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_IO_URING_SETUP = 425  # its requests make sockets that no filter sees
_X32 = 0x40000000  # on x86_64: the same calls by other numbers
_FAMILIES = (2, 10, 16)  # AF_INET, AF_INET6, AF_NETLINK (getaddrinfo lists this host's addresses)


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_local_sockets(machine: str | None = None) -> bool:
    """From now on socket(2) makes only internet sockets; socketpair(2) still makes pairs.

    machine: as uname(1) names it; this one's. Returns whether the filter is in force: False on
    other architectures than amd64 and arm64, and where the kernel or the container refuses filters.
    """
    machine = machine or platform.machine()
    if machine not in _SOCKET:
        return False
    code = _program(machine)
    program = _Program(len=len(code) // 8, filter=code)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    number = _SECCOMP[machine]
    return bool(libc.syscall(number, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)) == 0)


def _program(machine: str) -> bytes:
    """Classic BPF: 8 bytes an instruction: code, jumps if true and if false, constant."""
    checks = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NR),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _REFUSE),
        (_JUMP_IF_EQUAL, 0, 1, _IO_URING_SETUP),
        (_RETURN, 0, 0, _REFUSE),
        (_JUMP_IF_EQUAL, 1, 0, _SOCKET[machine]),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
    ]
    for family in _FAMILIES:
        checks += [(_JUMP_IF_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    checks.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *check) for check in checks)
