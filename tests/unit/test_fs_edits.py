"""Changes of what is there: append, writes in the middle, truncation, holes; what they move."""

import os
from contextlib import suppress
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import (
    NoDataError,
    NotCopiedError,
    NotPermittedError,
    StaleError,
    StoreUnavailableError,
)
from csi_s3.fs.files.open_files import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
)
from tests.model.machine import Driver
from tests.unit.fs_mount import REWRITE, WRITE_NEW, fail, mount, mounts

__all__ = ["mount", "mounts"]

KEEP, PUNCH, ZERO = FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE

APPEND = os.O_WRONLY | os.O_APPEND
DOWN = StoreUnavailableError("S3 is down")
LARGE = bytes(range(64))


@pytest.fixture
def spooled(mounts, tmp_path):
    """Parts of 8 bytes, of which S3 takes no fewer than 4; and a spool."""
    return mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")


@pytest.mark.parametrize("old", [b"", b"012", b"0123456789", LARGE])
def test_append_writes_in_the_middle_holes_and_truncation_work(spooled, old):
    """Promise: Append, writes in the middle, truncation to any size, sparse files and O_RDWR work,
    on new and on existing objects."""
    mount = spooled
    mount.put("f", old)
    expected = bytearray(old)
    fh = mount.open("f", os.O_RDWR)
    changes = [(len(old), b"+end"), (0, b"B"), (len(old) // 2, b"middle"), (len(old) + 30, b"far")]
    for offset, data in changes:
        mount.write(fh, data, offset)
        expected += bytes(max(0, offset - len(expected)))
        expected[offset : offset + len(data)] = data
        assert mount.read(fh) == expected
        assert mount.stat("f").size == len(expected)
    for size in (len(expected) - 5, len(expected) + 9, 3, 11):
        mount.truncate("f", size)
        expected = expected[:size] + bytes(max(0, size - len(expected)))
        assert mount.read(fh) == expected
    mount.close_file(fh)
    assert mount.data("f") == expected
    assert mount.cat("f") == expected
    assert mount.spooled() == []
    assert mount.store.uploads == {}


# fallocate: the mode, and whether it makes the range zeros, and the file longer
ALLOCATIONS = {
    0: (False, True),
    KEEP: (False, False),
    PUNCH | KEEP: (True, False),
    ZERO: (True, True),
    ZERO | KEEP: (True, False),
}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 70), st.binary(min_size=1, max_size=20)),
        st.tuples(st.just("append"), st.just(0), st.binary(min_size=1, max_size=20)),
        st.tuples(st.just("truncate"), st.integers(0, 70), st.just(b"")),
        st.tuples(st.just("copy"), st.integers(0, 30), st.binary(max_size=20)),
        st.tuples(st.sampled_from(sorted(ALLOCATIONS)), st.integers(0, 70), st.binary(max_size=20)),
        st.tuples(st.just("fsync"), st.just(0), st.just(b"")),
        st.tuples(st.just("flush"), st.just(0), st.just(b"")),
    ),
    max_size=12,
)


def allocate(plain, mode, at, length):
    """What fallocate makes of the bytes of a file."""
    is_zeroed, grows = ALLOCATIONS[mode]
    if grows:
        plain += bytes(max(0, at + length - len(plain)))
    if is_zeroed:
        length = max(0, min(length, len(plain) - at))
        plain[at : at + length] = bytes(length)


def holes(files, fh, size):
    """The offsets in holes, found as programs find them; data and holes take turns."""
    found, at = [], 0
    while at < size:
        try:
            data = files.lseek(fh, at, os.SEEK_DATA)
        except NoDataError:
            return [*found, *range(at, size)]
        found += range(at, data)
        at = files.lseek(fh, data, os.SEEK_HOLE)
        assert data < at <= size
    return found


SIZES = st.tuples(st.sampled_from([4, 8]), st.sampled_from([1, 3]))


@given(st.binary(max_size=50), STEPS, SIZES, st.booleans())
@settings(deadline=None)
def test_a_file_is_what_a_bytearray_would_be(tmp_path_factory, old, steps, sizes, truncates):
    part, least = sizes
    state = tmp_path_factory.mktemp("state")
    config = TreeConfig(allow_overwrite=True, write_part_bytes=part)
    mount = Driver(config, state_dir=state, min_part_bytes=least)
    files, run, plain = mount.fs.files, mount.run, bytearray(old)
    mount.store.limits = replace(mount.store.limits, max_copy_part_bytes=6)
    mount.store.put_now("f", old)
    mount.store.put_now("source", LARGE)
    source = run(files.open(mount.ino("source"), os.O_RDONLY))
    ino = mount.ino("f")
    if truncates:
        plain.clear()
    fh = run(files.open(ino, os.O_RDWR | (os.O_TRUNC if truncates else 0)))
    for kind, at, data in steps:
        if kind in ("write", "append"):
            offset = len(plain) if kind == "append" else at
            run(files.write(fh, offset, data))
            plain += bytes(max(0, offset - len(plain)))
            plain[offset : offset + len(data)] = data
        elif kind == "truncate":
            run(mount.fs.setattr(ino, size=at))
            plain = plain[:at] + bytes(max(0, at - len(plain)))
        elif kind == "copy":
            with suppress(NotCopiedError):
                n = run(files.copy_file_range(source, at, fh, len(plain), len(data)))
                plain += LARGE[at : at + n]
        elif kind in ALLOCATIONS:
            if data:
                run(files.fallocate(fh, kind, at, len(data)))
                allocate(plain, kind, at, len(data))
        else:
            run(getattr(files, kind)(fh))
            if kind == "fsync":
                assert mount.store.objects["f"].data == plain
        assert b"".join(run(files.read(fh, 0, 1000))) == plain
        assert not any(plain[at] for at in holes(files, fh, len(plain)))
    run(files.release(fh))
    run(files.release(source))
    assert mount.store.objects["f"].data == plain
    assert mount.store.uploads == {}
    assert list(state.iterdir()) == []
    mount.forget_all()
    mount.close()


# others


@pytest.mark.parametrize("old", [b"small", LARGE])
@pytest.mark.parametrize("theirs", [b"theirs", LARGE + b"theirs", None])
def test_an_edit_of_what_somebody_replaced_is_stale_and_theirs_stays(spooled, old, theirs):
    mount = spooled
    mount.put("f", old)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"+", len(old))
    if theirs is None:
        mount.delete("f")
    else:
        mount.put("f", theirs)
    with pytest.raises(StaleError, match=r"concurrent modification|replaced or deleted"):
        mount.flush(fh)
    with pytest.raises(StaleError):
        mount.release(fh)
    assert mount.data("f") == theirs
    assert mount.store.uploads == {}
    assert mount.exists("f") == (theirs is not None)


def test_a_read_of_what_somebody_replaced_under_an_edit_is_stale_not_mixed(spooled):
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"+", len(LARGE))
    mount.put("f", bytes(len(LARGE)))
    with pytest.raises(StaleError):
        mount.read(fh)
    with pytest.raises(StaleError):
        mount.release(fh)


def test_without_allow_overwrite_an_edit_is_refused_at_open(mounts):
    mount = mounts(allow_overwrite=False)
    mount.put("f", b"data")
    for flags in (os.O_WRONLY, os.O_RDWR, APPEND):
        with pytest.raises(NotPermittedError, match="allow-overwrite"):
            mount.open("f", flags)


@pytest.mark.parametrize("old", [b"small", LARGE])
@pytest.mark.parametrize("flags", [REWRITE, WRITE_NEW | os.O_EXCL])
def test_a_store_whose_answer_was_lost_is_no_change_by_somebody_else(spooled, old, flags):
    mount = spooled
    if flags & os.O_CREAT:
        fh = mount.create("f", flags)
    else:
        mount.put("f", b"before")
        fh = mount.open("f", flags)
        mount.write(fh, b"once")
        mount.fsync(fh)
        mount.truncate("f", 0)
    mount.write(fh, old + b"+")
    kind = "PUT" if len(old) < 8 else "COMPLETE_UPLOAD"
    fail(mount.store, kind, DOWN, after=True)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    assert mount.data("f") == old + b"+"
    mount.fsync(fh)
    mount.write(fh, b"!", 0)
    mount.close_file(fh)
    assert mount.data("f") == b"!" + old[1:] + b"+"


@pytest.mark.parametrize("theirs", [b"smal!+", b"longer than ours"])
def test_a_lost_answer_hides_no_change_by_somebody_else(spooled, theirs):
    mount = spooled
    mount.put("f", b"small")
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"small+")
    fail(mount.store, "PUT", DOWN, after=True)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    mount.put("f", theirs)
    with pytest.raises(StaleError):
        mount.close_file(fh)
    assert mount.data("f") == theirs
