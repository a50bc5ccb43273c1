"""The kernel's messages on /dev/fuse: their numbers, structures and headers.

Source: include/uapi/linux/fuse.h of Linux, protocol 7.31 (Linux 5.10) to 7.45 (6.18). A structure
has one layout in all of them: fields were added in place of padding, or at the end, where the
message's length tells (`init_messages`). All numbers are of this machine's byte order in the
kernel; csi-s3 runs on little-endian machines only.

`request_messages`, `reply_messages` and `init_messages` are plain functions that read and build
whole messages, header included.
"""

from enum import IntEnum, IntFlag
from struct import Struct
from typing import TypeAlias

MessageBytes: TypeAlias = bytes | bytearray | memoryview

MAJOR = 7
RESEND = 1 << 63  # FUSE_UNIQUE_RESEND: a request that another process may have begun (7.40)


class Opcode(IntEnum):
    """The operations that Linux sends to a file system of this kind."""

    LOOKUP = 1
    FORGET = 2  # no reply
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36  # no reply
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41  # no reply
    BATCH_FORGET = 42  # no reply
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class InitFlag(IntFlag):
    """Flags of INIT and its reply; from bit 32 on they are in the field flags2."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    INIT_EXT = 1 << 30


class SetattrFlag(IntFlag):
    """What a SETATTR changes."""

    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5


class OpenFlag(IntFlag):
    """Of the reply to OPEN and CREATE."""

    KEEP_CACHE = 1 << 1


class NotifyCode(IntEnum):
    """Of messages that no request has asked for."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    PRUNE = 9  # since minor 45


# Each struct fuse_NAME of fuse.h without its last, variable part. The tests compare the sizes.
IN_HEADER = Struct("<IIQQIIIHH")
OUT_HEADER = Struct("<IiQ")
_ATTR = "QQQqqqIIIIIIIIII"
ATTR = Struct("<" + _ATTR)
ATTR_OUT = Struct("<QII" + _ATTR)
ENTRY_OUT = Struct("<QQQQII" + _ATTR)
INIT_IN = Struct("<IIIII44x")
COMPAT_INIT_IN = Struct("<IIII")  # before minor 36
INIT_OUT = Struct("<IIIIHHIIHHIIH22x")
READ_IN = Struct("<QQIIQII")
WRITE_IN = Struct("<QQIIQII")
WRITE_OUT = Struct("<II")
SETATTR_IN = Struct("<IIQQQqqqIIIIIIII")
MKNOD_IN = Struct("<IIII")
MKDIR_IN = Struct("<II")
OPEN_IN = Struct("<II")
CREATE_IN = Struct("<IIII")
RELEASE_IN = Struct("<QIIQ")
FLUSH_IN = Struct("<QIIQ")
FSYNC_IN = Struct("<QII")
FORGET_IN = Struct("<Q")
BATCH_FORGET_IN = Struct("<II")
FORGET_ONE = Struct("<QQ")
INTERRUPT_IN = Struct("<Q")
OPEN_OUT = Struct("<QIi")
DIRENT = Struct("<QQII")
FALLOCATE_IN = Struct("<QQQII")
LSEEK_IN = Struct("<QQII")
LSEEK_OUT = Struct("<Q")
COPY_FILE_RANGE_IN = Struct("<QQQQQQQ")
COPY_FILE_RANGE_OUT = Struct("<Q")
NOTIFY_INVAL_INODE_OUT = Struct("<Qqq")
NOTIFY_INVAL_ENTRY_OUT = Struct("<QII")
NOTIFY_PRUNE_OUT = Struct("<IIQ")

BODY_AT = IN_HEADER.size
WRITE_DATA_AT = BODY_AT + WRITE_IN.size

_HEADER = Struct("<IIQQIII")  # of IN_HEADER: what is of use


def parse_header(message: MessageBytes) -> tuple[int, int, int, int, int, int, int]:
    """What every request begins with: length of the message, opcode, unique, inode, uid, gid, pid.

    A plain tuple: it is parsed for each request.
    """
    return _HEADER.unpack_from(message)


def opcode_name(opcode: int) -> str:
    """For logs and names of tasks."""
    try:
        return Opcode(opcode).name
    except ValueError:
        return f"opcode {opcode}"


def parse_reply_header(message: MessageBytes) -> tuple[int, int, int]:
    """Length of the message, error (below 0, or 0), unique."""
    return OUT_HEADER.unpack_from(message)
