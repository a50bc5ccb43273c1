"""Which way each operation goes, and why; what is not in this table goes to pyfuse3 as well."""

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


_NAMES_AND_ATTRIBUTES = Route(
    Way.PYFUSE3, "names and attributes: small messages of many forms, which pyfuse3 has"
)
_HANDLES = Route(Way.PYFUSE3, "no data, and seldom next to READ and WRITE")
_NOT_IN_PYFUSE3 = Route(Way.OURS, "pyfuse3 would answer ENOSYS, which the kernel remembers")
_NEVER_SENT = Route(Way.PYFUSE3, "INIT asks for nothing that needs it; libfuse answers ENOSYS")

ROUTES: Mapping[Opcode, Route] = {
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
    Opcode.TMPFILE: Route(Way.NOT_SUPPORTED, "remembered: EOPNOTSUPP, and programs take names"),
    Opcode.STATX: Route(Way.NOT_SUPPORTED, "remembered: GETATTR, without a time of birth"),
    **dict.fromkeys(
        (
            Opcode.LOOKUP,
            Opcode.GETATTR,
            Opcode.SETATTR,
            Opcode.READLINK,
            Opcode.SYMLINK,
            Opcode.MKNOD,
            Opcode.MKDIR,
            Opcode.UNLINK,
            Opcode.RMDIR,
            Opcode.RENAME,
            Opcode.RENAME2,
            Opcode.LINK,
            Opcode.STATFS,
            Opcode.SETXATTR,
            Opcode.GETXATTR,
            Opcode.LISTXATTR,
            Opcode.REMOVEXATTR,
            Opcode.OPENDIR,
            Opcode.READDIR,
            Opcode.READDIRPLUS,
            Opcode.RELEASEDIR,
            Opcode.FSYNCDIR,
            Opcode.ACCESS,
        ),
        _NAMES_AND_ATTRIBUTES,
    ),
    **dict.fromkeys(
        (Opcode.OPEN, Opcode.CREATE, Opcode.RELEASE, Opcode.FLUSH, Opcode.FSYNC), _HANDLES
    ),
    **dict.fromkeys(
        (
            Opcode.GETLK,
            Opcode.SETLK,
            Opcode.SETLKW,
            Opcode.BMAP,
            Opcode.DESTROY,
            Opcode.IOCTL,
            Opcode.POLL,
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
    return Way.PYFUSE3 if route is None else route.way
