"""copy_file_range: what is copied inside S3, what is left to the kernel, and that none is lost.

5 MiB, the least part of S3, is 4 bytes here; parts that are sent have 8, those that are copied 16.
"""

import asyncio
import errno
import os
from contextlib import suppress
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import (
    InvalidRangeError,
    NotCopiedError,
    NotImplementedByStoreError,
    NotWritableError,
    SpoolFullError,
    StaleError,
    StoreUnavailableError,
)
from csi_s3.fs.files.range_copies import MOST_BYTES
from csi_s3.fs.write.copied_ranges import MOST_RANGES, RANGE_BYTES, CopiedRange, CopiedRanges
from csi_s3.fs.write.parallel_upload import PART_BYTES
from csi_s3.s3.store import ObjectInfo
from tests.model.machine import Driver
from tests.unit.fs_mount import Held, fail, mount, mounts
from tests.unit.spool_case import measured_bytes
from tests.unit.test_fs_edit_bytes import sent_bytes

__all__ = ["mount", "mounts"]

DATA = bytes(range(100, 200))
DOWN = StoreUnavailableError("S3 is down")
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@pytest.fixture
def spooled(mounts, tmp_path):
    return of_small_parts(mounts, state_dir=tmp_path / "state")


def of_small_parts(mounts, **more):
    mount = mounts(write_part_bytes=8, min_part_bytes=4, **more)
    mount.store.limits = replace(mount.store.limits, max_copy_part_bytes=16)
    return mount


def cp(mount, old, new, flags=NEW):
    """As cp of coreutils: it asks for as much as there can be, until the end is reached."""
    source, target = mount.open(old), mount.create(new, flags)
    at = 0
    while n := mount.copy_range(source, at, target, at, 1 << 62):
        at += n
    for fh in (source, target):
        mount.close_file(fh)


def test_a_copy_of_a_file_moves_no_byte_of_it(spooled):
    """Promise: copy_file_range to the end of a file, 5 MiB and more from a file that is in S3 as it
    is: S3 copies it, at the time of the call, and no byte of it crosses the network. Anything else
    is read and written.
    """
    mount = spooled
    mount.put("f", DATA)
    moved = sent_bytes(mount.store)
    names = {"HEAD": 3, "LIST": 1, "GET": 1, "PUT": 1}  # look-up, open, O_EXCL; after the copy
    with mount.requests(**names, CREATE_UPLOAD=1, UPLOAD_PART_COPY=7, COMPLETE_UPLOAD=1):
        cp(mount, "f", "g")
    assert mount.data("g") == DATA
    assert moved == {"fetched": len(DATA), "sent": 0}, "open brings a file of up to 1 MiB along"
    assert mount.spool.used_bytes == 0


def test_a_call_takes_a_gibibyte_and_all_of_little_more(mounts, tmp_path):
    mount = of_small_parts(mounts, state_dir=tmp_path / "state")
    mount.fs.files._range_copies.most_bytes = 40
    mount.put("f", DATA[:83])
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 1000) == 40
    assert mount.copy_range(source, 40, target, 40, 1000) == 43, "three bytes are no part"
    assert mount.copy_range(source, 83, target, 83, 1000) == 0
    for fh in (source, target):
        mount.close_file(fh)
    assert mount.data("g") == DATA[:83]
    assert MOST_BYTES == 1 << 30


def test_the_copy_is_what_the_source_was_and_its_end_loses_nothing(spooled):
    """Promise: What copy_file_range has copied is what the source was at the time of the call,
    whatever becomes of the source afterwards.
    """
    mount = spooled
    for change in (mount.delete, lambda key: mount.put(key, b"others")):
        mount.put("f", DATA)
        source, target = mount.open("f"), mount.create("g", os.O_RDWR)
        assert mount.copy_range(source, 10, target, 0, 80) == 80
        change("f")
        mount.write(target, b"and more", 80)
        mount.close_file(target)
        mount.release(source)
        assert mount.data("g") == DATA[10:90] + b"and more"
        mount.delete("g")
        mount.forget_all()


def test_bytes_before_a_copy_that_are_less_than_a_part_take_some_of_it(spooled):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    mount.write(target, b"+")
    moved = sent_bytes(mount.store)
    assert mount.copy_range(source, 5, target, 1, 90) == 3
    assert mount.copy_range(source, 8, target, 4, 87) == 87
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == b"+" + DATA[5:95]
    assert moved == {"fetched": 3, "sent": 4}


def test_a_file_is_appended_to_another(spooled):
    mount = spooled
    mount.put("f", DATA)
    mount.put("g", b"0123456789")
    source, target = mount.open("f"), mount.open("g", os.O_RDWR)
    moved = sent_bytes(mount.store)
    assert mount.copy_range(source, 0, target, 10, 100) == 100
    assert mount.read(target, 5, 10) == b"56789" + DATA[:5]
    moved.clear()
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == b"0123456789" + DATA
    assert not moved


def test_what_is_copied_can_be_read_before_it_is_stored(spooled):
    """Promise: What was copied inside S3 can be read and changed before the file is stored. Once
    its source was replaced or removed, reading it gives ESTALE and changing it ENOSPC until then.
    """
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 20, target, 0, 60) == 60
    assert mount.read(target, 3, 30) == DATA[23:53]
    assert mount.stat("g").size == 60
    mount.write(target, b"!", 20)
    assert mount.read(target) == DATA[20:40] + b"!" + DATA[41:80]
    mount.put("f", b"others")
    assert mount.read(target, 16, 16) == DATA[36:40] + b"!" + DATA[41:52], "that part is here"
    with pytest.raises(StaleError, match="f, from which it was copied, has changed"):
        mount.read(target, 0, 8)
    with pytest.raises(SpoolFullError, match="has changed"):
        mount.write(target, b"?", 0)
    with pytest.raises(SpoolFullError, match="has changed"):
        mount.truncate("g", 10)
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == DATA[20:40] + b"!" + DATA[41:80], "nothing is lost"
    assert mount.spool.used_bytes == 0


@pytest.mark.parametrize("size", [0, 1, 16, 17, 40, 59])
def test_what_is_copied_can_be_cut_and_go_on(spooled, size):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 60) == 60
    mount.truncate("g", size)
    mount.write(target, b"more", size)
    expected = DATA[:size] + b"more"
    at = len(expected)
    while len(expected) < 100:
        try:
            n = mount.copy_range(source, 0, target, at, 100 - at)
        except NotCopiedError:  # as the kernel does
            n = 1
            mount.write(target, mount.read(source, 0, n), at)
        expected, at = expected + DATA[:n], at + n
    assert mount.read(target) == expected
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == expected


def test_a_hole_in_what_was_copied_is_zeros(spooled):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 60) == 60
    mount.fallocate(target, 0x10, 10, 30)
    expected = DATA[:10] + bytes(30) + DATA[40:60]
    assert mount.read(target) == expected
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == expected


def test_a_changed_part_is_sent_in_pieces_of_the_usual_size(spooled):
    """It may be 64 MiB, eight times a part that is sent: it must not be in memory whole."""
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 96) == 96
    mount.write(target, b"!", 40)
    sizes = []
    create = mount.store.create_upload
    upload = next(iter(mount.store.uploads.values()))
    part = upload.part

    async def noted(number, data):
        sizes.append((number, len(data)))
        return await part(number, data)

    upload.part = noted
    mount.close_file(target)
    mount.release(source)
    assert create
    assert sizes == [(5, 8), (6, 8)]
    assert mount.data("g") == DATA[:40] + b"!" + DATA[41:96]


# what the kernel copies


def test_what_is_not_in_s3_as_it_is_is_left_to_the_kernel(spooled):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f", os.O_RDWR), mount.create("g", os.O_RDWR)
    assert NotCopiedError.errno == errno.EOPNOTSUPP
    with mount.requests():
        with pytest.raises(NotCopiedError):
            mount.copy_range(source, 0, target, 7, 50)  # not its end
        with pytest.raises(NotCopiedError):
            mount.copy_range(source, 0, target, 0, 3)  # less than a part
        with pytest.raises(NotCopiedError):
            mount.copy_range(source, 98, target, 0, 50)  # so is what there is
        mount.write(source, b"!", 50)
        with pytest.raises(NotCopiedError):
            mount.copy_range(source, 50, target, 0, 50)  # begins with what is not stored
    assert mount.copy_range(source, 0, target, 0, 100) == 50, "as far as it is stored"
    for fh in (source, target):
        mount.close_file(fh)
    assert mount.data("g") == DATA[:50]


def test_the_errors_are_those_of_a_local_disk(spooled):
    mount = spooled
    mount.put("f", DATA)
    reader, fh = mount.open("f"), mount.open("f", os.O_RDWR)
    with pytest.raises(NotWritableError) as not_open:
        mount.copy_range(fh, 0, reader, 0, 10)
    assert not_open.value.errno == errno.EBADF
    for start, at, n in [(0, 50, 100), (50, 20, 51), (0, 0, 1), (-1, 0, 1), (0, -1, 1)]:
        with pytest.raises(InvalidRangeError) as invalid:
            mount.copy_range(reader, start, fh, at, n)
        assert invalid.value.errno == errno.EINVAL
    assert mount.copy_range(reader, 100, fh, 100, 10) == 0
    assert mount.copy_range(reader, 1000, fh, 0, 10) == 0
    assert mount.copy_range(reader, 0, fh, 100, 0) == 0
    for handle in (reader, fh):
        mount.close_file(handle)


def test_a_range_is_copied_behind_the_end_of_its_own_file(spooled):
    mount = spooled
    mount.put("f", DATA)
    fh = mount.open("f", os.O_RDWR)
    assert mount.copy_range(fh, 10, fh, 100, 50) == 50
    mount.close_file(fh)
    assert mount.data("f") == DATA + DATA[10:60]


def test_a_source_that_another_client_replaced_is_left_to_the_kernel(spooled):
    """Its read then gives ESTALE. What was copied before stays."""
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 40) == 40
    mount.put("f", b"others" * 20)
    with pytest.raises(NotCopiedError, match=r"no longer|changed"):
        mount.copy_range(source, 40, target, 40, 60)
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == DATA[:40]
    assert mount.store.uploads == {}


def test_a_store_that_does_not_compare_the_source_copies_no_mix_of_two_versions(spooled):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    seen = 0

    async def replaced_between(operation, _key):
        nonlocal seen
        seen += operation == "UPLOAD_PART_COPY"
        if operation == "UPLOAD_PART_COPY" and seen == 3:
            etag = mount.store.objects["f"].info.etag
            mount.store.put_now("f", b"others" * 20, etag=etag)  # it looks the same to a copy
        if operation == "HEAD" and seen >= 3:
            mount.store.put_now("f", b"others" * 20)

    mount.store.gate = replaced_between
    with pytest.raises(NotCopiedError, match="no longer"):
        mount.copy_range(source, 0, target, 0, 100)
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == b""
    assert mount.store.uploads == {}


def test_a_store_that_copies_no_parts_is_asked_once(spooled):
    mount = spooled
    mount.put("f", DATA)
    fail(mount.store, "UPLOAD_PART_COPY", NotImplementedByStoreError("501"), times=100)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    with pytest.raises(NotCopiedError):
        mount.copy_range(source, 0, target, 0, 100)
    assert mount.store.uploads == {}
    with mount.requests(), pytest.raises(NotCopiedError):
        mount.copy_range(source, 0, target, 0, 100)
    mount.write(target, DATA)
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == DATA


def test_a_part_that_is_not_copied_leaves_those_before_it(spooled):
    """The upload goes on: a failure of a copy is not one of the file."""
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    seen = 0

    async def third_fails(operation, _key):
        nonlocal seen
        seen += operation == "UPLOAD_PART_COPY"
        if operation == "UPLOAD_PART_COPY" and seen == 3:
            raise DOWN.again()

    mount.store.gate = third_fails
    assert mount.copy_range(source, 0, target, 0, 96) == 32
    mount.write(target, DATA[32:], 32)
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == DATA
    assert mount.store.uploads == {}


def test_a_rename_of_the_target_goes_on_under_its_new_name(spooled):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 40) == 40
    mount.rename("g", "h")
    assert mount.copy_range(source, 40, target, 40, 60) == 60
    mount.close_file(target)
    mount.release(source)
    assert mount.data("h") == DATA
    assert mount.data("g") is None


def test_a_rename_waits_for_a_copy_that_is_under_way(spooled):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    held = Held(mount.store, "UPLOAD_PART_COPY")
    copying = mount.start(mount.fs.files.copy_file_range(source, 0, target, 0, 100))
    mount.settle()
    mount.lookup("g")
    renaming = mount.renaming("g", "h")
    mount.settle()
    assert held.waiting == 7
    assert not renaming.done()
    held.let_go()
    assert mount.wait(copying) == 100
    mount.wait(renaming)
    mount.close_file(target)
    mount.release(source)
    assert mount.data("h") == DATA


def test_a_removed_target_can_still_be_read(spooled, mounts):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 100) == 100
    mount.unlink("g")
    mount.delete("f")
    assert mount.read(target) == DATA, "it was fetched before"
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") is None
    assert mount.store.uploads == {}


# failures of the store: nothing that was accepted is lost


def test_an_upload_that_fails_is_made_again_from_the_source(spooled):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 100) == 100
    mount.store.uploads.clear()  # aborted by a lifecycle rule
    mount.write(target, b"more", 100)
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == DATA + b"more"


def test_a_part_that_cannot_be_sent_fails_one_attempt_only(spooled):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 100) == 100
    mount.write(target, b"more", 100)
    fail(mount.store, "UPLOAD_PART", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(target)
    assert mount.read(target) == DATA + b"more"
    mount.write(target, b"!", 50)
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == DATA[:50] + b"!" + DATA[51:] + b"more"
    assert mount.store.uploads == {}


def test_a_lost_upload_and_a_lost_source_fail_each_store_and_say_so(spooled):
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 0, target, 0, 100) == 100
    mount.store.uploads.clear()
    mount.delete("f")
    for _ in range(2):
        with pytest.raises(StaleError, match="f, from which it was copied, has changed"):
            mount.fsync(target)
    mount.truncate("g", 0)
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == b""


@pytest.mark.warnings_expected(
    r"is kept in .* for the next worker", r"failed again", r"was not uploaded"
)
@pytest.mark.parametrize("is_source_there", [True, False])
def test_a_copy_that_could_not_be_stored_is_kept_for_the_next_worker(spooled, is_source_there):
    """Promise: A copy that could not be stored when its file was closed is stored by the mount's
    next worker if the source is what it was.
    """
    mount = spooled
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    assert mount.copy_range(source, 10, target, 0, 90) == 90
    mount.write(target, b"!", 20)
    mount.write(target, b"more", 90)
    fail(mount.store, "COMPLETE_UPLOAD", DOWN, times=100)
    with pytest.raises(StoreUnavailableError):
        mount.release(target)
    mount.release(source)
    mount.store_works()
    assert mount.data("g") is None
    if not is_source_there:
        mount.put("f", b"others")
    after = mount.restarted()
    after.recover()
    if is_source_there:
        assert after.data("g") == DATA[10:30] + b"!" + DATA[31:] + b"more"
        assert after.spooled() == []
    else:
        assert after.data("g") is None
        assert after.spooled(), "what was written is there for a person"


def test_each_await_of_a_copy_may_be_the_last_of_its_caller(spooled):
    """The kernel's request may be given up at any moment; the file stays whole."""
    for turns in range(0, 40, 3):
        mount = spooled
        mount.put("f", DATA)
        source, target = mount.open("f"), mount.create(f"g{turns}", os.O_RDWR)
        mount.write(target, b"+")
        call = mount.start(mount.fs.files.copy_file_range(source, 0, target, 1, 100))
        for _ in range(turns):
            mount.run(asyncio.sleep(0))
        call.cancel()
        mount.settle()
        size = mount.stat(f"g{turns}").size
        assert mount.read(target) == (b"+" + DATA)[:size]
        mount.close_file(target)
        mount.release(source)
        assert mount.data(f"g{turns}") == (b"+" + DATA)[:size]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["copy", "copy", "write", "truncate", "hole", "fsync", "replace"]),
        st.integers(0, 90),
        st.integers(1, 60),
    ),
    max_size=12,
)


@given(STEPS)
@settings(deadline=None)
def test_what_was_accepted_is_what_is_stored_whatever_becomes_of_the_source(
    tmp_path_factory, steps
):
    state = tmp_path_factory.mktemp("state")
    config = TreeConfig(allow_overwrite=True, write_part_bytes=8)
    mount = Driver(config, state_dir=state, min_part_bytes=4)
    mount.store.limits = replace(mount.store.limits, max_copy_part_bytes=16)
    files, run, plain, data = mount.fs.files, mount.run, bytearray(), DATA
    mount.store.put_now("f", data)
    source, lacks_source = run(opened(mount, "f")), False
    target, made = run(files.create(1, b"g", os.O_RDWR))
    changes = {"write": overwrite, "truncate": truncate, "hole": hole}
    for kind, at, n in steps:
        after = bytearray(plain)
        if kind == "copy":
            with suppress(NotCopiedError):
                copied = run(files.copy_file_range(source, at, target, len(plain), n))
                after += data[at : at + copied]
        elif kind == "fsync":
            run(files.fsync(target))
            assert mount.store.objects["g"].data == plain
            lacks_source = False
        elif kind == "replace":
            data, lacks_source = data[1:] + data[:1], True
            mount.store.put_now("f", data)
            mount.time.now_s += 2
            run(files.release(source))
            source = run(opened(mount, "f"))
        else:
            try:
                run(changes[kind](mount.fs, target, made.ino, after, at, n))
            except SpoolFullError:
                assert lacks_source
                after = plain
        plain = after
        try:
            assert b"".join(run(files.read(target, 0, 1000))) == plain
        except StaleError:
            assert lacks_source
    run(files.release(target))
    run(files.release(source))
    assert mount.store.objects["g"].data == plain
    assert mount.store.uploads == {}
    mount.forget_all()
    mount.close()


async def opened(mount, path):
    try:
        return await mount.kernel.open(path, os.O_RDONLY)
    finally:
        mount.kernel._open.clear()


async def overwrite(fs, fh, _ino, plain, at, n):
    await fs.files.write(fh, at, b"w" * n)
    plain += bytes(max(0, at + n - len(plain)))
    plain[at : at + n] = b"w" * n


async def truncate(fs, _fh, ino, plain, size, _n):
    await fs.setattr(ino, size=size)
    plain[:] = plain[:size].ljust(size, b"\0")


async def hole(fs, fh, _ino, plain, at, n):
    await fs.files.fallocate(fh, 0x3, at, n)
    n = max(0, min(n, len(plain) - at))
    plain[at : at + n] = bytes(n)


# what it takes


def test_ranges_are_counted_and_have_a_bound(mounts, tmp_path):
    mount = of_small_parts(mounts, state_dir=tmp_path / "state")
    mount.put("f", DATA)
    source, target = mount.open("f"), mount.create("g", os.O_RDWR)
    memory = mount.fs._context.memory.accounts
    before = sum(a.used_bytes for kind, a in memory.items() if kind.value == "dirty-files")
    expected = b""
    for n in range(MOST_RANGES):
        at = n % 2 * 50
        assert mount.copy_range(source, at, target, len(expected), 4) == 4
        expected += DATA[at : at + 4]
    with pytest.raises(NotCopiedError):
        mount.copy_range(source, 0, target, len(expected), 4)
    now = sum(a.used_bytes for kind, a in memory.items() if kind.value == "dirty-files")
    counted = MOST_RANGES * (RANGE_BYTES + PART_BYTES)  # the last part with the next event
    assert 0 <= counted - (now - before) <= PART_BYTES
    assert mount.read(target) == expected
    mount.close_file(target)
    mount.release(source)
    assert mount.data("g") == expected


@pytest.mark.parametrize("n", [100, 1000])
def test_a_range_takes_what_is_counted(n):
    source = ObjectInfo(key="f", size=1 << 50, etag='"e"', last_modified=0.0)

    def make():
        ranges = CopiedRanges()
        for i in range(n):
            ranges = ranges.added(CopiedRange(i << 30, (i + 1) << 30, source, i % 2 << 40))
        return ranges

    made, held_bytes = measured_bytes(make)
    assert len(made.ranges) == n
    assert 0.8 <= held_bytes / n / RANGE_BYTES <= 1.05


def test_ranges_that_go_on_are_one():
    source = ObjectInfo(key="f", size=100, etag='"e"', last_modified=0.0)
    ranges = CopiedRanges()
    for at in range(0, 100, 10):
        ranges = ranges.added(CopiedRange(at, at + 10, source, at))
    assert ranges.ranges == (CopiedRange(0, 100, source, 0),)
    assert ranges.cut(30).ranges == (CopiedRange(0, 30, source, 0),)
    assert ranges.covering(20, 30) == [CopiedRange(20, 30, source, 20)]
    assert ranges.covering(90, 101) is None
    assert CopiedRanges.from_json(ranges.to_json()).ranges[0][:2] == (0, 100)


@pytest.mark.parametrize(
    "damaged",
    [[[0, 0, "f", "e", 0]], [[5, 9, "f", "e", -1]], [[0, 9, "f", "e", 0], [8, 10, "f", "e", 0]],
     [[0, "9", "f", "e", 0]], [[0, 9]]],
)  # fmt: skip
def test_a_damaged_record_of_ranges_is_refused(damaged):
    with pytest.raises((ValueError, TypeError)):
        CopiedRanges.from_json(damaged)
