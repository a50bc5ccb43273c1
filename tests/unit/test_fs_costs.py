"""What each operation costs in requests, beyond the look-ups: they are billed, and take time."""

import os

import pytest

from tests.unit.fs_mount import REWRITE, WRITE_NEW, mount, mounts

__all__ = ["mount", "mounts"]

LARGE = bytes(range(64))


@pytest.fixture
def parts(mounts, tmp_path):
    """Parts of 8 bytes, of which S3 takes no fewer than 4; and a spool."""
    return mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")


def call(mount, coroutine):
    return mount.run(coroutine)


def test_open_and_read_of_a_small_file_is_one(mount):
    mount.put("f", b"data")
    ino = mount.ino("f")
    with mount.requests(GET=1):
        fh = call(mount, mount.fs.files.open(ino, os.O_RDONLY))
        assert mount.read(fh) == b"data"
        mount.close_file(fh)


def test_create_write_and_close_of_a_small_file_is_one_and_exclusively_two(mount):
    for flags, puts in ((WRITE_NEW, 1), (WRITE_NEW | os.O_EXCL, 2)):
        with mount.requests(PUT=puts):
            fh, made = call(mount, mount.fs.files.create(1, f"f{puts}".encode(), flags))
            mount.held.append(made.ino)
            mount.write(fh, b"data")
            mount.close_file(fh)


def test_a_rewrite_is_one(mount):
    mount.put("f", b"data")
    ino = mount.ino("f")
    with mount.requests(PUT=1):
        fh = call(mount, mount.fs.files.open(ino, REWRITE))
        mount.write(fh, b"new")
        mount.close_file(fh)


def test_unlink_is_one(mount):
    mount.put("f", b"data")
    mount.ino("f")
    with mount.requests(DELETE=1):
        call(mount, mount.fs.unlink(1, b"f"))


def test_rename_of_a_file_is_two_over_another_too(mount):
    for name in ("f", "g"):
        mount.put(name, b"data")
        mount.ino(name)
    with mount.requests(COPY=1, DELETE=1):
        call(mount, mount.fs.rename(1, b"f", 1, b"g", may_replace=True))
    with mount.requests(COPY=1, DELETE=1):
        call(mount, mount.fs.rename(1, b"g", 1, b"h", may_replace=False))


def test_an_edit_of_a_small_file_fetches_and_puts_it_once(parts):
    mount = parts
    mount.put("f", b"0123456")
    ino = mount.ino("f")
    with mount.requests(HEAD=2, GET=1, PUT=1):  # the version, and what the new one keeps
        fh = call(mount, mount.fs.files.open(ino, os.O_RDWR))
        for at in range(5):
            mount.write(fh, b"!", at)
        mount.close_file(fh)


def test_many_appends_and_one_close_are_one_upload(parts):
    mount = parts
    mount.put("f", LARGE)
    ino = mount.ino("f")
    with mount.requests(
        HEAD=2, CREATE_UPLOAD=1, UPLOAD_PART_COPY=1, UPLOAD_PART=1, COMPLETE_UPLOAD=1
    ):
        fh = call(mount, mount.fs.files.open(ino, os.O_WRONLY | os.O_APPEND))
        for at in range(7):
            mount.write(fh, b"+", len(LARGE) + at)
        mount.close_file(fh)


def test_a_fork_a_redirect_and_a_second_close_cost_nothing(mount):
    with mount.requests(PUT=1):
        fh = mount.create("f")
        mount.flush(fh)
        mount.flush(fh)
        mount.write(fh, b"data")
        mount.flush(fh)
        mount.flush(fh)
        mount.release(fh)


@pytest.mark.parametrize(("names", "lists"), [(10, 1), (1000, 1), (1001, 2)])
def test_ls_l_of_n_names_is_one_list_for_each_thousand(mount, names, lists):
    for n in range(names):
        mount.put(f"d/{n:04}", b"x")
    directory = mount.ino("d")
    mount.time.now_s += 5
    with mount.requests(LIST=lists):
        fh = call(mount, mount.fs.opendir(directory))
        found = mount.run(mount.entries(fh))
        assert len(found) == names
        for name in found:
            shown = call(mount, mount.fs.lookup(directory, name.encode()))
            mount.held.append(shown.ino)
            call(mount, mount.fs.getattr(shown.ino))
        mount.fs.releasedir(fh)
