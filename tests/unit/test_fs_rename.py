"""rename of files: two requests, whole under one name at least, and the handles go on."""

import os

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    ExistsError,
    InvalidNameError,
    IsDirectoryError,
    KeyTooLongError,
    NotDirectoryError,
    NotFoundError,
    NotPermittedError,
    StoreUnavailableError,
)
from csi_s3.fuse.bridge import Bridge
from csi_s3.s3.store import Limits
from tests.unit.fs_mount import REWRITE, WRITE_NEW, Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

EXCLUSIVE = WRITE_NEW | os.O_EXCL
DOWN = StoreUnavailableError("S3 is down")
DENIED = AccessDeniedError("403")
LARGE = bytes(range(64))


def stored(mount):
    return {k: v.data for k, v in mount.store.objects.items()}


def test_a_file_costs_a_copy_and_a_delete(mount):
    """Promise: rename of a file is a copy inside S3 (If-Match on the source) and a delete
    (If-Match, where the store has it); over 5 GiB by parallel part copies. Content type, headers
    and user metadata stay."""
    mount.put("f", b"data", metadata={"who": "them"})
    mount.put("d/there")
    ino = mount.ino("f")
    directory = mount.ino("d")
    with mount.requests(COPY=1, DELETE=1):
        mount.run(mount.fs.rename(1, b"f", directory, b"g", may_replace=True))
    assert stored(mount) == {"d/there": b"", "d/g": b"data"}
    assert mount.store.objects["d/g"].metadata == {"who": "them"}
    assert mount.ino("d/g") == ino
    assert mount.cat("d/g") == b"data"
    with pytest.raises(NotFoundError):
        mount.lookup("f")
    assert mount.ls() == ["d"]
    assert sorted(mount.ls("d")) == ["g", "there"]


def test_a_copy_with_the_etag_of_its_source_is_read_under_its_own_key(mounts, tmp_path):
    """As S3 copies an object of one part."""
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")
    put_now, data = mount.store.put_now, bytes(3 << 20)
    mount.store.put_now = lambda *args, **rest: put_now(*args, **rest, etag='"the same"')
    mount.put("f", data)
    fh = mount.open("f", os.O_RDWR)
    assert mount.read(fh, 0, 10) == data[:10]
    mount.rename("f", "g")
    assert mount.read(fh, 2 << 20, 10) == data[:10]
    mount.write(fh, b"x")
    mount.close_file(fh)
    assert mount.data("g") == b"x" + data[1:]


def test_a_large_file_is_copied_in_parts(mount):
    mount.store.limits = Limits(min_part_bytes=4, max_put_bytes=10, max_copy_part_bytes=8)
    data = bytes(range(20))
    mount.put("f", data, metadata={"who": "them"})
    mount.ino("f")
    with mount.requests(HEAD=1, CREATE_UPLOAD=1, UPLOAD_PART_COPY=3, COMPLETE_UPLOAD=1, DELETE=1):
        mount.run(mount.fs.rename(1, b"f", 1, b"g", may_replace=True))
    assert stored(mount) == {"g": data}
    assert mount.store.objects["g"].metadata == {"who": "them"}


def test_a_large_copy_that_fails_leaves_no_upload(mount):
    mount.store.limits = Limits(max_put_bytes=10)
    mount.put("f", bytes(20))
    fail(mount.store, "UPLOAD_PART_COPY", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.rename("f", "g")
    assert mount.store.uploads == {}
    assert set(stored(mount)) == {"f"}


def test_an_existing_file_is_replaced_at_once(mount):
    """Promise: rename over an existing file replaces it at once; RENAME_NOREPLACE gives EEXIST, by
    If-None-Match; RENAME_EXCHANGE gives EINVAL."""
    mount.put("f", b"new")
    mount.put("g", b"old")
    old = mount.ino("g")
    ino = mount.ino("f")
    with mount.requests(COPY=1, DELETE=1):
        mount.run(mount.fs.rename(1, b"f", 1, b"g", may_replace=True))
    assert stored(mount) == {"g": b"new"}
    assert mount.ino("g") == ino != old
    assert mount.cat("g") == b"new"


def test_noreplace_refuses_what_is_there_and_what_comes_meanwhile(mount):
    mount.put("f", b"ours")
    mount.put("g", b"theirs")
    with pytest.raises(ExistsError):
        mount.rename("f", "g", may_replace=False)
    mount.lookup("f")
    held = Held(mount.store, "COPY")
    renaming = mount.renaming("f", "h", may_replace=False)
    mount.settle()
    mount.put("h", b"theirs too")
    held.let_go()
    with pytest.raises(ExistsError):
        mount.wait(renaming)
    assert stored(mount) == {"f": b"ours", "g": b"theirs", "h": b"theirs too"}
    mount.rename("f", "i", may_replace=False)
    assert mount.cat("i") == b"ours"


@pytest.mark.parametrize("flags", [2, 4])
def test_exchange_is_einval(mount, flags):
    mount.put("f")
    mount.lookup("f")
    with pytest.raises(Exception, match="Invalid argument"):
        mount.run(Bridge(mount.fs).rename(1, b"f", 1, b"g", flags))


def test_kinds_must_agree(mount):
    mount.put("f")
    mount.put("d/x")
    with pytest.raises(IsDirectoryError):
        mount.rename("f", "d")
    with pytest.raises(NotDirectoryError):
        mount.rename("d", "f")


def test_new_names_must_be_possible(mount):
    mount.put("f")
    mount.lookup("f")
    for name, error in ((b"x" * 256, KeyTooLongError), (b"\xff", InvalidNameError)):
        with pytest.raises(error):
            mount.run(mount.fs.rename(1, b"f", 1, name, may_replace=True))
    with pytest.raises(NotFoundError):
        mount.run(mount.fs.rename(1, b"nothing", 1, b"g", may_replace=True))


def test_a_name_onto_itself_does_nothing(mount):
    mount.put("f", b"x")
    mount.lookup("f")
    with mount.requests():
        mount.run(mount.fs.rename(1, b"f", 1, b"f", may_replace=True))


def test_the_guards(mounts):
    """Promise: rename needs `allow-delete`, and `allow-overwrite` only over an existing file."""
    for options in ({"allow_delete": False}, {"allow_overwrite": False}):
        mount = mounts(**options)
        mount.put("f", b"new")
        mount.put("g", b"old")
        with pytest.raises(NotPermittedError, match=r"allow-(delete|overwrite)"):
            mount.rename("f", "g")
        if "allow_overwrite" in options:
            mount.rename("f", "h")
            assert stored(mount) == {"g": b"old", "h": b"new"}
        else:
            with pytest.raises(NotPermittedError, match="allow-delete"):
                mount.rename("f", "h")


def test_a_directory_that_its_last_name_leaves_stays(mount):
    mount.put("d/f", b"x")
    mount.rename("d/f", "g")
    mount.forget_all()
    assert mount.tree() == {"d": None, "g": b"x"}


def test_the_time_of_the_file_stays(mount):
    mount.put("f", b"x")
    before = mount.stat("f").mtime_ns
    mount.time.now_s += 1000
    mount.rename("f", "g")
    assert mount.stat("g").mtime_ns == before


# open files


def test_handles_go_on_under_the_new_name(mounts):
    """Promise: rename works on open files and on files being written: handles keep working under
    the new name. Where another file is replaced, what was written is stored first.
    """
    mount = mounts(write_part_bytes=4)
    mount.put("f", LARGE * 100_000)
    reader, writer = mount.open("f"), mount.create("tmp")
    mount.read(reader, 0, 100)
    mount.write(writer, b"in parts already")
    mount.rename("f", "g")
    mount.rename("tmp", "new")
    assert mount.read(reader, 64 * 90_000, 64) == LARGE
    mount.write(writer, b", and on", 16)
    mount.close_file(writer)
    mount.release(reader)
    assert set(stored(mount)) == {"g", "new"}
    assert mount.data("new") == b"in parts already, and on"
    assert mount.store.uploads == {}


def test_a_read_under_way_goes_on_under_the_new_name(mount):
    mount.put("f", LARGE * 100_000)
    fh = mount.open("f")
    mount.read(fh, 0, 100)
    held = Held(mount.store, "GET")
    reading = mount.start(mount.fs.files.read(fh, 64 * 50_000, 64))
    streaming = mount.start(mount.fs.files.read(fh, 1 << 20, 64))
    mount.settle()
    assert held.waiting > 0
    mount.rename("f", "g")
    held.let_go()
    assert b"".join(mount.wait(reading)) == LARGE
    assert b"".join(mount.wait(streaming)) == LARGE
    mount.release(fh)


@pytest.mark.parametrize("old", [b"", b"old", LARGE])
@pytest.mark.parametrize("flags", [os.O_RDWR, REWRITE, EXCLUSIVE, WRITE_NEW])
def test_a_dirty_file_over_another_is_stored_first(mounts, tmp_path, old, flags):
    """Else what a crash leaves would be neither of the two."""
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")
    mount.put("target", b"precious")
    if flags & os.O_CREAT:
        fh = mount.create("tmp", flags)
    else:
        mount.put("tmp", old)
        fh = mount.open("tmp", flags)
    mount.write(fh, b"written, not flushed")
    mount.rename("tmp", "target")
    written = b"written, not flushed"
    assert mount.data("target") == (written + old[20:] if flags == os.O_RDWR else written)
    mount.write(fh, b"more", 2)
    mount.close_file(fh)
    assert set(stored(mount)) == {"target"}
    assert mount.data("target")[:8] == b"wrmoren,"
    assert mount.store.uploads == {}


def test_a_dirty_file_that_cannot_be_stored_replaces_nothing(mount):
    mount.put("target", b"precious")
    fh = mount.create("tmp")
    mount.write(fh, b"written")
    fail(mount.store, "PUT", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.rename("tmp", "target")
    assert stored(mount) == {"target": b"precious"}
    mount.close_file(fh)
    assert stored(mount) == {"target": b"precious", "tmp": b"written"}


def test_a_file_that_s3_does_not_have_yet_only_changes_its_name(mount):
    fh = mount.create("f")
    mount.write(fh, b"data")
    with mount.requests():
        mount.run(mount.fs.rename(1, b"f", 1, b"g", may_replace=True))
    mount.close_file(fh)
    assert stored(mount) == {"g": b"data"}


def test_a_store_under_way_and_a_rename_take_turns(mount):
    """An fsync during the rename goes to the new name; else it would be lost with the old one."""
    mount.put("f", b"old")
    fh = mount.open("f", REWRITE)
    mount.write(fh, b"one")
    mount.fsync(fh)
    mount.write(fh, b"two", 3)
    mount.lookup("f")
    held = Held(mount.store, "COPY", after=True)
    renaming = mount.renaming("f", "g")
    mount.settle()
    syncing = mount.start(mount.fs.files.fsync(fh))
    mount.settle()
    assert not syncing.done()
    held.let_go()
    mount.wait(renaming)
    mount.wait(syncing)
    assert stored(mount) == {"g": b"onetwo"}
    mount.close_file(fh)


@pytest.mark.parametrize("has_spool", [False, True])
def test_a_stream_goes_on_while_its_file_is_renamed(mounts, tmp_path, has_spool):
    state_dir = tmp_path / "state" if has_spool else None
    mount = mounts(write_part_bytes=4, state_dir=state_dir)
    mount.put("f", b"old")
    fh = mount.open("f", REWRITE)
    mount.write(fh, b"x" * 10)
    mount.fsync(fh)
    mount.write(fh, b"y" * 10, 10)
    mount.lookup("f")
    held = Held(mount.store, "COPY")
    renaming = mount.renaming("f", "g")
    mount.settle()
    writing = mount.start(mount.fs.files.write(fh, 20, b"z" * 20))
    mount.settle()
    held.let_go()
    mount.wait(renaming)
    mount.wait(writing)
    mount.close_file(fh)
    assert stored(mount) == {"g": b"x" * 10 + b"y" * 10 + b"z" * 20}
    assert mount.store.uploads == {}


def test_a_rename_over_an_open_file_leaves_its_handles_what_unlink_does(mounts, tmp_path):
    """Promise: After a rename over an open file, its handles behave as after unlink."""
    mount = mounts(state_dir=tmp_path / "state")
    mount.put("old", LARGE * 100_000)
    mount.put("new", b"new")
    reader, writer = mount.open("old"), mount.create("dirty", os.O_RDWR)
    mount.write(writer, b"never stored")
    mount.rename("new", "old")
    mount.rename("old", "dirty")
    assert mount.read(reader, 64 * 90_000, 64) == LARGE
    mount.write(writer, b"!", 0)
    assert mount.read(writer) == b"!ever stored"
    mount.close_file(writer)
    mount.release(reader)
    assert stored(mount) == {"dirty": b"new"}
    assert mount.spooled() == []
