"""The structures of /dev/fuse: sizes as in fuse.h, and messages of a real kernel read and built."""

import re
import struct
from pathlib import Path

import pytest

from csi_s3.fuse import negotiation, protocol
from csi_s3.fuse.protocol import InitFlag, InitRequest, Opcode
from csi_s3.fuse.routes import ROUTES, Way, way

CORPUS = sorted((Path(__file__).parent / "fuse_corpus").glob("*.bin"))
# include/uapi/linux/fuse.h of Linux 6.18, by pahole.
SIZES = {
    "IN_HEADER": 40,
    "OUT_HEADER": 16,
    "ATTR": 88,
    "INIT_IN": 64,
    "INIT_OUT": 64,
    "READ_IN": 40,
    "WRITE_IN": 40,
    "WRITE_OUT": 8,
    "FORGET_IN": 8,
    "BATCH_FORGET_IN": 8,
    "FORGET_ONE": 16,
    "INTERRUPT_IN": 8,
    "FLUSH_IN": 24,
    "OPEN_OUT": 16,
    "ENTRY_OUT": 128,
    "DIRENT": 24,
    "FALLOCATE_IN": 32,
    "LSEEK_IN": 24,
    "LSEEK_OUT": 8,
    "COPY_FILE_RANGE_IN": 56,
    "COPY_FILE_RANGE_OUT": 8,
    "NOTIFY_INVAL_INODE_OUT": 24,
    "NOTIFY_INVAL_ENTRY_OUT": 16,
    "NOTIFY_PRUNE_OUT": 16,
}


def messages(path: Path) -> list[tuple[str, bytes]]:
    """Direction and message, of one recorded kernel."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<I", data, 1)
        found.append((chr(data[0]), data[1 : 1 + length]))
        data = data[1 + length :]
    return found


@pytest.fixture(params=CORPUS, ids=lambda path: path.stem)
def recorded(request) -> dict[tuple[str, int], bytes]:
    """By direction and opcode; replies that are errors are left out."""
    found, opcodes = {}, {}
    for direction, message in messages(request.param):
        if direction == ">":
            _, opcode, unique, *_ = protocol.parse_header(message)
            opcodes[unique] = opcode
            found[">", opcode] = message
        else:
            _, error, unique = protocol.parse_reply_header(message)
            if not error and unique in opcodes:
                found["<", opcodes[unique]] = message
    return found


def test_every_structure_has_the_size_of_the_header_file():
    found = {
        name: value.size
        for name, value in vars(protocol).items()
        if isinstance(value, struct.Struct) and not name.startswith("_")
    }
    assert found == SIZES


def test_the_opcodes_are_those_of_the_header_file_of_this_machine():
    """It may be older: then it has fewer."""
    header = Path("/usr/include/linux/fuse.h").read_text(encoding="ascii")
    pairs = re.findall(r"^\tFUSE_(\w+)\s*= (\d+),", header, re.MULTILINE)
    there = {name: int(number) for name, number in pairs if name in Opcode.__members__}
    assert len(there) > 45
    assert there == {name: Opcode[name] for name in there}


def test_the_corpus_has_the_common_operations(recorded):
    names = """LOOKUP FORGET GETATTR SETATTR READLINK SYMLINK MKNOD MKDIR UNLINK RMDIR RENAME LINK
        OPEN READ WRITE STATFS RELEASE FSYNC GETXATTR FLUSH INIT OPENDIR RELEASEDIR CREATE
        FALLOCATE READDIRPLUS LSEEK COPY_FILE_RANGE_64 TMPFILE"""
    there = {opcode for direction, opcode in recorded if direction == ">"}
    assert {Opcode[name] for name in names.split()} - there == set()


def test_each_recorded_request_has_its_own_length_and_an_opcode_that_is_known(recorded):
    for (direction, opcode), message in recorded.items():
        if direction == ">":
            length, found, unique, *_ = protocol.parse_header(message)
            assert (length, found) == (len(message), opcode)
            assert opcode in set(Opcode)
            assert unique
        else:
            assert protocol.parse_reply_header(message)[0] == len(message)


def test_init_is_read_and_built(recorded):
    message = recorded[">", Opcode.INIT]
    request = protocol.parse_init(message)
    assert request.major == 7
    assert request.minor >= 31
    assert request.flags >> 32, "flags2 of a kernel with INIT_EXT"
    assert protocol.build_init(request) == message
    reply = protocol.build_init_reply(request.unique, negotiation.answer(request))
    assert reply == recorded["<", Opcode.INIT]
    assert protocol.parse_init_reply(reply) == negotiation.answer(request)


def test_a_short_init_of_an_older_kernel_has_no_further_flags(recorded):
    request = protocol.parse_init(recorded[">", Opcode.INIT][:56])
    assert request == protocol.parse_init(recorded[">", Opcode.INIT])._replace(
        flags=request.flags & 0xFFFFFFFF
    )
    assert request.flags < 1 << 32


def test_flags2_counts_with_init_ext_only():
    bare = InitRequest(2, 7, 31, 0, 1 << 33 | InitFlag.MAX_PAGES)
    assert protocol.parse_init(protocol.build_init(bare)).flags == InitFlag.MAX_PAGES


def test_read_and_write_are_read_and_answered(recorded):
    assert protocol.parse_range(recorded[">", Opcode.READ])[1:] == (0, 4096)
    message = recorded[">", Opcode.WRITE]
    _, offset, size = protocol.parse_range(message)
    assert (offset, size) == (0, 10)
    assert message[protocol.WRITE_DATA_AT :] == b"0123456789"
    reply = recorded["<", Opcode.WRITE]
    assert protocol.build_write_reply(protocol.parse_reply_header(reply)[2], 10) == reply
    reply = recorded["<", Opcode.READ]
    header = protocol.build_header(protocol.parse_reply_header(reply)[2], len(reply) - 16)
    assert header == reply[:16]
    assert reply[16:].startswith(b"01234")


def test_forget_is_read(recorded):
    ino, count = protocol.parse_forget(recorded[">", Opcode.FORGET])
    assert ino > 1
    assert count >= 1


def test_a_forget_of_many_is_read():
    pairs = [(n, n + 1) for n in range(2, 65_000)]
    body = struct.pack("<II", len(pairs), 0) + b"".join(struct.pack("<QQ", *p) for p in pairs)
    header = struct.pack("<IIQQIIIHH", 40 + len(body), Opcode.BATCH_FORGET, 9, 0, 0, 0, 0, 0, 0)
    assert list(protocol.parse_batch_forget(header + body)) == pairs


def test_an_interrupt_names_its_request():
    message = struct.pack("<IIQQIIIHHQ", 48, Opcode.INTERRUPT, 7, 0, 0, 0, 0, 0, 0, 4712)
    assert protocol.parse_interrupt(message) == 4712


def test_an_open_reply_is_read(recorded):
    reply = protocol.parse_open_reply(recorded["<", Opcode.OPEN])
    assert reply.fh >= 1
    assert reply.flags == 1 << 1, "FOPEN_KEEP_CACHE"
    assert reply.backing_id == 0
    assert protocol.parse_open_reply(recorded["<", Opcode.CREATE]).fh >= 1


def test_lseek_and_fallocate_are_read(recorded):
    assert protocol.parse_lseek(recorded[">", Opcode.LSEEK])[1:] == (0, 3)
    assert protocol.parse_fallocate(recorded[">", Opcode.FALLOCATE])[1:] == (0, 10, 0)
    assert protocol.build_lseek_reply(5, 77) == struct.pack("<IiQQ", 24, 0, 5, 77)


@pytest.mark.parametrize("opcode", [Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64])
def test_copy_file_range_is_read_and_answered(recorded, opcode):
    message = recorded[">", Opcode.COPY_FILE_RANGE_64]
    asked = protocol.parse_copy_file_range(message)
    assert asked[1] == 0
    assert asked[3:] == (0, 3)
    reply = protocol.build_copy_file_range_reply(5, 3, opcode=opcode)
    assert reply == struct.pack("<IiQQ", 24, 0, 5, 3)


def test_a_readdir_asks_for_less_where_it_asks_for_too_much(recorded):
    message = bytearray(recorded[">", Opcode.READDIRPLUS])
    asked = protocol.parse_range(message)[2]
    protocol.limit_readdir(message, asked)
    assert message == recorded[">", Opcode.READDIRPLUS]
    protocol.limit_readdir(message, 1000)
    assert protocol.parse_range(message) == (*protocol.parse_range(recorded[">", 44])[:2], 1000)
    assert protocol.parse_header(message) == protocol.parse_header(recorded[">", 44])


def entry(nodeid: int, generation: int, name: bytes) -> bytes:
    head = protocol.ENTRY_OUT.pack(nodeid, generation, 1, 2, 3, 4)
    return head + (protocol.DIRENT.pack(nodeid, 9, len(name), 4) + name).ljust(
        -(-(24 + len(name)) // 8) * 8, b"\0"
    )


def test_entries_with_a_generation_bring_no_inode_and_keep_their_number():
    mark = 0xFFC1_D3B5_FE97_C0A1
    odd = mark.to_bytes(8, "little")  # as a part of a name, it changes nothing
    names = [b"a", b"bcdefgh", odd, b"seven77", b"x" * 255]
    body = b"".join(entry(n, mark if n in (3, 5) else 8, name) for n, name in enumerate(names, 1))
    expected = b"".join(
        entry(n, 8, name) if n not in (3, 5) else bytes(16) + entry(n, mark, name)[16:]
        for n, name in enumerate(names, 1)
    )
    reply = bytearray(protocol.build_header(3, len(body)) + body)
    protocol.unlink_entries(reply, mark)
    assert bytes(reply[16:]) == expected


def test_a_recorded_readdirplus_without_such_entries_stays_as_it_is(recorded):
    reply = bytearray(recorded["<", Opcode.READDIRPLUS])
    protocol.unlink_entries(reply, 0xFFC1_D3B5_FE97_C0A1)
    assert reply == recorded["<", Opcode.READDIRPLUS]


@pytest.mark.parametrize("minor", [31, 36, 40, 45, 46])
def test_init_is_answered_to_each_kernel_within_what_it_offers(minor):
    offered = 0x73FFFFFB if minor >= 36 else 0x33FFFFFB
    answer = negotiation.answer(InitRequest(2, 7, minor, 1 << 17, offered))
    assert answer.minor == min(minor, 45)
    assert answer.flags & ~offered == 0
    assert answer.flags & InitFlag.PARALLEL_DIROPS
    assert (answer.max_write, answer.max_pages) == (1 << 20, 256)


def test_a_kernel_that_lacks_what_is_needed_is_refused():
    with pytest.raises(ValueError, match="DO_READDIRPLUS"):
        negotiation.answer(InitRequest(2, 7, 31, 0, 0xFFFFFFFF & ~(1 << 13)))
    with pytest.raises(ValueError, match="protocol 8"):
        negotiation.answer(InitRequest(2, 8, 0, 0, 0xFFFFFFFF))


def test_libfuse_is_offered_no_splicing_and_no_extensions(recorded):
    offer = negotiation.for_libfuse(protocol.parse_init(recorded[">", Opcode.INIT]))
    splice = 0b111 << 7
    assert offer.minor == 31
    assert offer.flags & (splice | InitFlag.INIT_EXT) == 0
    assert offer.flags & InitFlag.DO_READDIRPLUS


def test_every_operation_has_a_way_and_a_reason():
    assert set(ROUTES) == set(Opcode)
    assert all(len(route.why) > 10 for route in ROUTES.values())
    assert way(54) is Way.PYFUSE3
