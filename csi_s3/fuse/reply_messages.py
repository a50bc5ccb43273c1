"""Replies and notifications for the kernel: plain functions that build whole messages.

The only place that turns attributes into the kernel's structures.
"""

from collections.abc import Sequence
from struct import Struct

from csi_s3.fs.names.attributes import Attributes
from csi_s3.fuse.protocol import (
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


def _attributes(a: Attributes) -> tuple[int, ...]:
    """The fields of ATTR."""
    ino, _, mode, size, nlink, uid, gid, mtime_ns, atime_ns, _ = a
    mtime, mtime_ns = divmod(mtime_ns, _NS)
    atime, atime_ns = divmod(atime_ns, _NS)
    blocks = -(-size // 512)
    times = (atime, mtime, mtime, atime_ns, mtime_ns, mtime_ns)
    return (ino, size, blocks, *times, mode, nlink, uid, gid, 0, BLOCK_BYTES, 0)


def _ttl(seconds: float) -> tuple[int, int]:
    """Seconds and nanoseconds for which the kernel may use an answer."""
    seconds = min(seconds, FOREVER_S)
    whole = int(seconds)
    return whole, int((seconds - whole) * _NS)


def _entry(a: Attributes) -> bytes:
    whole_s, ns = _ttl(a.ttl_s)
    return ENTRY_OUT.pack(a.ino, a.generation, whole_s, whole_s, ns, ns, *_attributes(a))


def build_entry_reply(unique: int, a: Attributes) -> bytes:
    """Of LOOKUP, and of what makes a name. An inode 0 means that there is no such name."""
    return build_header(unique, ENTRY_OUT.size) + _entry(a)


def build_attr_reply(unique: int, a: Attributes) -> bytes:
    """Of GETATTR and SETATTR."""
    return build_header(unique, ATTR_OUT.size) + ATTR_OUT.pack(*_ttl(a.ttl_s), 0, *_attributes(a))


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
        length = DIRENT.size + len(name)
        padding = -length % 8
        self._left -= ENTRY_OUT.size + length + padding
        if self._left < 0:
            return False
        entry = _entry(a) if has_inode else bytes(16) + _entry(a)[16:]
        dirent = DIRENT.pack(a.ino, position, len(name), a.mode >> 12)
        self.entries += entry + dirent + name + bytes(padding)
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
