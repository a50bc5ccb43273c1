"""Which way each operation goes, and why; what is not in this table is not supported."""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from csi_s3.fuse.protocol import Opcode


class Way(Enum):
    """Who answers."""

    OURS = "ours"  # `fuse.answers`
    PYFUSE3 = "pyfuse3"  # over the socketpair, see `fuse.relay`
    NOT_SUPPORTED = "not supported"  # ENOSYS, by us


class Route(NamedTuple):
    """why: what decides it; of NOT_SUPPORTED, what the kernel makes of ENOSYS."""

    way: Way
    why: str


_FREQUENT = Route(Way.OURS, "frequent and short: the way over pyfuse3 costs 12 µs and more")
_ATTRIBUTES = Route(Way.OURS, "answers attributes, which are turned into messages in one place")
_HANDLES = Route(Way.OURS, "frequent: each file that is read or written has one of each")
_SELDOM = Route(Way.PYFUSE3, "seldom next to the others, or long next to the way over pyfuse3")
_NOT_IN_PYFUSE3 = Route(Way.OURS, "pyfuse3 would answer ENOSYS, which the kernel remembers")
_NO_ATTRIBUTES = Route(Way.NOT_SUPPORTED, "remembered: EOPNOTSUPP, and not asked at each write")
_NEVER_SENT = Route(Way.NOT_SUPPORTED, "never sent: INIT asks for nothing that needs it")

ROUTES: Mapping[Opcode, Route] = {
    Opcode.LOOKUP: _FREQUENT,
    Opcode.GETATTR: _FREQUENT,
    Opcode.UNLINK: _FREQUENT,
    Opcode.RMDIR: _FREQUENT,
    **dict.fromkeys(
        (Opcode.SETATTR, Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.CREATE), _ATTRIBUTES
    ),
    Opcode.READDIRPLUS: Route(Way.OURS, "answers attributes; and names that bring no inode"),
    **dict.fromkeys(
        (
            Opcode.OPEN,
            Opcode.FLUSH,
            Opcode.RELEASE,
            Opcode.FSYNC,
            Opcode.OPENDIR,
            Opcode.RELEASEDIR,
        ),
        _HANDLES,
    ),
    Opcode.READ: Route(Way.OURS, "bulk data: written from where it is, without the interpreter"),
    Opcode.WRITE: Route(Way.OURS, "bulk data: from the request to the file with one copy"),
    Opcode.FORGET: Route(Way.OURS, "no reply; it needs no task"),
    Opcode.BATCH_FORGET: Route(Way.OURS, "65,000 inodes in one message: in steps"),
    Opcode.INTERRUPT: Route(Way.OURS, "libfuse would note it for itself"),
    Opcode.NOTIFY_REPLY: Route(Way.OURS, "no reply; nothing is asked for, so it is dropped"),
    Opcode.FALLOCATE: _NOT_IN_PYFUSE3,
    Opcode.LSEEK: _NOT_IN_PYFUSE3,
    Opcode.COPY_FILE_RANGE: _NOT_IN_PYFUSE3,
    Opcode.COPY_FILE_RANGE_64: _NOT_IN_PYFUSE3,
    Opcode.SYNCFS: _NOT_IN_PYFUSE3,
    **dict.fromkeys(
        (Opcode.GETXATTR, Opcode.SETXATTR, Opcode.LISTXATTR, Opcode.REMOVEXATTR), _NO_ATTRIBUTES
    ),
    Opcode.FSYNCDIR: Route(
        Way.NOT_SUPPORTED, "remembered: success; names are in S3 when they are answered"
    ),
    Opcode.IOCTL: Route(
        Way.NOT_SUPPORTED,
        "not remembered; open() of Python asks each time whether it is a terminal",
    ),
    Opcode.POLL: Route(Way.NOT_SUPPORTED, "remembered: always ready"),
    Opcode.ACCESS: Route(Way.NOT_SUPPORTED, "remembered: the kernel decides, by the modes"),
    Opcode.TMPFILE: Route(Way.NOT_SUPPORTED, "remembered: EOPNOTSUPP, and programs take names"),
    Opcode.STATX: Route(Way.NOT_SUPPORTED, "remembered: GETATTR, without a time of birth"),
    **dict.fromkeys(
        (Opcode.RENAME, Opcode.RENAME2, Opcode.READLINK, Opcode.LINK, Opcode.STATFS), _SELDOM
    ),
    **dict.fromkeys(
        (
            Opcode.READDIR,
            Opcode.GETLK,
            Opcode.SETLK,
            Opcode.SETLKW,
            Opcode.BMAP,
            Opcode.DESTROY,
            Opcode.SETUPMAPPING,
            Opcode.REMOVEMAPPING,
        ),
        _NEVER_SENT,
    ),
    Opcode.INIT: Route(Way.OURS, "it comes once, from node; see `fuse.negotiation`"),
}


def way(opcode: int) -> Way:
    """Of any number that a kernel may send."""
    route = ROUTES.get(opcode)  # type: ignore[call-overload] # an Opcode is its number
    return Way.NOT_SUPPORTED if route is None else route.way
