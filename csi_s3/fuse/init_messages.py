"""INIT and its reply, which fix the protocol of a mount."""

from typing import NamedTuple

from csi_s3.fuse.protocol import (
    BODY_AT,
    COMPAT_INIT_IN,
    IN_HEADER,
    INIT_IN,
    INIT_OUT,
    MAJOR,
    OUT_HEADER,
    InitFlag,
    MessageBytes,
    Opcode,
    parse_header,
)
from csi_s3.fuse.reply_messages import build_header


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
        major, minor, max_readahead, flags = COMPAT_INIT_IN.unpack_from(message, BODY_AT)
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
