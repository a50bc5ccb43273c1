"""The structures of /dev/fuse: sizes as in fuse.h, and messages of a real kernel read and built."""

import os
import re
import stat
import struct
from pathlib import Path

import pytest

from csi_s3.fs.names.attributes import Attributes
from csi_s3.fuse import init_messages, negotiation, protocol, reply_messages, request_messages
from csi_s3.fuse.init_messages import InitRequest
from csi_s3.fuse.protocol import InitFlag, Opcode, OpenFlag
from csi_s3.fuse.routes import ROUTES, Way, way

CORPUS = sorted((Path(__file__).parent / "fuse_corpus").glob("*.bin"))
LARGEFILE = 0o100000  # O_LARGEFILE of x86 kernels; Python's is that of its C library, 0
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
    "SETATTR_IN": 88,
    "MKNOD_IN": 16,
    "MKDIR_IN": 8,
    "OPEN_IN": 8,
    "CREATE_IN": 16,
    "RELEASE_IN": 24,
    "FLUSH_IN": 24,
    "FSYNC_IN": 16,
    "ATTR_OUT": 104,
    "COMPAT_INIT_IN": 16,
    "FORGET_IN": 8,
    "BATCH_FORGET_IN": 8,
    "FORGET_ONE": 16,
    "INTERRUPT_IN": 8,
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
    request = init_messages.parse_init(message)
    assert request.major == 7
    assert request.minor >= 31
    assert request.flags >> 32, "flags2 of a kernel with INIT_EXT"
    assert init_messages.build_init(request) == message
    reply = negotiation.answer(request)
    assert init_messages.parse_init_reply(init_messages.build_init_reply(1, reply)) == reply
    then = reply._replace(flags=reply.flags | InitFlag.ASYNC_DIO)  # when it was recorded
    built = init_messages.build_init_reply(request.unique, then)
    assert built == recorded["<", Opcode.INIT]


def test_a_short_init_of_an_older_kernel_has_no_further_flags(recorded):
    request = init_messages.parse_init(recorded[">", Opcode.INIT][:56])
    assert request == init_messages.parse_init(recorded[">", Opcode.INIT])._replace(
        flags=request.flags & 0xFFFFFFFF
    )
    assert request.flags < 1 << 32


def test_flags2_counts_with_init_ext_only():
    bare = InitRequest(2, 7, 31, 0, 1 << 33 | InitFlag.MAX_PAGES)
    assert init_messages.parse_init(init_messages.build_init(bare)).flags == InitFlag.MAX_PAGES


def test_read_and_write_are_read_and_answered(recorded):
    assert request_messages.parse_range(recorded[">", Opcode.READ])[1:] == (0, 4096)
    message = recorded[">", Opcode.WRITE]
    _, offset, size = request_messages.parse_range(message)
    assert (offset, size) == (0, 10)
    assert message[protocol.WRITE_DATA_AT :] == b"0123456789"
    reply = recorded["<", Opcode.WRITE]
    assert reply_messages.build_write_reply(protocol.parse_reply_header(reply)[2], 10) == reply
    reply = recorded["<", Opcode.READ]
    header = reply_messages.build_header(protocol.parse_reply_header(reply)[2], len(reply) - 16)
    assert header == reply[:16]
    assert reply[16:].startswith(b"01234")


def test_forget_is_read(recorded):
    ino, count = request_messages.parse_forget(recorded[">", Opcode.FORGET])
    assert ino > 1
    assert count >= 1


def test_a_forget_of_many_is_read():
    pairs = [(n, n + 1) for n in range(2, 65_000)]
    body = struct.pack("<II", len(pairs), 0) + b"".join(struct.pack("<QQ", *p) for p in pairs)
    header = struct.pack("<IIQQIIIHH", 40 + len(body), Opcode.BATCH_FORGET, 9, 0, 0, 0, 0, 0, 0)
    assert list(request_messages.parse_batch_forget(header + body)) == pairs


def test_an_interrupt_names_its_request():
    message = struct.pack("<IIQQIIIHHQ", 48, Opcode.INTERRUPT, 7, 0, 0, 0, 0, 0, 0, 4712)
    assert request_messages.parse_interrupt(message) == 4712


def test_an_open_is_read_and_answered(recorded):
    assert request_messages.parse_open(recorded[">", Opcode.OPEN]) == os.O_RDWR | LARGEFILE
    for opcode, flags in ((Opcode.OPEN, OpenFlag.KEEP_CACHE), (Opcode.OPENDIR, 0)):
        reply = recorded["<", opcode]
        (fh,) = struct.unpack_from("<Q", reply, 16)
        assert fh >= 1
        assert reply_messages.build_open_reply(unique_of(reply), fh, flags=flags) == reply
    passed = reply_messages.build_open_reply(7, 5, flags=1 << 7, backing_id=3)
    assert passed == struct.pack("<IiQQIi", 32, 0, 7, 5, 1 << 7, 3)


@pytest.mark.parametrize("name", ["FLUSH", "FSYNC", "RELEASE", "RELEASEDIR"])
def test_a_handle_is_read(recorded, name):
    message = recorded[">", Opcode[name]]
    assert request_messages.parse_handle(message) == message[40] >= 1


@pytest.mark.parametrize("name", ["LOOKUP", "UNLINK", "RMDIR"])
def test_a_name_is_read(recorded, name):
    expected = {"LOOKUP": b"d", "UNLINK": b"g", "RMDIR": b"e"}
    assert request_messages.parse_name(recorded[">", Opcode[name]]) == expected[name]


def test_what_makes_names_is_read(recorded):
    """The mode of a file is as the kernel masked it."""
    create = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | LARGEFILE
    assert request_messages.parse_create(recorded[">", Opcode.CREATE]) == (b"f", create)
    mode = stat.S_IFREG | 0o600
    assert request_messages.parse_mknod(recorded[">", Opcode.MKNOD]) == (b"i", mode)
    assert request_messages.parse_mkdir(recorded[">", Opcode.MKDIR]) == b"d"
    assert request_messages.parse_symlink(recorded[">", Opcode.SYMLINK]) == (b"l", b"f")


def test_a_change_of_size_and_times_is_read(recorded):
    assert request_messages.parse_setattr(recorded[">", Opcode.SETATTR]) == (5, None, None)
    body = struct.pack("<II5Q", 1 << 4 | 1 << 5, 0, 0, 9, 0, 1, 2**64 - 3)
    body += struct.pack("<Q8I", 0, 7, 8, 9, 0, 0, 0, 0, 0)
    assert request_messages.parse_setattr(bytes(40) + body) == (None, -3 * 10**9 + 8, 10**9 + 7)


def unique_of(reply: bytes) -> int:
    return protocol.parse_reply_header(reply)[2]


def attributes_of(reply: bytes, at: int, *, ttl_s: float, generation: int = 0) -> Attributes:
    """Of struct fuse_attr in a reply that libfuse has built."""
    ino, size, _, atime, mtime, _, *rest = struct.unpack_from("<6Q10I", reply, at)
    atime_ns, mtime_ns, _, mode, nlink, uid, gid, _, _, _ = rest
    times = (mtime * 10**9 + mtime_ns, atime * 10**9 + atime_ns)
    return Attributes(ino, generation, mode, size, nlink, uid, gid, *times, ttl_s)


@pytest.mark.parametrize("name", ["MKDIR", "SYMLINK", "MKNOD", "CREATE"])
def test_an_entry_is_built_as_libfuse_built_it(recorded, name):
    reply = recorded["<", Opcode[name]]
    _, generation, seconds, _, ns, _ = struct.unpack_from("<QQQQII", reply, 16)
    ttl_s = seconds + ns / 1e9
    a = attributes_of(reply, 16 + 40, ttl_s=ttl_s, generation=generation)
    assert stat.S_IFMT(a.mode)
    if name == "CREATE":
        (fh,) = struct.unpack_from("<Q", reply, len(reply) - 16)
        built = reply_messages.build_create_reply(
            unique_of(reply), fh, a, flags=OpenFlag.KEEP_CACHE
        )
    else:
        built = reply_messages.build_entry_reply(unique_of(reply), a)
    assert built == reply


@pytest.mark.parametrize("name", ["GETATTR", "SETATTR"])
def test_attributes_are_built_as_libfuse_built_them(recorded, name):
    reply = recorded["<", Opcode[name]]
    seconds, ns = struct.unpack_from("<QI", reply, 16)
    a = attributes_of(reply, 16 + 16, ttl_s=seconds + ns / 1e9)
    assert reply_messages.build_attr_reply(unique_of(reply), a) == reply


@pytest.mark.parametrize(
    ("ttl_s", "expected"),
    [(0.0, (0, 0)), (0.5, (0, 500_000_000)), (float("inf"), (10**9, 0)), (1e12, (10**9, 0))],
)
def test_a_name_that_does_not_exist_is_cached_as_long_as_its_ttl_says(ttl_s, expected):
    absent = Attributes(0, 0, 0, 0, 0, 0, 0, 0, 0, ttl_s)
    reply = reply_messages.build_entry_reply(6, absent)
    nodeid, _, seconds, _, ns, _ = struct.unpack_from("<QQQQII", reply, 16)
    assert (nodeid, (seconds, ns)) == (0, expected)


def test_times_before_1970_and_parts_of_blocks_are_built():
    a = Attributes(2, 1, stat.S_IFREG, 513, 1, 0, 0, -1, -(10**9) - 1, 1.0)
    reply = reply_messages.build_attr_reply(6, a)
    blocks, atime, mtime, ctime, atime_ns, mtime_ns, _ = struct.unpack_from("<Q3q3I", reply, 48)
    assert (blocks, atime, mtime, ctime) == (2, -2, -1, -1)
    assert (atime_ns, mtime_ns) == (10**9 - 1, 10**9 - 1)


def test_lseek_and_fallocate_are_read(recorded):
    assert request_messages.parse_lseek(recorded[">", Opcode.LSEEK])[1:] == (0, 3)
    assert request_messages.parse_fallocate(recorded[">", Opcode.FALLOCATE])[1:] == (0, 10, 0)
    assert reply_messages.build_lseek_reply(5, 77) == struct.pack("<IiQQ", 24, 0, 5, 77)


@pytest.mark.parametrize("opcode", [Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64])
def test_copy_file_range_is_read_and_answered(recorded, opcode):
    message = recorded[">", Opcode.COPY_FILE_RANGE_64]
    asked = request_messages.parse_copy_file_range(message)
    assert asked[1] == 0
    assert asked[3:] == (0, 3)
    reply = reply_messages.build_copy_file_range_reply(5, 3, opcode=opcode)
    assert reply == struct.pack("<IiQQ", 24, 0, 5, 3)


def test_a_directory_is_built_as_libfuse_built_it(recorded):
    """The recorded one has `.` and `..`."""
    reply = recorded["<", Opcode.READDIRPLUS]
    built, at = reply_messages.DirectoryReply(4096), 16
    for position, name in enumerate((b".", b".."), 1):
        nodeid, generation, seconds, _, ns, _ = struct.unpack_from("<QQQQII", reply, at)
        ttl_s = seconds + ns / 1e9
        a = attributes_of(reply, at + 40, ttl_s=ttl_s, generation=generation)
        assert a.ino == nodeid
        assert built.add(name, a, position)
        at += 160
    assert reply_messages.build_bytes_reply(unique_of(reply), built.entries) == reply


def test_entries_without_an_inode_have_their_number_and_are_aligned():
    a = Attributes(77, 5, stat.S_IFDIR | 0o755, 0, 2, 0, 0, 0, 0, 1.0)
    for name in (b"a", b"bcdefgh", b"eight888", b"x" * 255):
        built = [reply_messages.DirectoryReply(1000) for _ in range(2)]
        assert built[0].add(name, a, 9)
        assert built[1].add(name, a, 9, has_inode=False)
        whole, without = (bytes(reply.entries) for reply in built)
        assert len(whole) % 8 == 0
        assert struct.unpack_from("<QQ", whole) == (77, 5)
        assert without == bytes(16) + whole[16:]
        assert struct.unpack_from("<QQII", without, 128) == (77, 9, len(name), stat.S_IFDIR >> 12)
        assert without[152:].rstrip(b"\0") == name


def test_a_directory_reply_takes_names_until_it_is_full():
    a = Attributes(77, 5, stat.S_IFREG, 0, 1, 0, 0, 0, 0, 1.0)
    reply = reply_messages.DirectoryReply(3 * 160)
    assert [reply.add(b"12345678", a, n) for n in range(1, 5)] == [True, True, True, False]
    assert len(reply.entries) == 3 * 160


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
    offer = negotiation.for_libfuse(init_messages.parse_init(recorded[">", Opcode.INIT]))
    splice = 0b111 << 7
    assert offer.minor == 31
    assert offer.flags & (splice | InitFlag.INIT_EXT) == 0
    assert offer.flags & InitFlag.DO_READDIRPLUS


def test_every_operation_has_a_way_and_a_reason():
    assert set(ROUTES) == set(Opcode)
    assert all(len(route.why) > 10 for route in ROUTES.values())
    assert way(54) is Way.NOT_SUPPORTED
