"""Replies and notifications for the kernel: plain functions that build whole messages.

The only place that turns attributes into the kernel's structures.
"""

from collections.abc import Sequence
from struct import Struct

from csi_s3.fs.names.attributes import Attributes
from csi_s3.fuse.protocol import (
    ATTR,
    ATTR_OUT,
    COPY_FILE_RANGE_OUT,
    DIRENT,
    ENTRY_OUT,
    LSEEK_OUT,
    NOTIFY_INVAL_ENTRY_OUT,
    NOTIFY_INVAL_INODE_OUT,
    NOTIFY_PRUNE_OUT,
    OPEN_OUT,
    OUT_HEADER,
    MessageBytes,
    NotifyCode,
    Opcode,
)

BLOCK_BYTES = 4096
FOREVER_S = 1e9

_WRITE_REPLY = Struct("<IiQII")
_ATTR_REPLY = Struct("<IiQQII")  # without ATTR
_ATTR_REPLY_BYTES = OUT_HEADER.size + ATTR_OUT.size
_TTL = Struct("<Q4xI")  # of the attributes, in ENTRY_OUT: seconds, nanoseconds
_TTL_AT = 24
_NS = 10**9


def build_header(unique: int, body_bytes: int) -> bytes:
    """Of a reply without an error, before a body of so many bytes."""
    return OUT_HEADER.pack(OUT_HEADER.size + body_bytes, 0, unique)


def build_error(unique: int, number: int) -> bytes:
    """The whole reply. number: of errno, or 0 for success without a body."""
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def build_bytes_reply(unique: int, body: MessageBytes) -> bytes:
    """Of READDIRPLUS."""
    return build_header(unique, len(body)) + body


# names and attributes


def _entry(a: Attributes) -> bytes:
    """ENTRY_OUT, which ends with ATTR. Written out, for it is made for each name of a directory."""
    ino, generation, mode, size, nlink, uid, gid, mtime_ns, atime_ns, ttl_s = a
    mtime, mtime_ns = divmod(mtime_ns, _NS)
    atime, atime_ns = divmod(atime_ns, _NS)
    ttl_s = min(ttl_s, FOREVER_S)
    ttl = int(ttl_s)
    ttl_ns = int((ttl_s - ttl) * _NS)
    blocks = -(-size // 512)
    # fmt: off
    return ENTRY_OUT.pack(
        ino, generation, ttl, ttl, ttl_ns, ttl_ns,
        ino, size, blocks, atime, mtime, mtime, atime_ns, mtime_ns, mtime_ns,
        mode, nlink, uid, gid, 0, BLOCK_BYTES, 0,
    )
    # fmt: on


def build_entry_reply(unique: int, a: Attributes) -> bytes:
    """Of LOOKUP, and of what makes a name. An inode 0 means that there is no such name."""
    return build_header(unique, ENTRY_OUT.size) + _entry(a)


def build_attr_reply(unique: int, a: Attributes) -> bytes:
    """Of GETATTR and SETATTR."""
    entry = _entry(a)
    ttl, ttl_ns = _TTL.unpack_from(entry, _TTL_AT)
    return _ATTR_REPLY.pack(_ATTR_REPLY_BYTES, 0, unique, ttl, ttl_ns, 0) + entry[-ATTR.size :]


class DirectoryReply:
    """What READDIRPLUS is answered with: names with their attributes, as many as fit."""

    __slots__ = ("_left", "entries")

    def __init__(self, size: int) -> None:
        """size: bytes, as the kernel asks for."""
        self._left = size
        self.entries = bytearray()

    def add(self, name: bytes, a: Attributes, position: int, *, has_inode: bool = True) -> bool:
        """Add a name if there is room for it: False if there is none.

        position: where the next READDIRPLUS goes on. has_inode: without, the kernel gets no
        reference to an inode (fuse_direntplus_link in Linux), and programs see the number still.
        """
        name_bytes = len(name)
        padded_bytes = -(-name_bytes // 8) * 8  # the structures are multiples of 8
        self._left -= ENTRY_OUT.size + DIRENT.size + padded_bytes
        if self._left < 0:
            return False
        entry = _entry(a)
        if not has_inode:
            entry = bytes(16) + entry[16:]
        dirent = DIRENT.pack(a.ino, position, name_bytes, a.mode >> 12)
        self.entries += entry + dirent + name.ljust(padded_bytes, b"\0")
        return True


# handles


def build_open_reply(unique: int, fh: int, *, flags: int = 0, backing_id: int = 0) -> bytes:
    """Of OPEN and OPENDIR. flags: `OpenFlag`.

    backing_id: of a file that the kernel reads itself (minor 40), else 0.
    """
    return build_header(unique, OPEN_OUT.size) + OPEN_OUT.pack(fh, flags, backing_id)


def build_create_reply(unique: int, fh: int, a: Attributes, *, flags: int) -> bytes:
    body = _entry(a) + OPEN_OUT.pack(fh, flags, 0)
    return build_header(unique, len(body)) + body


# bytes of files


def build_write_reply(unique: int, written: int) -> bytes:
    return _WRITE_REPLY.pack(_WRITE_REPLY.size, 0, unique, written, 0)


def build_lseek_reply(unique: int, offset: int) -> bytes:
    return build_header(unique, LSEEK_OUT.size) + LSEEK_OUT.pack(offset)


def build_copy_file_range_reply(unique: int, copied: int, *, opcode: int) -> bytes:
    """opcode: of the request; COPY_FILE_RANGE is answered as a WRITE, with 32 bits."""
    if opcode == Opcode.COPY_FILE_RANGE:
        return build_write_reply(unique, copied)
    return build_header(unique, COPY_FILE_RANGE_OUT.size) + COPY_FILE_RANGE_OUT.pack(copied)


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
