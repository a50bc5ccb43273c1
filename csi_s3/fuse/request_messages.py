"""The kernel's requests: plain functions that read what an operation needs of a message.

A name is a copy; all else refers to nothing of the message, unless its docstring says so.
"""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from csi_s3.fuse.protocol import (
    BATCH_FORGET_IN,
    BODY_AT,
    COPY_FILE_RANGE_IN,
    CREATE_IN,
    FALLOCATE_IN,
    FLUSH_IN,
    FORGET_IN,
    FORGET_ONE,
    INTERRUPT_IN,
    LSEEK_IN,
    MKDIR_IN,
    MKNOD_IN,
    SETATTR_IN,
    MessageBytes,
    Opcode,
    SetattrFlag,
    parse_header,
)

_RANGE = Struct("<QQI")  # of READ_IN, WRITE_IN: handle, offset, size
_HANDLE = Struct("<Q")  # of FLUSH_IN, FSYNC_IN, RELEASE_IN
_FLAGS = Struct("<I")  # of OPEN_IN, CREATE_IN, MKNOD_IN
_MOST_COPIED_32 = 0xFFFFF000
_NS = 10**9

# names and attributes


def parse_name(message: MessageBytes) -> bytes:
    """Of LOOKUP, UNLINK and RMDIR: a name in the directory of the header."""
    return bytes(message[BODY_AT:-1])


def parse_mkdir(message: MessageBytes) -> bytes:
    """The name; modes come from mount options."""
    return bytes(message[BODY_AT + MKDIR_IN.size : -1])


def parse_mknod(message: MessageBytes) -> tuple[bytes, int]:
    """Name, and mode with its type bits."""
    return bytes(message[BODY_AT + MKNOD_IN.size : -1]), _FLAGS.unpack_from(message, BODY_AT)[0]


def parse_create(message: MessageBytes) -> tuple[bytes, int]:
    """Name, and flags of open(2)."""
    return bytes(message[BODY_AT + CREATE_IN.size : -1]), _FLAGS.unpack_from(message, BODY_AT)[0]


def parse_symlink(message: MessageBytes) -> tuple[bytes, bytes]:
    """Name and target."""
    name, _, target = bytes(message[BODY_AT:-1]).partition(b"\0")
    return name, target


class Setattr(NamedTuple):
    """size: bytes. mtime_ns, atime_ns: since 1970. None: it stays as it is."""

    size: int | None
    mtime_ns: int | None
    atime_ns: int | None


def parse_setattr(message: MessageBytes) -> Setattr:
    """What is to change of size and times; mode and owner come from mount options.

    Where a program sets a time to now, the kernel says when that is.
    """
    fields = SETATTR_IN.unpack_from(message, BODY_AT)
    valid, size = fields[0], fields[3]
    atime, mtime, _, atime_ns, mtime_ns, *_ = fields[5:]
    return Setattr(
        size=size if valid & SetattrFlag.SIZE else None,
        mtime_ns=mtime * _NS + mtime_ns if valid & SetattrFlag.MTIME else None,
        atime_ns=atime * _NS + atime_ns if valid & SetattrFlag.ATIME else None,
    )


# handles


def parse_open(message: MessageBytes) -> int:
    """Flags of open(2)."""
    return int(_FLAGS.unpack_from(message, BODY_AT)[0])


def parse_handle(message: MessageBytes) -> int:
    """Of FLUSH, FSYNC, RELEASE and RELEASEDIR."""
    return int(_HANDLE.unpack_from(message, BODY_AT)[0])


def parse_range(message: MessageBytes) -> tuple[int, int, int]:
    """Of READ, READDIRPLUS and WRITE, whose data begin at WRITE_DATA_AT: handle, offset, size."""
    return _RANGE.unpack_from(message, BODY_AT)


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
