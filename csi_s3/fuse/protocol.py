"""The kernel's messages on /dev/fuse: structures, numbers, and plain functions for both ways.

Source: include/uapi/linux/fuse.h of Linux, protocol 7.31 (Linux 5.10) to 7.45 (6.18). A structure
has one layout in all of them: fields were added in place of padding, or at the end, where the
message's length tells (`parse_init`). All numbers are of this machine's byte order in the kernel;
csi-s3 runs on little-endian machines only.

Each function takes or returns whole messages, header included. A buffer is not copied, unless its
docstring says so.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum, IntFlag
from struct import Struct
from typing import NamedTuple, TypeAlias

MessageBytes: TypeAlias = bytes | bytearray | memoryview

MAJOR = 7
MIN_READ_BUFFER = 8192  # FUSE_MIN_READ_BUFFER: the kernel fills no smaller one
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


class NotifyCode(IntEnum):
    """Of messages that no request has asked for."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    PRUNE = 9  # since minor 45


# Each struct fuse_NAME of fuse.h without its last, variable part. The tests compare the sizes.
IN_HEADER = Struct("<IIQQIIIHH")
OUT_HEADER = Struct("<IiQ")
ATTR = Struct("<QQQQQQIIIIIIIIII")
INIT_IN = Struct("<IIIII44x")
_COMPAT_INIT_IN = Struct("<IIII")  # without flags2, before minor 36
INIT_OUT = Struct("<IIIIHHIIHHIIH22x")
READ_IN = Struct("<QQIIQII")
WRITE_IN = Struct("<QQIIQII")
WRITE_OUT = Struct("<II")
FORGET_IN = Struct("<Q")
BATCH_FORGET_IN = Struct("<II")
FORGET_ONE = Struct("<QQ")
INTERRUPT_IN = Struct("<Q")
FLUSH_IN = Struct("<QIIQ")
OPEN_OUT = Struct("<QIi")
ENTRY_OUT = Struct("<QQQQII88x")
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
_RANGE = Struct("<QQI")  # of READ_IN, WRITE_IN: handle, offset, size
_READDIR_SIZE = Struct("<I")
_READDIR_SIZE_AT = BODY_AT + 16
_WRITE_REPLY = Struct("<IiQII")
_GENERATION = Struct("<Q")
_GENERATION_AT = 8  # in ENTRY_OUT
_MOST_COPIED_32 = 0xFFFFF000


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


class InitRequest(NamedTuple):
    """flags: both fields in one number."""

    unique: int
    major: int
    minor: int
    max_readahead: int
    flags: int


def parse_init(message: MessageBytes) -> InitRequest:
    _, _, unique, *_ = parse_header(message)
    if len(message) >= BODY_AT + INIT_IN.size:
        major, minor, max_readahead, flags, flags2 = INIT_IN.unpack_from(message, BODY_AT)
    else:
        major, minor, max_readahead, flags = _COMPAT_INIT_IN.unpack_from(message, BODY_AT)
        flags2 = 0
    if not flags & InitFlag.INIT_EXT:
        flags2 = 0  # the kernel reads and writes it with that flag only
    return InitRequest(unique, major, minor, max_readahead, flags | flags2 << 32)


def build_init(request: InitRequest) -> bytes:
    """The request, as a kernel would send it."""
    body = INIT_IN.pack(
        request.major,
        request.minor,
        request.max_readahead,
        request.flags & 0xFFFFFFFF,
        request.flags >> 32,
    )
    length = BODY_AT + len(body)
    return IN_HEADER.pack(length, Opcode.INIT, request.unique, 0, 0, 0, 0, 0, 0) + body


class InitReply(NamedTuple):
    """max_write, max_readahead: bytes. time_gran: nanoseconds. map_alignment: log2 of bytes.

    max_stack_depth: for FUSE_PASSTHROUGH (minor 40). request_timeout: seconds (minor 43).
    """

    minor: int
    max_readahead: int
    flags: int
    max_background: int
    congestion_threshold: int
    max_write: int
    time_gran: int
    max_pages: int
    map_alignment: int = 0
    max_stack_depth: int = 0
    request_timeout: int = 0


def build_init_reply(unique: int, reply: InitReply) -> bytes:
    body = INIT_OUT.pack(
        MAJOR,
        reply.minor,
        reply.max_readahead,
        reply.flags & 0xFFFFFFFF,
        reply.max_background,
        reply.congestion_threshold,
        reply.max_write,
        reply.time_gran,
        reply.max_pages,
        reply.map_alignment,
        reply.flags >> 32,
        reply.max_stack_depth,
        reply.request_timeout,
    )
    return build_header(unique, len(body)) + body


def parse_init_reply(message: MessageBytes) -> InitReply:
    """Raises struct.error where it is an error, or shorter than today's."""
    fields = INIT_OUT.unpack_from(message, OUT_HEADER.size)
    minor, max_readahead, flags = fields[1:4]
    return InitReply(minor, max_readahead, flags | fields[9] << 32, *fields[4:9], *fields[10:12])


def build_header(unique: int, body_bytes: int) -> bytes:
    """Of a reply without an error, before a body of so many bytes."""
    return OUT_HEADER.pack(OUT_HEADER.size + body_bytes, 0, unique)


def build_error(unique: int, number: int) -> bytes:
    """The whole reply. number: of errno, or 0 for success without a body."""
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def parse_reply_header(message: MessageBytes) -> tuple[int, int, int]:
    """Length of the message, error (below 0, or 0), unique."""
    return OUT_HEADER.unpack_from(message)


# bytes of files


def parse_range(message: MessageBytes) -> tuple[int, int, int]:
    """Of READ and WRITE: handle, offset, size. The data of a WRITE begin at WRITE_DATA_AT."""
    return _RANGE.unpack_from(message, BODY_AT)


def build_write_reply(unique: int, written: int) -> bytes:
    return _WRITE_REPLY.pack(_WRITE_REPLY.size, 0, unique, written, 0)


class Fallocate(NamedTuple):
    """mode: of fallocate(2)."""

    fh: int
    offset: int
    length: int
    mode: int


def parse_fallocate(message: MessageBytes) -> Fallocate:
    return Fallocate(*FALLOCATE_IN.unpack_from(message, BODY_AT)[:4])


class Lseek(NamedTuple):
    """whence: SEEK_DATA or SEEK_HOLE; the kernel answers the others itself."""

    fh: int
    offset: int
    whence: int


def parse_lseek(message: MessageBytes) -> Lseek:
    return Lseek(*LSEEK_IN.unpack_from(message, BODY_AT)[:3])


def build_lseek_reply(unique: int, offset: int) -> bytes:
    return build_header(unique, LSEEK_OUT.size) + LSEEK_OUT.pack(offset)


class CopyFileRange(NamedTuple):
    """From a handle and offset to another, so many bytes."""

    fh_in: int
    off_in: int
    fh_out: int
    off_out: int
    length: int


def parse_copy_file_range(message: MessageBytes) -> CopyFileRange:
    """Of COPY_FILE_RANGE, and of COPY_FILE_RANGE_64, whose reply has room for a larger number."""
    fh_in, off_in, _, fh_out, off_out, length, _ = COPY_FILE_RANGE_IN.unpack_from(message, BODY_AT)
    if parse_header(message)[1] == Opcode.COPY_FILE_RANGE:
        length = min(length, _MOST_COPIED_32)
    return CopyFileRange(fh_in, off_in, fh_out, off_out, length)


def build_copy_file_range_reply(unique: int, copied: int, *, opcode: int) -> bytes:
    """opcode: of the request; COPY_FILE_RANGE is answered as a WRITE, with 32 bits."""
    if opcode == Opcode.COPY_FILE_RANGE:
        return build_write_reply(unique, copied)
    return build_header(unique, COPY_FILE_RANGE_OUT.size) + COPY_FILE_RANGE_OUT.pack(copied)


# what the kernel forgets, and interrupts


def parse_forget(message: MessageBytes) -> tuple[int, int]:
    """Inode, and how many references to it are given back."""
    (count,) = FORGET_IN.unpack_from(message, BODY_AT)
    return parse_header(message)[3], count


def parse_batch_forget(message: MessageBytes) -> Iterator[tuple[int, int]]:
    """Pairs as of `parse_forget`; the message must not change until they are read."""
    (count, _) = BATCH_FORGET_IN.unpack_from(message, BODY_AT)
    start = BODY_AT + BATCH_FORGET_IN.size
    pairs = memoryview(message)[start : start + count * FORGET_ONE.size]
    return FORGET_ONE.iter_unpack(pairs)


def parse_interrupt(message: MessageBytes) -> int:
    """The number of the request whose caller got a signal."""
    (unique,) = INTERRUPT_IN.unpack_from(message, BODY_AT)
    return int(unique)


def parse_closer(message: MessageBytes) -> int:
    """Of FLUSH: lock_owner, which is the same for all descriptors that a process closes."""
    *_, lock_owner = FLUSH_IN.unpack_from(message, BODY_AT)
    return int(lock_owner)


# directories


def limit_readdir(message: bytearray | memoryview, most_bytes: int) -> None:
    """Let READDIR or READDIRPLUS ask for no more than so many bytes; changes the message."""
    (size,) = _READDIR_SIZE.unpack_from(message, _READDIR_SIZE_AT)
    if size > most_bytes:
        _READDIR_SIZE.pack_into(message, _READDIR_SIZE_AT, most_bytes)


def unlink_entries(reply: bytearray, generation: int) -> None:
    """Let entries of a READDIRPLUS reply bring no inode where they have that generation.

    A nodeid of 0 in struct fuse_entry_out means that the kernel links nothing (fuse_direntplus_link
    in Linux), while the number in struct fuse_dirent is what programs see, and must not be 0.
    """
    mark = _GENERATION.pack(generation)
    if reply.find(mark, OUT_HEADER.size) < 0:
        return
    at, end = OUT_HEADER.size, len(reply)
    while at + ENTRY_OUT.size + DIRENT.size <= end:
        if reply[at + _GENERATION_AT : at + _GENERATION_AT + _GENERATION.size] == mark:
            reply[at : at + _GENERATION_AT + _GENERATION.size] = bytes(16)
        name_bytes = DIRENT.unpack_from(reply, at + ENTRY_OUT.size)[2]
        at += ENTRY_OUT.size + (DIRENT.size + name_bytes + 7) // 8 * 8


class OpenReply(NamedTuple):
    """flags: FOPEN_*. backing_id: of a file that the kernel reads itself (7.40), else 0."""

    fh: int
    flags: int
    backing_id: int = 0


def parse_open_reply(message: MessageBytes) -> OpenReply:
    """Of OPEN; CREATE has the entry before it."""
    return OpenReply(*OPEN_OUT.unpack_from(message, len(message) - OPEN_OUT.size))


# notifications


def _build_notification(code: NotifyCode, body: bytes) -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), code, 0) + body


def build_inval_inode(ino: int, *, attr_only: bool) -> bytes:
    """Drop an inode's attributes, and its pages unless attr_only."""
    offset = -1 if attr_only else 0
    return _build_notification(NotifyCode.INVAL_INODE, NOTIFY_INVAL_INODE_OUT.pack(ino, offset, 0))


def build_inval_entry(parent: int, name: bytes) -> bytes:
    """Look a name up before its next use."""
    body = NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0"
    return _build_notification(NotifyCode.INVAL_ENTRY, body)


def build_prune(inodes: Sequence[int]) -> bytes:
    """Forget inodes that are not in use; since minor 45."""
    numbers = Struct(f"<{len(inodes)}Q").pack(*inodes)
    return _build_notification(NotifyCode.PRUNE, NOTIFY_PRUNE_OUT.pack(len(inodes), 0, 0) + numbers)
